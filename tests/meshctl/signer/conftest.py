"""A signer in this process, asked over real TLS."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from signing.world import World

from meshctl.signer.service import Service


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "mesh")


@pytest.fixture
async def running() -> AsyncIterator[Any]:
    """``await running(settings)``: the service and its port."""
    made: list[tuple[Service, asyncio.Task[int]]] = []

    async def start(settings: Any, **more: Any) -> tuple[Service, int]:
        service = Service(settings, **more)
        task = asyncio.ensure_future(service.run())
        made.append((service, task))
        await asyncio.wait((task, service.started), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return service, service.started.result()

    yield start
    for service, task in made:
        if task.done():
            continue  # it did not start, which is for the test to judge
        service.stop()
        assert await asyncio.wait_for(task, 30) == 0
