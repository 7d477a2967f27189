"""The rotation of the root as a state machine: which phase comes next, and what holds it up.

``Rotation`` is what ``rotation.json`` in the state directory holds. A phase is written down before
its work begins, and its work is harmless to repeat; so whoever comes after an interruption does
the phase that stands there. Pure: the time is an argument, and nothing here asks a host.

    prepare     a new root and issuing CA; nobody knows of them
    distribute  every host trusts the old root and the new
    switch      the new issuing CA signs, and so do the signers' new ones
    reissue     every leaf anew
    prove       every host serves leaves under the new root, and trusts it
    retire      no host trusts the old root; its key is deleted
    abort       back to the old root alone, from prepare or distribute
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

import msgspec.structs

from meshctl.errors import Refused
from proxy.model.codec import Value
from proxy.model.names import HostName

ROTATION_FILE = "rotation.json"
KEPT_LIVES = 2
"""The old root stays for twice the life of a leaf after all were issued anew (Consul)."""
AGAIN = "meshctl certs rotate root"


class Phase(StrEnum):
    PREPARE = "prepare"
    DISTRIBUTE = "distribute"
    SWITCH = "switch"
    REISSUE = "reissue"
    PROVE = "prove"
    RETIRE = "retire"
    ABORT = "abort"


class Confirmation(StrEnum):
    """What a host has shown, on the wire."""

    TRUSTS = "trusts"
    """It takes a certificate under the new root."""
    SERVES = "serves"
    """Each of its workloads serves a leaf under the new root."""
    RETIRED = "retired"
    """It refuses a certificate under the old root."""


class HostProgress(Value, frozen=True, kw_only=True):
    """When a host confirmed what: RFC 3339, UTC; empty: not yet."""

    trusts: str = ""
    serves: str = ""
    retired: str = ""


class Rotation(Value, frozen=True, kw_only=True):
    """``rotation.json``."""

    version: Literal[1] = 1
    phase: Phase
    started: str
    since: str
    """When ``phase`` began."""
    old_root: str
    """SHA-256 of the DER, lower-case hex."""
    new_root: str = ""
    """Empty in ``prepare``."""
    retire_after: str = ""
    """RFC 3339, UTC; empty before ``prove`` has ended."""
    hosts: dict[HostName, HostProgress] = {}


_NEXT: dict[Phase, Phase] = {
    Phase.PREPARE: Phase.DISTRIBUTE,
    Phase.DISTRIBUTE: Phase.SWITCH,
    Phase.SWITCH: Phase.REISSUE,
    Phase.REISSUE: Phase.PROVE,
    Phase.PROVE: Phase.RETIRE,
}
_NEEDED: dict[Phase, tuple[Confirmation, ...]] = {
    Phase.DISTRIBUTE: (Confirmation.TRUSTS,),
    Phase.REISSUE: (Confirmation.SERVES,),
    Phase.PROVE: (Confirmation.TRUSTS, Confirmation.SERVES),
    Phase.RETIRE: (Confirmation.TRUSTS, Confirmation.SERVES, Confirmation.RETIRED),
}
"""Of every host, before the phase is over."""


def begin(old_root: str, now: datetime) -> Rotation:
    moment = text(now)
    return Rotation(phase=Phase.PREPARE, started=moment, since=moment, old_root=old_root)


def prepared(rotation: Rotation, new_root: str) -> Rotation:
    """The new root exists."""
    return msgspec.structs.replace(rotation, new_root=new_root)


def confirm(rotation: Rotation, host: HostName, what: Confirmation, now: datetime) -> Rotation:
    return _mark(rotation, host, what, text(now))


def withdraw(rotation: Rotation, host: HostName, what: Confirmation) -> Rotation:
    """What a host confirmed once does not hold any more."""
    return _mark(rotation, host, what, "")


def has_confirmed(rotation: Rotation, host: HostName, what: Confirmation) -> bool:
    return bool(getattr(rotation.hosts.get(host, HostProgress()), what))


def missing(rotation: Rotation, hosts: Iterable[HostName]) -> tuple[HostName, ...]:
    """Which of ``hosts`` keep the phase from being over."""
    needed = _NEEDED.get(rotation.phase, ())
    return tuple(
        host for host in hosts if not all(has_confirmed(rotation, host, what) for what in needed)
    )


def advance(rotation: Rotation, hosts: Iterable[HostName], now: datetime) -> Rotation:
    """The next phase. Raises Refused while a host has not confirmed, and from the last one."""
    late = missing(rotation, hosts)
    if late:
        raise Refused(f"{rotation.phase} is not over: {', '.join(late)} did not confirm")
    if rotation.phase not in _NEXT:
        raise Refused(f"nothing follows {rotation.phase}")
    return msgspec.structs.replace(rotation, phase=_NEXT[rotation.phase], since=text(now))


def scheduled(rotation: Rotation, now: datetime, leaf_life_s: float) -> Rotation:
    """All leaves are new as of ``now``: when the old root may go."""
    after = now + timedelta(seconds=KEPT_LIVES * leaf_life_s)
    return msgspec.structs.replace(rotation, retire_after=text(after))


def is_due(rotation: Rotation, now: datetime) -> bool:
    """Whether the old root has been kept long enough."""
    after = rotation.retire_after
    return bool(after) and now >= datetime.fromisoformat(after)


def abort(rotation: Rotation, now: datetime) -> Rotation:
    """Raises Refused once something may be signed under the new root."""
    if rotation.phase is Phase.ABORT:
        return rotation
    if rotation.phase not in (Phase.PREPARE, Phase.DISTRIBUTE):
        raise Refused(
            f"the rotation of the root is at {rotation.phase}: the new root signs already,"
            " and there is no way back",
            hint=f"finish it: {AGAIN}; after that, the same command makes another root",
        )
    return msgspec.structs.replace(rotation, phase=Phase.ABORT, since=text(now))


def switched(old_root: str, new_root: str, now: datetime) -> Rotation:
    """A rotation that begins in the middle: the old root has ended, so that nobody could be asked
    to trust both. Every leaf is to be issued anew."""
    moment = text(now)
    return Rotation(
        phase=Phase.REISSUE, started=moment, since=moment, old_root=old_root, new_root=new_root
    )


def text(moment: datetime) -> str:
    """RFC 3339, UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _mark(rotation: Rotation, host: HostName, what: Confirmation, moment: str) -> Rotation:
    before = rotation.hosts.get(host, HostProgress())
    changed = msgspec.structs.replace(before, **{what.value: moment})
    return msgspec.structs.replace(rotation, hosts={**rotation.hosts, host: changed})
