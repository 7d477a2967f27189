"""What becomes of an endpoint that is slow, fails, or recovers; by simulation."""

import pytest
from sim.simulation import Outcome, Simulation, server

from proxy.model.policy import Algorithm, Balancing
from proxy.model.resilience import OutlierDetection


def with_one_slow(algorithm: Algorithm) -> tuple[Outcome, float]:
    servers = [server(number, parallel=8) for number in range(10)]
    simulation = Simulation(servers, balancing=Balancing(algorithm=algorithm))
    simulation.run(5, 500)
    servers[0].mean_s = 0.2
    outcome = simulation.run(20, 500)
    return outcome, outcome.share(servers[0])


def test_peak_ewma_turns_away_from_a_slow_endpoint_and_round_robin_does_not() -> None:
    outcome, share = with_one_slow("peak_ewma")
    in_turn, share_in_turn = with_one_slow("round_robin")
    assert share < 0.01
    assert share_in_turn == pytest.approx(0.1, abs=0.001)
    assert outcome.percentile_s(99) < 0.05
    assert in_turn.percentile_s(99) > 5 * outcome.percentile_s(99)


def test_least_request_gives_a_slow_endpoint_less() -> None:
    outcome, share = with_one_slow("least_request")
    in_turn, _ = with_one_slow("round_robin")
    assert share < 0.03
    assert outcome.percentile_s(99) < in_turn.percentile_s(99) / 2


def test_peak_ewma_comes_back_to_an_endpoint_that_is_fast_again() -> None:
    servers = [server(number, parallel=8) for number in range(10)]
    simulation = Simulation(servers, balancing=Balancing())
    servers[0].mean_s = 0.5
    assert simulation.run(20, 500).share(servers[0]) < 0.01
    servers[0].mean_s = 0.01
    simulation.run(50, 200)
    assert simulation.run(20, 500).share(servers[0]) == pytest.approx(0.1, abs=0.05)


def test_peak_ewma_is_not_attracted_by_fast_errors() -> None:
    servers = [server(number) for number in range(5)]
    servers[0].error_rate = 1.0
    simulation = Simulation(servers, balancing=Balancing())
    outcome = simulation.run(30, 300)
    assert outcome.failed.total() < 0.005 * outcome.sent.total()
    attracted = Simulation(servers, balancing=Balancing(algorithm="least_request"))
    assert attracted.run(30, 300).share(servers[0]) > 0.2  # what the penalty is for


def test_weight_does_not_hold_peak_ewma_on_an_endpoint_that_fails() -> None:
    light, heavy = server(0, weight=1), server(1, weight=3)
    heavy.error_rate = 1.0
    simulation = Simulation([light, heavy], balancing=Balancing())
    assert simulation.run(30, 300).share(heavy) < 0.02


@pytest.mark.parametrize("error_rate", [0.001, 0.01, 0.1, 0.5])
def test_errors_that_all_endpoints_make_alike_leave_the_load_even(error_rate: float) -> None:
    servers = [server(number) for number in range(5)]
    for each in servers:
        each.error_rate = error_rate
    outcome = Simulation(servers, balancing=Balancing()).run(30, 500)
    for each in servers:
        assert outcome.share(each) == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize("algorithm", ["peak_ewma", "round_robin", "maglev"])
def test_an_ejected_endpoint_gets_one_request_as_probe_at_a_time(algorithm: Algorithm) -> None:
    servers = [server(number) for number in range(10)]
    servers[0].error_rate = 1.0
    simulation = Simulation(
        servers, balancing=Balancing(algorithm=algorithm), outlier=OutlierDetection()
    )
    simulation.run(25, 300)
    failures = 0
    while not servers[0].ejected_until:
        failures += simulation.run(5, 300).failed.total()
        assert failures < 100
    seen = servers[0].ejections
    outcome = simulation.run(200, 300)
    assert servers[0].ejections > seen
    # Each further ejection is the outcome of exactly one request.
    assert outcome.sent[servers[0].endpoint.host] == servers[0].ejections - seen


@pytest.mark.parametrize("algorithm", ["peak_ewma", "round_robin"])
def test_an_ejected_endpoint_that_has_recovered_gets_its_share_back(algorithm: Algorithm) -> None:
    servers = [server(number) for number in range(10)]
    servers[0].error_rate = 1.0
    simulation = Simulation(
        servers, balancing=Balancing(algorithm=algorithm), outlier=OutlierDetection()
    )
    while not servers[0].ejected_until:
        simulation.run(1, 300)
    servers[0].error_rate = 0.0
    assert simulation.run(20, 300).share(servers[0]) == 0.0
    simulation.run(20, 300)
    outcome = simulation.run(20, 300)
    assert outcome.share(servers[0]) == pytest.approx(0.1, abs=0.06)
    assert outcome.failed.total() == 0


@pytest.mark.parametrize(
    ("failing", "is_panicking"), [(0, False), (5, False), (6, True), (10, True)]
)
def test_below_half_available_all_are_used(failing: int, is_panicking: bool) -> None:
    servers = [server(number) for number in range(10)]
    for each in servers[:failing]:
        each.is_failing = True
    simulation = Simulation(servers, balancing=Balancing(algorithm="round_robin"))
    outcome = simulation.run(10, 300)
    assert simulation.balancer.is_panicking is is_panicking
    expected = failing / 10 if is_panicking else 0.0
    failing_share = outcome.share(*servers[:failing]) if failing else 0.0
    assert failing_share == pytest.approx(expected, abs=0.01)


def test_failover_takes_all_while_nothing_before_it_is_available_and_gives_it_back() -> None:
    here = [server(number) for number in range(3)]
    there = [server(number + 3, mean_s=0.05) for number in range(3)]
    simulation = Simulation(here, there, balancing=Balancing())
    assert simulation.run(5, 300).share(*here) == 1.0
    for each in here:
        each.is_failing = True
    simulation.balancer.refresh(simulation.now)
    assert simulation.run(5, 300).share(*there) == 1.0
    assert simulation.balancer.active == 1
    here[1].is_failing = False
    simulation.balancer.refresh(simulation.now)
    assert simulation.run(5, 300).share(here[1]) > 0
    assert simulation.balancer.active == 0
    assert simulation.run(5, 300).share(*there) == 0.0


def test_a_run_is_the_same_each_time() -> None:
    def run() -> list[float]:
        servers = [server(number) for number in range(5)]
        servers[1].error_rate = 0.1
        return Simulation(servers, balancing=Balancing()).run(5, 300).latencies_s

    assert run() == run()
