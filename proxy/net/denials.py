"""Every call that authorization refuses leaves a trace: a count by policy, and a log line.

Callers choose how often it happens, so lines are bounded and what is left out is counted.
"""

import logging
from typing import Final

from proxy.core.authorization import Decision
from proxy.http.head import RequestHead
from proxy.http.ledger import BoundedLog
from proxy.model.names import ServiceName
from proxy.net.dataplane_metrics import DataPlaneMetrics

_PATH_BYTES: Final = 200
_REQUEST_ID: Final = b"x-request-id: "

_log = logging.getLogger(__name__)


class Denials:
    """Of one called service."""

    def __init__(self, service: ServiceName, metrics: DataPlaneMetrics) -> None:
        self._service, self._metrics = service, metrics
        self._bounded = BoundedLog()

    def denied(
        self,
        caller: ServiceName,
        decision: Decision,
        now: float,
        head: RequestHead | None = None,
        *,
        is_cut: bool = False,
    ) -> None:
        """``head`` None: a TCP session. ``now``: monotonic seconds. ``is_cut``: it was let in, and
        is ended by a policy that came later."""
        self._metrics.denials.labels(caller, self._service, decision.policy).value += 1
        what = "call denied and cut" if is_cut else "call denied"
        self._say(what, caller, decision.policy, decision.why, now, head)

    def audited(
        self, caller: ServiceName, decision: Decision, now: float, head: RequestHead | None = None
    ) -> None:
        """Audit intentions would have decided otherwise than it was decided."""
        for policy in decision.audited:
            self._metrics.audited.labels(caller, self._service, policy).value += 1
            why = "it would be denied" if decision.is_allowed else "it would be allowed"
            self._say("call audited", caller, policy, why, now, head)

    def _say(
        self,
        what: str,
        caller: ServiceName,
        policy: str,
        why: str,
        now: float,
        head: RequestHead | None,
    ) -> None:
        if not self._bounded.may(now):
            return
        fields: dict[str, object] = {
            "caller": caller,
            "service": self._service,
            "policy": policy,
            "why": why,
        }
        if head is not None:
            fields["method"] = head.method
            fields["path"] = head.target.partition(b"?")[0][:_PATH_BYTES]
            fields["request_id"] = next(
                (line[len(_REQUEST_ID) :] for line in head.lines if line.startswith(_REQUEST_ID)),
                b"",
            )
        _log.warning(what, extra=fields | self._bounded.left_out())
