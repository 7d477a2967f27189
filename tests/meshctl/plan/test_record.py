"""Which identities each host may have once a plan is carried out."""

from typing import Any

from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.plan.record import left_behind, planned


def record(**hosts: tuple[str, ...]) -> DeployRecord:
    return DeployRecord(
        hosts={name: HostRecord(services=services) for name, services in hosts.items()}  # type: ignore[misc, arg-type]
    )


def test_a_host_that_is_deployed_to_may_have_what_the_inventory_gives_it(world: Any) -> None:
    made = planned(world.inventory, {"front", "back"}, DeployRecord())  # type: ignore[arg-type]
    assert made == record(front=("web",), back=("api", "users"))


def test_a_host_that_is_left_out_keeps_what_it_had(world: Any) -> None:
    made = planned(world.inventory, {"front"}, record(back=("old",)))  # type: ignore[arg-type]
    assert made == record(front=("web",), back=("old",))


def test_a_host_that_left_the_inventory_may_have_nothing_but_is_not_forgotten(world: Any) -> None:
    before = record(front=("web",), gone=("api",))
    made = planned(world.inventory, {"front", "back"}, before)  # type: ignore[arg-type]
    assert made.hosts["gone"].services == ()  # type: ignore[index]
    assert left_behind(world.inventory, made) == ("gone",)
