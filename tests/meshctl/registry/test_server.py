"""The server around the state: loopback only, waiting, persistence, ending."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from meshctl.errors import MeshError, Refused, StateCorrupt
from meshctl.registry import Registry, server
from meshctl.registry.state import Node


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as made:
        yield made


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.com", ""])
def test_it_refuses_to_listen_anywhere_but_on_loopback(host: str) -> None:
    with pytest.raises(Refused, match="one machine"):
        Registry(host=host)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8500", 200),
        ("127.0.0.1", 200),
        ("127.9.9.9:1", 200),
        ("[::1]:8500", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8500", 403),
        ("10.0.0.1", 403),
        ("0.0.0.0", 403),
        ("", 403),
    ],
)
async def test_it_answers_only_what_is_addressed_to_loopback(
    session: aiohttp.ClientSession, host: str, status: int
) -> None:
    async with Registry() as registry:
        url = f"{registry.url}/v1/status/leader"
        async with session.get(url, headers={"Host": host}) as response:
            assert response.status == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/session/create"),
        ("GET", "/v1/connect/ca/roots"),
        ("PUT", "/v1/agent/service/maintenance/x?enable=true"),
        ("PUT", "/v1/acl/bootstrap"),
        ("GET", "/v1/nothing"),
        ("GET", "/"),
        ("PUT", "/v1/kv/x?acquire=abc"),
        ("GET", "/v1/health/service/x?filter=a"),
        ("GET", "/v1/health/service/x?near=_agent"),
    ],
)
async def test_what_it_does_not_implement_is_a_501_that_says_so(
    session: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with (
        Registry() as registry,
        session.request(method, registry.url + path) as response,
    ):
        assert response.status == 501
        assert "The embedded registry does not implement" in await response.text()


async def test_it_is_of_the_datacenter_it_was_told(session: aiohttp.ClientSession) -> None:
    async with Registry(node=Node(datacenter="fra")) as registry:
        for query, status in (("dc=fra", 404), ("dc=dc1", 500)):
            async with session.get(f"{registry.url}/v1/kv/x?{query}") as response:
                assert response.status == status


async def test_a_lock_or_a_node_in_a_transaction_is_a_501(session: aiohttp.ClientSession) -> None:
    operations = (
        [{"KV": {"Verb": "lock", "Key": "x", "Session": "s"}}],
        [{"Node": {"Verb": "get", "Node": {"Node": "x"}}}],
    )
    async with Registry() as registry:
        for operation in operations:
            async with session.put(f"{registry.url}/v1/txn", json=operation) as response:
                assert response.status == 501


async def test_a_request_that_is_too_large_is_refused_while_it_arrives(
    session: aiohttp.ClientSession,
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    async with Registry() as registry:
        async with session.put(f"{registry.url}/v1/kv/x", data=endless()) as response:
            assert response.status == 413
        async with session.get(f"{registry.url}/v1/kv/x") as response:
            assert response.status == 404


async def test_a_path_that_is_not_utf_8_is_a_400() -> None:
    async with Registry() as registry:
        reader, writer = await asyncio.open_connection(registry.host, registry.port)
        writer.write(b"GET /v1/kv/%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_waiting_queries_have_a_limit(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_WAITING", 1)
    async with Registry() as registry:
        url = f"{registry.url}/v1/kv/x?index=99&wait=60s"
        both = [asyncio.create_task(session.get(url)) for _ in range(2)]
        done, waiting = await asyncio.wait(both, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [query.result().status for query in done] == [429]
        for query in waiting:
            query.cancel()
        await asyncio.wait(waiting)


async def test_stopping_answers_the_queries_that_wait(session: aiohttp.ClientSession) -> None:
    registry = Registry()
    await registry.start()
    url = f"{registry.url}/v1/kv/x?index=99&wait=60s"
    query = asyncio.create_task(session.get(url))
    done, _ = await asyncio.wait([query], timeout=0.2)
    assert not done
    async with asyncio.timeout(3):
        await registry.stop()
        response = await query
    assert response.status == 404
    response.release()


async def test_a_held_back_output_is_published_after_the_interval(
    session: aiohttp.ClientSession,
) -> None:
    async with Registry(check_update_interval_s=0.2) as registry:
        body = {"Name": "web", "Check": {"CheckID": "c", "TTL": "30s"}}
        await (await session.put(f"{registry.url}/v1/agent/service/register", json=body)).read()
        for note in ("one", "two"):
            await (await session.put(f"{registry.url}/v1/agent/check/pass/c?note={note}")).read()
        url = f"{registry.url}/v1/health/checks/web"
        async with session.get(url) as response:
            index = response.headers["X-Consul-Index"]
            assert (await response.json())[0]["Output"] == "one"
        async with session.get(f"{url}?index={index}&wait=5s") as response:
            assert (await response.json())[0]["Output"] == "two"


async def test_a_restart_keeps_keys_and_services(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    data = tmp_path / "registry.json"
    async with Registry(data=data) as registry:
        await (await session.put(f"{registry.url}/v1/kv/a", data=b"kept")).read()
        body = {"Name": "web", "Check": {"TTL": "30s", "Status": "passing"}}
        await (await session.put(f"{registry.url}/v1/agent/service/register", json=body)).read()
    async with Registry(data=data) as registry:
        async with session.get(f"{registry.url}/v1/kv/a?raw") as response:
            assert await response.read() == b"kept"
        async with session.get(f"{registry.url}/v1/health/service/web?passing") as response:
            assert len(await response.json()) == 1


async def test_a_change_is_on_disk_before_it_is_acknowledged(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    data = tmp_path / "registry.json"
    async with Registry(data=data) as registry:
        for number in range(5):
            url = f"{registry.url}/v1/kv/key-{number}"
            async with session.put(url, data=b"1") as response:
                assert response.status == 200
            assert f"key-{number}" in data.read_text()


async def test_a_change_that_cannot_be_saved_says_so_and_is_saved_later(
    session: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_RETRY_SAVE_S", 0.05)
    folder = tmp_path / "away"
    async with Registry(data=folder / "registry.json") as registry:
        async with session.put(f"{registry.url}/v1/kv/a", data=b"1") as response:
            assert response.status == 500
        folder.mkdir()
        async with asyncio.timeout(5):
            while not (folder / "registry.json").exists():
                await asyncio.sleep(0.01)


async def test_a_corrupt_data_file_stops_the_start(tmp_path: Path) -> None:
    data = tmp_path / "registry.json"
    data.write_text("{")
    with pytest.raises(StateCorrupt):
        await Registry(data=data).start()
    assert data.read_text() == "{"


async def test_a_port_in_use_is_an_error_with_a_hint() -> None:
    async with Registry() as registry:
        second = Registry(port=registry.port)
        with pytest.raises(MeshError, match="cannot listen") as caught:
            await second.start()
        assert caught.value.hint
        await second.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_says_where_it_listens_and_ends_cleanly(
    tmp_path: Path, number: signal.Signals
) -> None:
    pid_file = tmp_path / "pid"
    process = subprocess.Popen(
        [sys.executable, "-m", "meshctl.registry", "--port", "0", "--pid-file", pid_file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"listening on http://127.0.0.1:")
    assert pid_file.read_text() == f"{process.pid}\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, b"")
    assert not pid_file.exists()


def test_the_process_refuses_another_address_with_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshctl.registry", "--port", "0", "--host", "0.0.0.0"],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith(b"error: the embedded registry does not listen on 0.0.0.0")
