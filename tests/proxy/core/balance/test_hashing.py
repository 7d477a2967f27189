from collections import Counter
from random import Random
from typing import Literal

import pytest
from sim.simulation import Server, server

from proxy.core.balance import EndpointState
from proxy.core.balance.hashing import MAGLEV_PLACES, RING_LEAST, HashCircle, maglev, ring

KINDS: tuple[Literal["ring_hash", "maglev"], ...] = ("ring_hash", "maglev")
Kind = Literal["ring_hash", "maglev"]
KEYS = [Random(seed).getrandbits(64) for seed in range(4000)]


@pytest.mark.parametrize("kind", KINDS)
def test_all_proxies_build_the_same_circle(kind: Kind) -> None:
    states = [server(number) for number in range(8)]
    one = HashCircle(states, kind)
    two = HashCircle([server(number) for number in reversed(range(8))], kind)
    assert [state.endpoint for state in map(one.choose, KEYS) if state] == [
        state.endpoint for state in map(two.choose, KEYS) if state
    ]


def test_places_do_not_depend_on_the_process_or_the_release() -> None:
    # Changed only on purpose: while a mesh is upgraded, keys would go to two places.
    states = [server(number) for number in range(5)]
    keys = [0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]
    picked = {
        kind: [states.index(state) for state in map(HashCircle(states, kind).choose, keys) if state]
        for kind in KINDS
    }
    assert picked == {"ring_hash": [1, 1, 0, 1, 1], "maglev": [4, 2, 2, 4, 0]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [0, 1, MAGLEV_PLACES, 2**63, 2**64 - 1])
def test_every_key_has_an_owner(kind: Kind, key: int) -> None:
    states = [server(number) for number in range(3)]
    circle = HashCircle(states, kind)
    assert circle.choose(key) in states
    assert circle.seek(key, frozenset(states), ()) is circle.choose(key)


@pytest.mark.parametrize("kind", KINDS)
def test_without_endpoints_there_is_no_owner(kind: Kind) -> None:
    circle: HashCircle[EndpointState] = HashCircle([], kind)
    assert circle.choose(1) is None
    assert circle.seek(1, frozenset(), ()) is None


@pytest.mark.parametrize(("kind", "tolerance"), [("ring_hash", 0.12), ("maglev", 0.02)])
def test_shares_go_by_weight(kind: Kind, tolerance: float) -> None:
    states = [server(number, weight=number) for number in range(5)]
    circle = HashCircle(states, kind)
    rng = Random(1)
    counts = Counter(circle.choose(rng.getrandbits(64)) for _ in range(50_000))
    assert counts[states[0]] == 0
    for state in states[1:]:
        share = state.endpoint.weight / 10
        assert counts[state] / 50_000 == pytest.approx(share, rel=tolerance, abs=0.005)


@pytest.mark.parametrize("count", [1, 2, 16, 17, 33, 100, 2000])
@pytest.mark.parametrize("heaviest", [1, 1000])
def test_the_ring_has_its_points_and_everybody_one(count: int, heaviest: int) -> None:
    weights = [heaviest] + [1] * (count - 1)
    points, owners = ring([str(number) for number in range(count)], weights)
    assert len(points) >= RING_LEAST
    assert list(points) == sorted(points)
    assert set(owners) == set(range(count))
    assert owners[-1] == owners[0]
    assert len(owners) == len(points) + 1


def test_maglev_deals_out_every_place_evenly() -> None:
    owners = maglev([f"h{number}" for number in range(7)], [1] * 7)
    counts = Counter(owners)
    assert sum(counts.values()) == MAGLEV_PLACES
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_in_turn_takes_over_from_the_unusable_and_the_tried(kind: Kind) -> None:
    states = [server(number) for number in range(4)]
    circle = HashCircle(states, kind)
    for key in KEYS[:200]:
        order: list[Server] = []
        for _ in states:
            found = circle.seek(key, frozenset(states), order)
            assert found is not None
            order.append(found)
        assert circle.seek(key, frozenset(states), order) is None
        assert set(order) == set(states)
        assert circle.seek(key, frozenset(states) - {order[0]}, ()) is order[1]
        assert circle.seek(key, frozenset(states) - {order[0]}, (order[1],)) is order[2]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_tried_and_left_since_does_not_count(kind: Kind) -> None:
    one, *gone = states = [server(number) for number in range(4)]
    circle = HashCircle(states, kind)
    assert circle.seek(1, frozenset([one]), gone) is one
    assert circle.seek(1, frozenset([one]), states) is None


def disruption(kind: Kind, before: int, after: int) -> float:
    """Share of the keys that moved although their endpoint stayed."""
    old = HashCircle([server(number) for number in range(before)], kind)
    new = HashCircle([server(number) for number in range(after)], kind)
    stayed = {server(number).endpoint for number in range(min(before, after))}
    moved = 0
    for key in KEYS:
        one, two = old.choose(key), new.choose(key)
        assert one is not None
        assert two is not None
        moved += one.endpoint != two.endpoint and {one.endpoint, two.endpoint} <= stayed
    return moved / len(KEYS)


@pytest.mark.parametrize(("before", "after"), [(5, 4), (4, 5), (40, 39), (40, 41)])
def test_few_keys_move_between_endpoints_that_stay(before: int, after: int) -> None:
    assert disruption("ring_hash", before, after) == 0
    assert disruption("maglev", before, after) < 0.08
