"""Whether a published policy snapshot is put in force.

Who publishes is not trusted, but who signs: where policy keys are configured, nothing of a snapshot
is looked at before its signature is found good. A signature alone would let an old one be played
back, so the generation in force only ever goes up.
"""

from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import TypeAlias

from proxy.core.soundness import pieces
from proxy.core.verification import Unverified, verifying
from proxy.model.codec import Malformed
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Snapshot
from proxy.model.policy_keys import PolicyTrust
from proxy.model.signed import Kind, open_envelope
from proxy.model.snapshot import Unpacked, unpacking

MAX_REASON = 300
"""Characters of a refusal: it travels in a check's output, which Consul cuts at 4 KiB."""

_SIGNED = b"meshctl-"
_DECODED_AT_ONCE = 25
"""Services: below a millisecond, so that requests hardly notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    snapshot: Snapshot | None
    """In force from now on; None: there has never been one."""
    refused: str = ""
    """Why the published one was not taken; a sentence."""


Judging: TypeAlias = Generator[None, None, Verdict]
"""Each ``next`` is a short piece of work, some milliseconds at most even for a large policy; its
``StopIteration`` has the verdict."""


def judge(
    current: Snapshot | None,
    published: bytes | None,
    trust_domain: TrustDomain,
    uses: Collection[ServiceName] | None = None,
    trust: PolicyTrust | None = None,
) -> Verdict:
    """``judging``, all at once."""
    work = judging(current, published, trust_domain, uses, trust)
    while True:
        try:
            next(work)
        except StopIteration as done:
            verdict: Verdict = done.value
            return verdict


def judging(
    current: Snapshot | None,
    published: bytes | None,
    trust_domain: TrustDomain,
    uses: Collection[ServiceName] | None = None,
    trust: PolicyTrust | None = None,
) -> Judging:
    """The last good snapshot stays unless the published one is signed, sound and newer.

    ``trust`` None: whatever lies in the registry is believed, signed or not.

    ``published`` None: nothing is published. After a wiped Consul that is no reason to fall back
    to defaults, so the current one stays.

    ``uses`` are the services that this proxy calls or carries: the snapshot put in force has
    their policy only, whatever the size of the mesh, and only theirs is held against all of the
    rules; of the others it is seen that they can be decoded. None: all.
    """
    if published is None:
        return Verdict(snapshot=current)
    try:
        if trust is not None:
            published = yield from verifying(Kind.POLICY, published, trust)
        elif published.startswith(_SIGNED):
            published = open_envelope(Kind.POLICY, published).content
        text = yield from unpacking(published)
        yield
        whole = yield from Unpacked.opening(text)
        new = yield from _part(whole, uses)
    except Unverified as error:
        return _refuse(current, f"the published policy cannot be verified: {error}")
    except Malformed as error:
        return _refuse(current, f"the published policy cannot be read: {error}")
    if new.trust_domain != trust_domain:
        return _refuse(
            current,
            f"the published policy is for trust domain {new.trust_domain!r}, not {trust_domain!r}",
        )
    if new.generation < 1:
        return _refuse(current, f"generation {new.generation} is not valid: the first is 1")
    if current is not None and new.generation < current.generation and _is_same(new, current):
        # A wiped registry, and the same mesh.yaml published again. The number stays what it was:
        # were it lowered, everything published between the two could be played back.
        return Verdict(snapshot=_numbered(new, current))
    if trust is not None and new.generation < trust.minimum_generation:
        return _refuse(
            current,
            f"generation {new.generation} is older than this proxy: "
            f"publish a generation of {trust.minimum_generation} or above",
        )
    left_out = frozenset(whole.names) - new.policy.services.keys()
    for findings in pieces(new.policy, left_out=left_out):
        wrong = next(findings, None)
        if wrong is not None:
            reason = f"the published policy is not sound: {wrong.violation()}"
            return _refuse(current, reason)
        yield
    if current is None or new.generation > current.generation or _is_same(new, current):
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


def _part(whole: Unpacked, uses: Collection[ServiceName] | None) -> Generator[None, None, Snapshot]:
    services: dict[ServiceName, ServicePolicy] = {}
    for number, name in enumerate(whole.names, start=1):
        service = whole.service(name)
        if uses is None or name in uses:
            services[name] = service
        if number % _DECODED_AT_ONCE == 0:
            yield
    return whole.snapshot(services)


def _numbered(new: Snapshot, current: Snapshot) -> Snapshot:
    """``new``, which says the same, under the number in force; its part may be another one, as
    this proxy may have come to use other services."""
    return Snapshot(
        generation=current.generation,
        trust_domain=current.trust_domain,
        policy=new.policy,
        cut_denied=current.cut_denied,
        digest=new.digest,
    )


def _is_same(new: Snapshot, current: Snapshot) -> bool:
    """Whether they were the same policy when they were published."""
    if new.digest and current.digest:
        return new.digest == current.digest
    # On disk since a release that kept all of it and noted no digest.
    kept = {n: p for n, p in current.policy.services.items() if n in new.policy.services}
    return new.policy == Policy(defaults=current.policy.defaults, services=kept)


def _refuse(current: Snapshot | None, reason: str) -> Verdict:
    return Verdict(snapshot=current, refused=reason[:MAX_REASON])
