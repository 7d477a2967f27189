"""Node's HTTP as client and as server, in either version: what comes before and after a body.

A client may wait for 100 before it sends its body (RFC 9110, section 10.1.1), an application may
say 103 before its answer, and both may have trailers. Node comes with playwright, if nothing else.
"""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from integration.backends import Server, Unavailable

from proxy.model.names import ServiceName

pytestmark = pytest.mark.timeout(120)

PROGRAM = Path(__file__).resolve().parent / "programs" / "ends.mjs"
BODY_DIGEST = hashlib.sha256(b"0123456789" * 20_000).hexdigest()
EMPTY_DIGEST = hashlib.sha256(b"").hexdigest()
ENDS_IN_S = 30.0


def node() -> str | None:
    try:
        from playwright._impl._driver import compute_driver_executable  # noqa: PLC0415
    except ImportError:
        return shutil.which("node")
    return str(compute_driver_executable()[0])


class NodeServer(Server):
    name = "node"
    version = "1"

    @classmethod
    def require(cls) -> None:
        if node() is None:
            raise Unavailable("Node is not here: pip install -e '.[dev]' brings one")

    def command(self) -> list[str]:
        return [node() or "", str(PROGRAM), "serve", self.version, str(self.port)]


class NodeServerOfHttp2(NodeServer):
    name = "node-http2"
    version = "2"


@pytest.fixture
async def grid(tmp_path: Path, make_grid: Callable[..., Any]) -> AsyncIterator[Any]:
    try:
        NodeServer.require()
    except Unavailable as error:
        if os.environ.get("MESHCTL_REQUIRE_BACKENDS") == "1":
            raise
        pytest.skip(str(error))
    servers = (NodeServer(tmp_path / "1", tmp_path), NodeServerOfHttp2(tmp_path / "2", tmp_path))
    for server in servers:
        await server.start()
    grid = await make_grid()
    await grid.serve("api", "a1", port=servers[0].port)
    await grid.serve("api2", "p1", protocol="http2", port=servers[1].port)
    grid.apply()
    yield grid
    for server in servers:
        await server.stop()


async def ask(grid: Any, version: str, service: str, what: str) -> Any:
    host, port = grid.planes["near"].outbound_address(ServiceName("web"), ServiceName(service))
    process = await asyncio.create_subprocess_exec(
        *(node() or "", str(PROGRAM), "ask", version, f"{host}:{port}", what),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(ENDS_IN_S):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (said, complained[-2000:])
    return json.loads(said)


VERSIONS = pytest.mark.parametrize(
    ("version", "service"), [(version, service) for version in "12" for service in ("api", "api2")]
)
SPOKEN = {"api": "1.1", "api2": "2.0"}


@VERSIONS
async def test_a_client_that_waits_for_100_gets_it(grid: Any, version: str, service: str) -> None:
    assert await ask(grid, version, service, "wait") == {
        "interim": [100],
        "sent": BODY_DIGEST,
        "status": 200,
        "version": SPOKEN[service],
        "body": "well",
        "trailers": {"x-digest": BODY_DIGEST, "x-came": "nothing"},
    }


@VERSIONS
async def test_a_client_that_waits_for_100_sends_nothing_if_it_is_refused(
    grid: Any, version: str, service: str
) -> None:
    seen = await ask(grid, version, service, "refuse")
    assert (seen["status"], seen["interim"], seen["sent"]) == (417, [], "nothing")


@VERSIONS
async def test_hints_come_before_the_answer(grid: Any, version: str, service: str) -> None:
    seen = await ask(grid, version, service, "hints")
    assert (seen["interim"], seen["status"], seen["body"]) == ([103], 200, "well")
    assert seen["trailers"]["x-digest"] == EMPTY_DIGEST


@VERSIONS
async def test_trailers_come_behind_the_bodies_both_ways(
    grid: Any, version: str, service: str
) -> None:
    seen = await ask(grid, version, service, "trailers")
    assert (seen["status"], seen["body"]) == (200, "well")
    assert seen["trailers"] == {"x-digest": BODY_DIGEST, "x-came": "all of it"}
