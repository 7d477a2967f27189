"""A scripted HTTP server, a real Consul with a bound life, and waiting without sleeping blindly."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import ports
import pytest

ROOT = Path(__file__).parents[3]

Script = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def until() -> Any:
    """``await until(condition)``: polls until it is true; fails the test at the deadline."""

    async def wait(condition: Callable[[], Any], *, deadline_s: float = 20.0) -> Any:
        async with asyncio.timeout(deadline_s):
            while not (found := condition()):
                await asyncio.sleep(0.005)
        return found

    return wait


class Scripted:
    """A server whose answers the test writes; ``requests`` holds the heads it was sent."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.open_connections = 0
        self.script: Script | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[Any]] = set()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._serving:
            task.cancel()
        async with asyncio.timeout(5):
            while self._serving:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)  # both ends close in the loop's own time

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = 0
                for line in head.split("\r\n"):
                    if line.lower().startswith("content-length:"):
                        length = int(line.split(":")[1])
                self.requests.append(head)
                self.bodies.append(await reader.readexactly(length))
                assert self.script is not None
                await self.script(head, reader, writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass  # by ``stop``; asyncio's streams would log it as a failure
        finally:
            self.open_connections -= 1
            self._serving.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()


@pytest.fixture
def reply() -> Any:
    """``reply(body, status=…, index=…, extra="Name: value\\r\\n")``: the bytes of an answer."""

    def make(body: bytes, *, status: int = 200, index: int | None = None, extra: str = "") -> bytes:
        tag = f"X-Consul-Index: {index}\r\n" if index is not None else ""
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{tag}{extra}\r\n"
        return head.encode() + body

    return make


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    server = Scripted()
    await server.start()
    yield server
    await server.stop()


class Agent:
    """A registry in a process of its own, which ends with the test whatever happens."""

    def __init__(self, directory: Path, argv: list[str], url: str) -> None:
        self.url = url
        self._directory, self._argv = directory, argv
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._directory.mkdir(exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["timeout", "180", *self._argv], stdout=log, stderr=log, cwd=ROOT
            )

    def stop(self, *, wipe: bool = False) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)
        if wipe:
            for path in self._directory.iterdir():
                if path.name == "data":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.url + path, method=method, data=body)
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read()
        return json.loads(text) if text else None

    def wait_ready(self) -> None:
        """Until it has a leader and takes what it is told."""
        ends = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError, ValueError):
                if self.call("GET", "/v1/status/leader") and self.call("PUT", "/v1/kv/up", b"1"):
                    return
            assert time.monotonic() < ends, "the registry did not come up"
            time.sleep(0.05)

    async def ready(self) -> None:
        await asyncio.to_thread(self.wait_ready)

    def checks(self, name: str) -> dict[str, tuple[str, str]]:
        """Status and output by check id, as the catalogue (not the agent) has them."""
        entries = self.call("GET", f"/v1/health/service/{name}")
        return {
            check["CheckID"]: (check["Status"], check["Output"])
            for entry in entries
            for check in entry["Checks"]
        }


def real_consul(binary: str, directory: Path, ports: list[int]) -> Agent:
    """A server of its own, not ``-dev``, whose defaults differ from what operators run."""
    names = ("http", "serf_lan", "serf_wan", "server")
    config = {
        "ports": dict(zip(names, ports, strict=True)) | {"dns": -1, "https": -1, "grpc": -1},
        "bind_addr": "127.0.0.1",
        "data_dir": str(directory / "data"),
        "server": True,
        "bootstrap_expect": 1,
        "performance": {"raft_multiplier": 1},
        "log_level": "warn",
        "disable_update_check": True,
    }
    directory.mkdir()
    (directory / "consul.json").write_text(json.dumps(config))
    argv = [binary, "agent", "-config-file", str(directory / "consul.json")]
    return Agent(directory, argv, f"http://127.0.0.1:{ports[0]}")


def embedded_registry(directory: Path, port: int) -> Agent:
    argv = [sys.executable, "-m", "meshctl.registry", "--port", str(port)]
    return Agent(directory, [*argv, "--data", str(directory / "data")], f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def consul_binary() -> str:
    if chosen := os.environ.get("MESHCTL_CONSUL_BINARY") or shutil.which("consul"):
        return chosen
    fetched = subprocess.run(
        [sys.executable, ROOT / "scripts" / "fetch-consul"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if fetched.returncode != 0:
        pytest.skip(f"no Consul binary to be had: {fetched.stderr.strip()[-300:]}")
    return fetched.stdout.strip().splitlines()[-1]


@contextlib.contextmanager
def running_agent(request: pytest.FixtureRequest, directory: Path) -> Iterator[Agent]:
    if request.param == "consul":
        agent = real_consul(
            request.getfixturevalue("consul_binary"), directory, ports.free_ports(4)
        )
    else:
        agent = embedded_registry(directory, ports.free_ports(1)[0])
    agent.start()
    try:
        agent.wait_ready()
        yield agent
    finally:
        agent.stop()


BOTH = [pytest.param("consul", marks=pytest.mark.consul), "embedded"]


@pytest.fixture(params=BOTH)
def consul(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Agent]:
    """A real Consul, and the registry that stands in for it on one machine; to be stopped."""
    with running_agent(request, tmp_path / "registry") as agent:
        yield agent


@pytest.fixture(params=BOTH, scope="session")
def shared_consul(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    """The same for tests that leave it as they found it."""
    with running_agent(request, tmp_path_factory.mktemp("shared") / "registry") as agent:
        yield agent


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """So many different ports that nothing listens on now."""
    return ports.free_ports
