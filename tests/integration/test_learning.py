"""``meshctl intentions`` as an operator runs it, against the admin port of a real data plane."""

import asyncio
import json
import os
import re
import shlex
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshctl.inventory.parse import parse as parse_inventory
from meshctl.policy import parse as parse_policy
from proxy.core.metrics import Metrics
from proxy.model.names import ServiceName
from proxy.model.policy import ServicePolicy
from proxy.net.admin import Admin
from proxy.net.observing import Observing
from proxy.net.workers import Workers

API, DB = ServiceName("api"), ServiceName("db")
SEEN = (("GET", "/users/17"), ("GET", "/users/4/orders?page=2"), ("POST", "/users"), ("GET", "/"))
OTHERS = (("DELETE", "/users/17"), ("GET", "/users"), ("GET", "/admin"), ("POST", "/users/17"))


@dataclass
class Operator:
    """A mesh of one local host whose proxy is the grid's."""

    directory: Path

    async def run(self, *words: str, expect: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from meshctl.cli import main; main()", *words),
            cwd=self.directory,
            env={**os.environ, "NO_COLOR": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode == expect, (out + err).decode()
        return out.decode()


@dataclass
class Scene:
    grid: Any
    operator: Operator
    inventory: str

    async def request(self, method: str, target: str, caller: str = "web") -> int:
        client = await self.grid.connect(caller=caller)
        client.send(
            f"{method} {target} HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n".encode()
        )
        return int((await client.response()).status)


@pytest.fixture
async def scene(make_grid: Callable[..., Any], tmp_path: Path) -> AsyncIterator[Scene]:
    grid = await make_grid()
    await grid.serve("api", "a1", has_plaintext=True)
    grid.apply()
    plane, settings = grid.planes["a1"], grid.settings["a1"]
    workers = Workers(settings, _OneProcess(), plane, Metrics(), rng=None, settled=lambda: None)  # type: ignore[arg-type]  # there are no others
    admin = Admin(Observing(plane, workers).routes())
    port = await admin.start("127.0.0.1", 0)
    root = tmp_path / "host"
    interpreter = root / "opt/meshctl/current/release/bin/python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    interpreter.chmod(0o755)
    operator = Operator(tmp_path / "operator")
    operator.directory.mkdir()
    await operator.run("init", ".", "--trust-domain", "mesh.test", "--no-passphrase")
    inventory = f"""\
version: 1
consul: {{mode: embedded}}
hosts:
  - name: a1
    transport: local
    root: {root}
    proxy: {{admin_port: {port}}}
    services:
      - {{name: api, port: 18080, protocol: http, plaintext_port: 18081}}
      - {{name: web, port: 18082, protocol: http, upstreams: [{{service: api, port: 18083}}]}}
      - {{name: other, port: 18084, protocol: http, upstreams: [{{service: api, port: 18085}}]}}
"""
    (operator.directory / "inventory.yaml").write_text(inventory)
    yield Scene(grid, operator, inventory)
    await admin.close()


class _OneProcess:
    workers = 1


async def test_what_is_learned_allows_what_was_seen_and_nothing_else(scene: Scene) -> None:
    plane = scene.grid.planes["a1"]
    learning = asyncio.create_task(scene.operator.run("intentions", "learn", "--for", "10s"))
    async with asyncio.timeout(60):
        while not plane.observed().left_s:
            await asyncio.sleep(0.01)
    for each in SEEN:
        assert await scene.request(*each) == 200
    text = await learning
    assert plane.observed().left_s == 0, "the proxy does not look any more"
    policy = parse_policy(
        text, "mesh.yaml", parse_inventory(scene.inventory, Path("i.yaml")), datetime.now(UTC)
    )
    scene.grid.policy = dict(policy.services)
    scene.grid.apply()
    for each in SEEN:
        assert await scene.request(*each) == 200, each
    assert await scene.request("GET", "/users/18") == 200
    for each in OTHERS:
        assert await scene.request(*each) == 403, each
    assert await scene.request("GET", "/", caller="other") == 403


async def test_json_has_what_was_seen(scene: Scene) -> None:
    plane = scene.grid.planes["a1"]
    words = ("intentions", "learn", "--for", "10s", "--service", "api", "-o", "json")
    learning = asyncio.create_task(scene.operator.run(*words))
    async with asyncio.timeout(60):
        while not plane.observed().left_s:
            await asyncio.sleep(0.01)
    assert await scene.request("GET", "/users/17") == 200
    document = json.loads(await learning)
    assert document["failed"] == {}
    (call,) = document["calls"]
    assert (call["caller"], call["path"], call["allowed"]) == ("web", "/users/*", 1)


async def test_a_proxy_that_does_not_answer_is_named(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    path = scene.operator.directory / "inventory.yaml"
    path.write_text(re.sub("admin_port: [0-9]+", f"admin_port: {port}", scene.inventory))
    text = await scene.operator.run("intentions", "learn", "--for", "1s", expect=1)
    assert "services: {}" in text


@pytest.mark.parametrize("seconds", ["0s", "2h", "soon"])
async def test_a_time_that_makes_no_sense_is_refused(scene: Scene, seconds: str) -> None:
    await scene.operator.run("intentions", "learn", "--for", seconds, expect=2)


async def test_plaintext_callers_are_listed(scene: Scene) -> None:
    assert "nobody has called" in await scene.operator.run("intentions", "plaintext")
    scene.grid.policy["api"] = ServicePolicy(mode="permissive")
    scene.grid.apply()
    client = await scene.grid.dial(*scene.grid.planes["a1"].plaintext_address(API))
    for _ in range(3):
        assert (await client.get("/")).status == 200
    table = await scene.operator.run("intentions", "plaintext")
    assert table.splitlines()[1].split()[:4] == ["api", "a1", "127.0.0.1", "3"]
    document = json.loads(await scene.operator.run("intentions", "plaintext", "-o", "json"))
    (found,) = document["callers"]
    assert (found["host"], found["source"], found["count"]) == ("a1", "127.0.0.1", 3)
