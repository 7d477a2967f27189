"""Who renews identities, and whether that works: signers, and what proxies say of their renewals.

Pure. A finding that ends identities within days is a problem; the rest are warnings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from meshctl.facts.model import HostFacts, Renewal
from meshctl.finding import Finding, problem, warning
from meshctl.inventory.model import Host
from meshctl.layout import SIGNER_UNIT
from proxy.model.names import HostName, ServiceName
from proxy.model.status import IdentityStatus

EXPIRY_PROBLEM = timedelta(days=7)
"""A certificate this close to its end is a problem, unless its whole life is short or somebody
renews it (linkerd2#9612)."""
EXPIRY_WARNING = timedelta(days=60)
"""For a CA (Linkerd)."""
EXPIRY_SHARE = 1 / 3
"""Of a short-lived leaf's life."""
OVERDUE_SHARE = 0.1
"""Of the life of a leaf that its proxy renews by itself: at 90 % it should have done so."""
_BACKDATE = timedelta(minutes=1)
"""``pki.authority.BACKDATE_S``: no part of a leaf's life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerView:
    host: HostName
    address: str
    state: str
    """``ready``, ``silent``, ``stopped``, ``absent``, ``unreachable``."""
    serial: str = ""
    not_after: str = ""
    """Of its certificate, RFC 3339; empty: it has none, or nobody knows."""
    signed: int | None = None
    """Since it started, as ``refused``; None: it does not say."""
    refused: int | None = None


def signer_view(host: Host, facts: HostFacts | None) -> SignerView:
    if facts is None:
        return SignerView(host=host.name, address=host.address, state="unreachable")
    running, unit = facts.signer, facts.unit(SIGNER_UNIT)
    if running is not None:
        state = "ready"
    elif not facts.seen.signer.release:
        state = "absent"
    else:
        state = "silent" if unit is not None and unit.is_active else "stopped"
    ca = running.signer if running is not None else facts.signer_keys.signer
    return SignerView(
        host=host.name,
        address=host.address,
        state=state,
        serial=ca.serial if ca else "",
        not_after=ca.not_after if ca else "",
        signed=running.signed if running else None,
        refused=running.refused if running else None,
    )


def signer_findings(host: Host, facts: HostFacts, now: datetime) -> Iterator[Finding]:
    """Of a host that is to run a signer and was asked."""
    name, again = str(host.name), f"meshctl deploy --limit {host.name}"
    view = signer_view(host, facts)
    if view.state == "absent":
        yield problem(name, "no signer is installed on it", again)
        return
    if view.state != "ready":
        yield problem(
            name,
            "its signer does not answer: identities are renewed by the others only, if there are"
            " any",
            f"on {name}: journalctl -u {SIGNER_UNIT}; then {again}",
        )
    unit = facts.unit(SIGNER_UNIT)
    if unit is None or unit.enabled != "enabled":
        yield problem(name, "its signer would not start at boot", again)
    if facts.signer is not None and facts.signer.reload_error:
        yield problem(
            name, f"its signer goes on with older files: {facts.signer.reload_error}", again
        )
    if view.not_after:
        end = datetime.fromisoformat(view.not_after)
        if now >= end:
            yield problem(name, f"its signer's certificate ended on {view.not_after}", again)
        elif end - now < EXPIRY_PROBLEM:
            yield problem(name, f"its signer's certificate ends on {view.not_after}", again)
        elif end - now < EXPIRY_WARNING:
            yield warning(name, f"its signer's certificate ends on {view.not_after}", again)


def renewal_of(facts: HostFacts, service: ServiceName) -> Renewal | None:
    """What the host's proxy says of how it renews that identity; None: it does not."""
    if facts.proxy is None:
        return None
    return next((own.renewal for own in facts.proxy.workloads if own.service == service), None)


def renewal_findings(
    subject: str, host: HostName, service: ServiceName, renewal: Renewal
) -> Iterator[Finding]:
    by_hand = f"meshctl certs rotate --host {host} --service {service}"
    if renewal.is_revoked:
        yield problem(
            subject,
            f"the signers refuse to renew its certificate: {renewal.last_error or 'no reason'}",
            f"meshctl deploy, so that they know it belongs there; then {by_hand}",
        )
    elif renewal.failures:
        yield warning(
            subject,
            f"its certificate could not be renewed {renewal.failures} time(s):"
            f" {renewal.last_error}",
            f"its proxy tries again by itself; see the signers above, or {by_hand}",
        )


def leaf_fault(
    identity: IdentityStatus, expected: str, now: datetime, *, is_renewed: bool = False
) -> str:
    """What is wrong with a leaf; empty: nothing for now. ``is_renewed``: its proxy renews it by
    itself, as far as anybody knows."""
    if identity.spiffe_id != expected:
        return f"its certificate is for {identity.spiffe_id}"
    begin = datetime.fromisoformat(identity.not_before)
    end = datetime.fromisoformat(identity.not_after)
    if now >= end:
        return f"its certificate ended on {identity.not_after}"
    if now < begin:
        return f"its certificate is not valid before {identity.not_before}"
    if is_renewed:
        if end - now < (end - begin - _BACKDATE) * OVERDUE_SHARE:
            return f"its certificate ends on {identity.not_after} and should be renewed by now"
    elif end - now < min(EXPIRY_PROBLEM, (end - begin) * EXPIRY_SHARE):
        return f"its certificate ends on {identity.not_after}"
    return ""
