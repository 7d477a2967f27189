"""Whether a published policy snapshot is put in force."""

from dataclasses import dataclass

from proxy.model.codec import Malformed, decode
from proxy.model.names import TrustDomain
from proxy.model.policy import Snapshot

MAX_REASON = 300
"""Characters of a refusal: it travels in a check's output, which Consul cuts at 4 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    snapshot: Snapshot | None
    """In force from now on; None: there has never been one."""
    refused: str = ""
    """Why the published one was not taken; a sentence."""


def judge(current: Snapshot | None, published: bytes | None, trust_domain: TrustDomain) -> Verdict:
    """The last good snapshot stays unless the published one is sound and newer.

    ``published`` None: nothing is published. After a wiped Consul that is no reason to fall back
    to defaults, so the current one stays.
    """
    if published is None:
        return Verdict(snapshot=current)
    try:
        new = decode(published, Snapshot)
    except Malformed as error:
        return _refuse(current, f"the published policy cannot be read: {error}")
    if new.trust_domain != trust_domain:
        return _refuse(
            current,
            f"the published policy is for trust domain {new.trust_domain!r}, not {trust_domain!r}",
        )
    if new.generation < 1:
        return _refuse(current, f"generation {new.generation} is not valid: the first is 1")
    fault = _fault(new)
    if fault:
        return _refuse(current, fault)
    if current is None or new == current or new.generation > current.generation:
        return Verdict(snapshot=new)
    if new.policy == current.policy:
        # A wiped Consul, and the same mesh.yaml published again: nothing changes but the number,
        # and refusing it would refuse everything published afterwards.
        return Verdict(snapshot=new)
    if new.generation == current.generation:
        return _refuse(
            current,
            f"generation {new.generation} was published twice with different policies; "
            f"publish a generation above {current.generation}",
        )
    return _refuse(
        current,
        f"generation {new.generation} is older than {current.generation} in force; "
        f"publish a generation above {current.generation}",
    )


def _fault(snapshot: Snapshot) -> str:
    """The decoder accepts any number; a time that is negative or not finite is a fault."""
    policy = snapshot.policy
    named = [("defaults", policy.defaults), *((str(k), v) for k, v in policy.services.items())]
    for name, service in named:
        timeouts = service.timeouts
        for field in timeouts.__struct_fields__:
            value: float = getattr(timeouts, field)
            is_optional = field == "request_s"
            if not (0 <= value <= 10**9) or (value == 0 and not is_optional):
                return f"{name}.timeouts.{field} is {value}, not a positive number of seconds"
    return ""


def _refuse(current: Snapshot | None, reason: str) -> Verdict:
    return Verdict(snapshot=current, refused=reason[:MAX_REASON])
