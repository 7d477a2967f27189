"""The state machine as a table: each phase, what it waits for, and what follows."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import msgspec.structs
import pytest

from meshctl.errors import Refused
from meshctl.pki import rotation as machine
from meshctl.pki.rotation import Confirmation, HostProgress, Phase, Rotation
from proxy.model.codec import decode, encode_readable
from proxy.model.names import HostName

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
A, B = HostName("a"), HostName("b")
HOSTS = (A, B)
ORDER = (
    Phase.PREPARE,
    Phase.DISTRIBUTE,
    Phase.SWITCH,
    Phase.REISSUE,
    Phase.PROVE,
    Phase.RETIRE,
)
NEEDS = {
    Phase.PREPARE: set(),
    Phase.DISTRIBUTE: {Confirmation.TRUSTS},
    Phase.SWITCH: set(),
    Phase.REISSUE: {Confirmation.SERVES},
    Phase.PROVE: {Confirmation.TRUSTS, Confirmation.SERVES},
    Phase.RETIRE: {Confirmation.TRUSTS, Confirmation.SERVES, Confirmation.RETIRED},
}


def at(phase: Phase, *confirmations: Confirmation, hosts: tuple[HostName, ...] = HOSTS) -> Rotation:
    rotation = msgspec.structs.replace(machine.begin("old", NOW), phase=phase)
    for host in hosts:
        for what in confirmations:
            rotation = machine.confirm(rotation, host, what, NOW)
    return rotation


@pytest.mark.parametrize(("phase", "following"), list(pairwise(ORDER)))
def test_a_phase_is_followed_by_the_next_once_every_host_confirmed(
    phase: Phase, following: Phase
) -> None:
    rotation = machine.advance(at(phase, *NEEDS[phase]), HOSTS, LATER)
    assert rotation.phase is following
    assert rotation.since == "2026-05-01T12:05:00Z"
    assert rotation.started == "2026-05-01T12:00:00Z"


@pytest.mark.parametrize(
    ("phase", "what"), [(phase, what) for phase, needed in NEEDS.items() for what in needed]
)
def test_one_host_without_one_confirmation_holds_a_phase_up(
    phase: Phase, what: Confirmation
) -> None:
    rotation = machine.withdraw(at(phase, *NEEDS[phase]), B, what)
    assert machine.missing(rotation, HOSTS) == (B,)
    if phase is not Phase.RETIRE:
        with pytest.raises(Refused, match=f"{phase} is not over: b did not confirm"):
            machine.advance(rotation, HOSTS, LATER)
    # Out of the inventory, it is not waited for.
    assert machine.missing(rotation, (A,)) == ()


@pytest.mark.parametrize("phase", ORDER)
def test_only_what_a_phase_needs_is_waited_for(phase: Phase) -> None:
    assert machine.missing(at(phase, *NEEDS[phase]), HOSTS) == ()


@pytest.mark.parametrize("phase", [Phase.RETIRE, Phase.ABORT])
def test_nothing_follows_the_last_phases(phase: Phase) -> None:
    with pytest.raises(Refused, match="nothing follows"):
        machine.advance(at(phase, *Confirmation), HOSTS, LATER)


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.DISTRIBUTE, Phase.ABORT])
def test_there_is_a_way_back_before_the_switch(phase: Phase) -> None:
    assert machine.abort(at(phase), LATER).phase is Phase.ABORT


@pytest.mark.parametrize("phase", [Phase.SWITCH, Phase.REISSUE, Phase.PROVE, Phase.RETIRE])
def test_there_is_none_from_the_switch_on(phase: Phase) -> None:
    with pytest.raises(Refused, match="no way back") as caught:
        machine.abort(at(phase), LATER)
    assert "meshctl certs rotate root" in caught.value.hint


def test_the_old_root_is_kept_for_twice_the_life_of_a_leaf() -> None:
    rotation = machine.scheduled(at(Phase.REISSUE), NOW, 3600)
    assert rotation.retire_after == "2026-05-01T14:00:00Z"
    assert not machine.is_due(rotation, NOW + timedelta(seconds=7199))
    assert machine.is_due(rotation, NOW + timedelta(seconds=7200))


def test_without_a_schedule_it_is_never_due() -> None:
    assert not machine.is_due(at(Phase.RETIRE), NOW + timedelta(days=10_000))


def test_confirmations_of_one_host_do_not_touch_anothers() -> None:
    rotation = machine.confirm(at(Phase.DISTRIBUTE), A, Confirmation.TRUSTS, NOW)
    rotation = machine.confirm(rotation, A, Confirmation.SERVES, LATER)
    assert rotation.hosts == {
        A: HostProgress(trusts="2026-05-01T12:00:00Z", serves="2026-05-01T12:05:00Z")
    }
    assert not machine.has_confirmed(rotation, B, Confirmation.TRUSTS)


def test_it_is_the_same_after_it_was_written_and_read() -> None:
    rotation = machine.scheduled(at(Phase.PROVE, *Confirmation), NOW, 60)
    assert decode(encode_readable(rotation), Rotation) == rotation
