"""The operator's edge against what is not Consul, or is Consul on a bad day.

What it does with a working Consul is in tests/contract/test_operator_edge.py.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from meshctl.consul import ConsulEdge, client
from meshctl.errors import Exit, InvalidInput, MeshError, RemoteFailure, Unreachable
from meshctl.pki.policykey import PolicyKey
from meshctl.pki.signing import Signing
from meshctl.registry import Registry
from proxy.model.names import TrustDomain
from proxy.model.policy import Policy

TD = TrustDomain("mesh.test")
JSON = {"Content-Type": "application/json", "X-Consul-Index": "7"}


@asynccontextmanager
async def answering(
    answer: Callable[[web.BaseRequest], web.StreamResponse],
) -> AsyncIterator[str]:
    """A server that gives ``answer`` to everything."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return answer(request)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking(data: bytes) -> AsyncIterator[str]:
    """A server that says ``data`` to whoever asks, and hangs up."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


KEY = PolicyKey.generate()


class Memory:
    """Stands in for the state directory: a counter."""

    trust_domain = TD

    def __init__(self) -> None:
        self._kept: object = None

    def read(self, name: str, into: object) -> object:
        return self._kept

    def write(self, name: str, value: object) -> None:
        self._kept = value


CALLS: dict[str, Callable[[ConsulEdge], object]] = {
    "leader": lambda edge: edge.leader(),
    "fetch_snapshot": lambda edge: edge.fetch_snapshot(KEY.trust),
    "publish": lambda edge: edge.publish(Policy(), Signing(state=Memory(), key=KEY)),  # type: ignore[arg-type]
    "workloads": lambda edge: edge.workloads(),
}


@pytest.fixture(params=sorted(CALLS))
def call(request: pytest.FixtureRequest) -> Callable[[ConsulEdge], object]:
    return CALLS[request.param]


async def failure(url: str, call: Callable[[ConsulEdge], object]) -> MeshError:
    async with ConsulEdge(url) as edge:
        with pytest.raises(MeshError) as caught:
            await call(edge)  # type: ignore[misc]  # each returns an awaitable of another type
    assert url in str(caught.value) or "Consul" in str(caught.value)
    assert caught.value.hint
    return caught.value


async def test_nobody_there_is_unreachable(call: Callable[[ConsulEdge], object]) -> None:
    async with Registry() as registry:
        url = registry.url
    error = await failure(url, call)
    assert isinstance(error, Unreachable)
    assert error.exit_code is Exit.UNREACHABLE
    assert "cannot be reached" in str(error)


async def test_an_unknown_name_is_unreachable(call: Callable[[ConsulEdge], object]) -> None:
    assert isinstance(await failure("http://consul.invalid:8500", call), Unreachable)


async def test_no_answer_in_time_is_unreachable(
    call: Callable[[ConsulEdge], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CALL_DEADLINE_S", 0.2)

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    ended = asyncio.Event()
    listener = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        error = await failure(url, call)
        await ended.wait()
    assert isinstance(error, Unreachable)
    assert "did not answer within 0.2 s" in str(error)


@pytest.mark.parametrize("status", [500, 503, 400, 429, 401])
async def test_a_status_of_failure_is_a_remote_failure_with_its_words(
    call: Callable[[ConsulEdge], object], status: int
) -> None:
    async with answering(lambda _: web.Response(status=status, text="No cluster leader")) as url:
        error = await failure(url, call)
    assert isinstance(error, RemoteFailure)
    assert "No cluster leader" in error.output


async def test_denied_access_names_the_token_that_is_needed(
    call: Callable[[ConsulEdge], object],
) -> None:
    async with answering(lambda _: web.Response(status=403, text="Permission denied")) as url:
        error = await failure(url, call)
    assert isinstance(error, RemoteFailure)
    assert "token" in error.hint


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>It works!</html>",
        b"{",
        b"\xff\xfe",
        b"null",
        b"5",
        b"[5]",
        b'["a"]',
        b"[[]]",
        b'{"a": 1}',
        b'[{"Value": "!!!", "ModifyIndex": 1}]',
        b'[{"Value": 5, "ModifyIndex": 1}]',
        b'[{"Value": null, "ModifyIndex": "1"}]',
        b"[" * 100_000,
    ],
)
async def test_an_answer_of_another_shape_is_never_a_crash(
    call: Callable[[ConsulEdge], object], body: bytes
) -> None:
    async with (
        answering(lambda _: web.Response(body=body, headers=JSON)) as url,
        ConsulEdge(url) as edge,
    ):
        # Where a call has nothing to complain of (no service is listed), it may also succeed.
        with contextlib.suppress(RemoteFailure, Unreachable):
            await call(edge)  # type: ignore[misc]  # each returns an awaitable of another type


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
async def test_what_is_not_http_is_never_a_crash(
    call: Callable[[ConsulEdge], object], data: bytes
) -> None:
    async with talking(data) as url:
        assert isinstance(await failure(url, call), RemoteFailure | Unreachable)


async def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 1000)
    async with answering(lambda _: web.Response(body=b" " * 2000, headers=JSON)) as url:
        for call in CALLS.values():
            assert isinstance(await failure(url, call), RemoteFailure)


async def test_a_redirect_is_not_followed(call: Callable[[ConsulEdge], object]) -> None:
    asked = []

    def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    async with answering(answer) as url:
        assert isinstance(await failure(url, call), RemoteFailure)
    assert "/elsewhere" not in asked


async def test_a_malformed_instance_is_a_remote_failure() -> None:
    def answer(request: web.BaseRequest) -> web.Response:
        if request.path.endswith("/services"):
            return web.Response(body=b'{"mesh-api": []}', headers=JSON)
        return web.Response(body=b'[{"Service": {"Meta": {"mesh": ""}}}]', headers=JSON)

    async with answering(answer) as url:
        error = await failure(url, CALLS["workloads"])
    assert "mesh-api" in str(error)


async def test_no_leader_yet_is_a_remote_failure() -> None:
    async with answering(lambda _: web.Response(body=b'""', headers=JSON)) as url:
        error = await failure(url, CALLS["leader"])
    assert "has no leader" in str(error)


async def test_publishing_gives_up_on_a_key_that_never_holds_still() -> None:
    puts = 0

    def answer(request: web.BaseRequest) -> web.Response:
        nonlocal puts
        if request.method == "PUT":
            puts += 1
            return web.Response(body=b"false", headers=JSON)
        if "catalog" in request.path:
            return web.Response(body=b"{}", headers=JSON)
        entry = {"Value": base64.b64encode(b"x").decode(), "ModifyIndex": puts}
        return web.Response(body=json.dumps([entry]).encode(), headers=JSON)

    async with answering(answer) as url:
        error = await failure(url, CALLS["publish"])
    assert puts == 10
    assert "changed by others" in str(error)


@pytest.mark.parametrize(
    "url", ["", "consul:8500", "ftp://x:1", "http://", "http://x:99999", "http://x:1/path", "//x"]
)
def test_a_url_that_is_none_is_invalid_input(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ConsulEdge(url)
    assert "http://host:port" in caught.value.violations[0].hint


async def test_the_token_given_wins_over_the_environments_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "from-environment")
    seen = []

    def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request.headers.get("X-Consul-Token"))
        return web.Response(status=404, headers=JSON)

    async with answering(answer) as url, ConsulEdge(url, "given-secret") as edge:
        await edge.fetch_snapshot(KEY.trust)
        assert "given-secret" not in repr(edge)
    assert seen == ["given-secret"]


async def test_ipv6_and_a_trailing_slash_are_understood() -> None:
    try:
        registry = Registry(host="::1")
        await registry.start()
    except MeshError:
        pytest.skip("this machine has no IPv6 loopback")
    try:
        async with ConsulEdge(f"{registry.url}/") as edge:
            assert await edge.leader()
    finally:
        await registry.stop()
