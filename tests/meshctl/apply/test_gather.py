"""Hosts are read when they stand still: what a killed meshctl left running is waited for."""

import asyncio
import fcntl
import json
import time
from pathlib import Path
from typing import Any

from meshctl.apply.gather import settled
from meshctl.facts.request import lock_path


async def look(lab: Any, owner: str) -> Any:
    hosts = lab.inventory.hosts
    seen = await settled(lab.inventory, hosts, lab.connector, owner=owner, parallel=4)
    return seen.facts["front"].seen.lock


def hold(lab: Any, owner: str) -> Any:
    """As an operation on the host does while it runs."""
    path = Path(lock_path(lab.inventory.hosts[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"owner": owner, "until": time.time() + 60}))
    running = Path(f"{path}.running").open("w")  # noqa: SIM115 - the caller closes it
    fcntl.flock(running, fcntl.LOCK_EX)
    return running


async def test_an_operation_that_was_left_behind_is_waited_for(lab: Any) -> None:
    with hold(lab, "me"):
        looking = asyncio.create_task(look(lab, "me"))
        while lab.counter.count < 2:  # it looked, and looked again
            assert not looking.done()
            await asyncio.sleep(0.01)
    lock = await looking
    assert not lock.is_busy


async def test_somebody_elses_operation_is_reported_at_once(lab: Any) -> None:
    with hold(lab, "another"):
        lock = await look(lab, "me")
    assert lock.is_busy
    assert lab.counter.count == 1
