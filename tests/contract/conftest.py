"""The two agents that the contract is checked on, each a process of its own for the session."""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ports import free_ports

ROOT = Path(__file__).parent.parent.parent
START_S = 30.0
FETCH_S = 300.0


_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def index(self) -> int:
        return int(self.headers["X-Consul-Index"])


@dataclass(slots=True)
class Agent:
    """A raw HTTP client of one agent; names are unique to the test that asks for them."""

    url: str
    kind: str
    session: aiohttp.ClientSession
    _numbers: Iterator[int] = field(default_factory=lambda: _numbers)

    def name(self, stem: str) -> str:
        return f"{stem}-{next(self._numbers)}"

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.request(
            method, f"{self.url}/v1/{path}", data=data, headers=headers, allow_redirects=False
        ) as response:
            content = await response.read()
            return Reply(status=response.status, headers=dict(response.headers), body=content)

    async def get(self, path: str) -> Reply:
        return await self.call("GET", path)

    async def put(self, path: str, body: Any = None) -> Reply:
        return await self.call("PUT", path, body)

    async def register(self, name: str, **fields: Any) -> Reply:
        body = {"ID": f"{name}-1", "Name": name, "Port": 15006, "Address": "10.1.2.3", **fields}
        return await self.put("agent/service/register", body)

    @staticmethod
    def ttl(name: str, **fields: Any) -> dict[str, Any]:
        """The body of a check that lasts for a test."""
        return {"CheckID": f"{name}:proxy", "Name": "proxy", "TTL": "30s", **fields}

    async def until(self, path: str, is_met: Callable[[Any], bool], within_s: float = 8.0) -> Any:
        """Asks again until the JSON answer is as wanted."""
        async with asyncio.timeout(within_s):
            while True:
                reply = await self.get(path)
                if reply.status == 200 and is_met(reply.json):
                    return reply.json
                await asyncio.sleep(0.02)


def await_leader(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/v1/health/state/any", timeout=2) as answer:
                if b"serfHealth" in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.05)
    pytest.fail(f"no agent answers at {url}")


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def consul_binary() -> str:
    """Path of a real Consul; skips, or fails where MESHCTL_REQUIRE_CONSUL=1 demands it."""
    found = shutil.which("consul")
    if found is not None:
        return found
    fetch = ROOT / "scripts" / "fetch-consul"
    reason = f"no consul on PATH and no {fetch.name} script"
    if fetch.exists():
        try:
            done = subprocess.run([fetch], capture_output=True, timeout=FETCH_S, check=False)
        except subprocess.TimeoutExpired:
            reason = f"{fetch.name} did not end within {FETCH_S:g} s"
        else:
            lines = done.stdout.decode().split()
            if done.returncode == 0 and lines:
                return lines[-1]
            reason = f"{fetch.name} failed: {done.stderr.decode().strip()[-300:]}"
    if os.environ.get("MESHCTL_REQUIRE_CONSUL") == "1":
        pytest.fail(f"a real Consul is required: {reason}")
    pytest.skip(f"no real Consul: {reason}")


@pytest.fixture(scope="session")
def real_url(consul_binary: str) -> Iterator[str]:
    http, server, serf = free_ports(3)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [
                *(consul_binary, "agent", "-dev", "-bind=127.0.0.1", "-node=contract"),
                *(f"-http-port={http}", f"-server-port={server}", f"-serf-lan-port={serf}"),
                *("-dns-port=-1", "-grpc-port=-1", "-hcl=ports { serf_wan = -1 }"),
                "-hcl=disable_update_check = true",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            await_leader(f"http://127.0.0.1:{http}", process)
            yield f"http://127.0.0.1:{http}"
        finally:
            end(process)


class Datacenter:
    """A real agent of one, joined to ``others`` over Consul's WAN gossip."""

    def __init__(self, binary: str, name: str, others: "tuple[Datacenter, ...]" = ()) -> None:
        http, server, lan, self.wan = free_ports(4)
        self.name, self.url = name, f"http://127.0.0.1:{http}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the agent
        self.process = subprocess.Popen(
            [
                *(binary, "agent", "-dev", "-bind=127.0.0.1", f"-node={name}-1"),
                *(f"-datacenter={name}", f"-http-port={http}", f"-server-port={server}"),
                *(f"-serf-lan-port={lan}", f"-serf-wan-port={self.wan}"),
                *("-dns-port=-1", "-grpc-port=-1", "-hcl=disable_update_check = true"),
                "-retry-interval-wan=1s",
                *(f"-retry-join-wan=127.0.0.1:{other.wan}" for other in others),
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def stop(self) -> None:
        end(self.process)
        self._log.close()


@pytest.fixture
def datacenters(consul_binary: str) -> Iterator[tuple[Datacenter, Datacenter]]:
    with ExitStack() as stack:
        near = Datacenter(consul_binary, "dc1")
        stack.callback(near.stop)
        await_leader(near.url, near.process)
        far = Datacenter(consul_binary, "dc2", (near,))
        stack.callback(far.stop)
        await_leader(far.url, far.process)
        yield near, far


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "meshctl.registry", "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip().removeprefix("listening on ")
        await_leader(url, process)
        yield url
    finally:
        end(process)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.consul)])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{kind}_url")
    return found


@pytest.fixture
async def agent(url: str, kind: str) -> AsyncIterator[Agent]:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Agent(url=url, kind=kind, session=session)
