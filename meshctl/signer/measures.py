"""What a signer counts, for Prometheus."""

from datetime import UTC, datetime

from meshctl.signer.decision import Code
from proxy.core.metrics import Metrics


class Measures:
    """The metrics of the process; series are found once."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.signed = self.metrics.counter(
            "mesh_signer_certificates_total", "Leaves signed."
        ).labels()
        self.refused = self.metrics.counter(
            "mesh_signer_refusals_total", "Requests refused, by reason.", ("code",)
        )
        for code in Code:
            self.refused.labels(code)  # a series that is 0 can be alerted on
        self.handshakes_failed = self.metrics.counter(
            "mesh_signer_handshake_failures_total",
            "Connections that ended before they were trusted.",
        ).labels()
        self.turned_away = self.metrics.counter(
            "mesh_signer_connections_refused_total", "Connections closed at once: too many."
        ).labels()
        self.connections = self.metrics.gauge(
            "mesh_signer_connections", "Connections open."
        ).labels()
        self.not_after = self.metrics.gauge(
            "mesh_signer_not_after_seconds", "Unix time at which the signer's certificate ends."
        ).labels()
        self.reload_failed = self.metrics.gauge(
            "mesh_signer_reload_failed", "1 while the last reload changed nothing."
        ).labels()

    @property
    def refusals(self) -> int:
        """Of all reasons."""
        return int(sum(self.refused.labels(code).value for code in Code))

    def ends_at(self, not_after: str) -> None:
        """RFC 3339."""
        self.not_after.value = datetime.fromisoformat(not_after).astimezone(UTC).timestamp()
