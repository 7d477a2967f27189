"""A host that leaves the mesh is as it was before."""

from pathlib import Path
from typing import Any

from meshctl.apply.remove import Removal, remove


async def removal(lab: Any, owner: str = "me") -> Removal:
    ended: list[Removal] = []
    (made,) = await remove(
        lab.inventory,
        lab.inventory.hosts,
        lab.connector,
        trust_domain=lab.state.trust_domain,
        owner=owner,
        is_whole_mesh=True,
        parallel=2,
        ended=ended.append,
    )
    assert ended == [made]
    return made


async def test_nothing_is_left_and_a_second_time_there_is_nothing_to_do(lab: Any) -> None:
    await lab.deploy()
    root = Path(lab.inventory.hosts[0].root)
    (root / "home").mkdir()
    made = await removal(lab)
    assert not made.error
    assert "the proxy" in made.done
    assert lab.pids() == []
    assert [path.name for path in root.iterdir()] == ["home"]
    assert (await removal(lab)).done == ()
    assert (await lab.deploy()).is_good


async def test_a_host_that_somebody_deploys_to_is_left_alone(lab: Any) -> None:
    await lab.deploy()
    lock = Path(f"{lab.inventory.hosts[0].root}/run/meshctl-deploy.lock")
    lock.write_text('{"owner": "somebody@else", "until": 1e12}')
    made = await removal(lab)
    assert "somebody@else is deploying" in made.error
    assert len(lab.pids()) == 1


async def test_a_host_that_goes_away_is_reported(lab: Any) -> None:
    lab.counter.at = 1
    made = await removal(lab)
    assert (made.error, made.exit_code) == ("front went away", 4)
