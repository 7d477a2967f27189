"""When the proxy sheds, and that it does not do so by turns."""

import pytest

from proxy.core.overload import Overload
from proxy.model.settings import Capacity

MIB = 1024 * 1024


def overload() -> Overload:
    return Overload(Capacity(connections=100, memory_bytes=200 * MIB))


@pytest.mark.parametrize(
    ("open_now", "admitted"),
    [
        ((0, 99), (True, True)),
        ((100,), (False,)),
        ((99, 100, 99, 90, 89, 99), (True, False, False, False, True, True)),
        ((150, 95, 80), (False, False, True)),
    ],
)
def test_connections_are_refused_from_the_cap_until_a_tenth_has_gone(
    open_now: tuple[int, ...], admitted: tuple[bool, ...]
) -> None:
    of = overload()
    assert tuple(of.admits(connections) for connections in open_now) == admitted
    assert of.is_full is not admitted[-1]


@pytest.mark.parametrize(
    ("rss_mib", "states"),
    [
        ((10, 200), (False, False)),
        ((201,), (True,)),
        ((201, 199, 181, 180, 199), (True, True, True, False, False)),
        ((500, 100, 500), (True, False, True)),
    ],
)
def test_requests_are_refused_above_the_memory_cap_until_a_tenth_is_free(
    rss_mib: tuple[int, ...], states: tuple[bool, ...]
) -> None:
    of = overload()
    before = False
    for rss, state in zip(rss_mib, states, strict=True):
        assert of.observe_memory(rss * MIB) is (state is not before)
        assert of.is_out_of_memory is state
        before = state


def test_the_two_are_independent() -> None:
    of = overload()
    of.observe_memory(1000 * MIB)
    assert of.admits(0)
    assert not of.is_full
