"""Who gets how much: weights, zones, slow start, hashing; by simulation."""

import pytest
from sim.simulation import Simulation, server

from proxy.model.policy import Algorithm, Balancing

ALGORITHMS: tuple[Algorithm, ...] = (
    "peak_ewma",
    "least_request",
    "round_robin",
    "random",
    "ring_hash",
    "maglev",
)
TOLERANCE: dict[Algorithm, float] = {
    "peak_ewma": 0.05,  # latency has its say
    "least_request": 0.02,
    "round_robin": 0.001,
    "random": 0.01,
    "ring_hash": 0.03,
    "maglev": 0.01,
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("per_s", [600, 6000])
def test_weights_one_two_three_get_a_sixth_a_third_and_a_half(
    algorithm: Algorithm, per_s: int
) -> None:
    servers = [server(number, weight=number + 1) for number in range(3)]
    simulation = Simulation(servers, balancing=Balancing(algorithm=algorithm))
    outcome = simulation.run(12_000 / per_s, per_s)
    for each, share in zip(servers, (1 / 6, 1 / 3, 1 / 2), strict=True):
        assert outcome.share(each) == pytest.approx(share, abs=TOLERANCE[algorithm])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_equals_get_equal_shares(algorithm: Algorithm) -> None:
    servers = [server(number) for number in range(4)]
    simulation = Simulation(servers, balancing=Balancing(algorithm=algorithm))
    outcome = simulation.run(20, 600)
    for each in servers:
        assert outcome.share(each) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("algorithm", ["peak_ewma", "least_request", "round_robin", "random"])
def test_slow_start_grows_from_a_tenth_of_a_share_to_a_whole_one(algorithm: Algorithm) -> None:
    servers = [server(number) for number in range(4)]
    simulation = Simulation(servers, balancing=Balancing(algorithm=algorithm, slow_start_s=20))
    simulation.run(5, 400)
    newcomer = server(4)
    simulation.set_servers([*servers, newcomer])
    for second in range(0, 20, 4):
        share = simulation.run(4, 500).share(newcomer)
        growth = 0.1 + 0.9 * (second + 2) / 20
        assert share == pytest.approx(growth / (4 + growth), abs=0.035), second
    assert simulation.run(20, 500).share(newcomer) == pytest.approx(0.2, abs=0.05)


def test_without_slow_start_a_newcomer_gets_its_share_at_once() -> None:
    servers = [server(number, mean_s=0.001) for number in range(4)]
    simulation = Simulation(servers, balancing=Balancing())
    simulation.run(5, 400)
    newcomer = server(4, mean_s=0.001)
    simulation.set_servers([*servers, newcomer])
    assert simulation.run(5, 400).share(newcomer) == pytest.approx(0.2, abs=0.1)


@pytest.mark.parametrize("algorithm", ["peak_ewma", "least_request", "round_robin", "random"])
@pytest.mark.parametrize(
    ("failing", "stays"), [(0, 1.0), (1, 1.0), (2, 0.84), (3, 0.56), (4, 0.28), (5, 0.0)]
)
def test_the_own_zone_spills_over_by_its_healthy_share(
    algorithm: Algorithm, failing: int, stays: float
) -> None:
    here = [server(number, zone="a") for number in range(5)]
    # Farther away: a balancer that compared over the zones would never spill.
    there = [server(number + 5, zone="b", mean_s=0.02) for number in range(10)]
    for each in here[:failing]:
        each.is_failing = True
    simulation = Simulation(
        here + there, balancing=Balancing(algorithm=algorithm), zone="a", seed=3
    )
    outcome = simulation.run(10, 400)
    assert outcome.share(*here) == pytest.approx(stays, abs=0.03)
    assert outcome.share(*here[:failing]) == 0


def test_zones_can_be_ignored() -> None:
    here = [server(number, zone="a") for number in range(2)]
    there = [server(number + 2, zone="b") for number in range(6)]
    simulation = Simulation(
        here + there, balancing=Balancing(algorithm="random", zone="ignore"), zone="a"
    )
    assert simulation.run(20, 400).share(*here) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("algorithm", ["ring_hash", "maglev"])
def test_hashing_moves_only_the_keys_of_an_endpoint_that_leaves(algorithm: Algorithm) -> None:
    servers = [server(number) for number in range(10)]
    simulation = Simulation(servers, balancing=Balancing(algorithm=algorithm))
    keys = [simulation.rng.getrandbits(64) for _ in range(5000)]
    balancer = simulation.balancer
    before = [balancer.pick((), simulation.now, key) for key in keys]
    simulation.set_servers(servers[1:])
    after = [balancer.pick((), simulation.now, key) for key in keys]
    moved = [old for old, new in zip(before, after, strict=True) if old is not new]
    own = before.count(servers[0])
    assert moved.count(servers[0]) == own
    # The ring moves nothing else; maglev a little (its paper, section 5.3).
    assert len(moved) - own <= (0 if algorithm == "ring_hash" else 0.05 * len(keys))


@pytest.mark.parametrize("algorithm", ["ring_hash", "maglev"])
def test_hashing_moves_only_the_keys_of_an_endpoint_that_is_unavailable(
    algorithm: Algorithm,
) -> None:
    servers = [server(number) for number in range(10)]
    simulation = Simulation(servers, balancing=Balancing(algorithm=algorithm))
    keys = [simulation.rng.getrandbits(64) for _ in range(5000)]
    balancer = simulation.balancer
    before = [balancer.pick((), simulation.now, key) for key in keys]
    servers[0].is_failing = True
    balancer.refresh(simulation.now)
    during = [balancer.pick((), simulation.now, key) for key in keys]
    moved = [new for old, new in zip(before, during, strict=True) if old is not new]
    assert len(moved) == before.count(servers[0])
    assert len(set(moved)) == 9
    assert servers[0] not in during
    servers[0].is_failing = False
    balancer.refresh(simulation.now)
    assert [balancer.pick((), simulation.now, key) for key in keys] == before
