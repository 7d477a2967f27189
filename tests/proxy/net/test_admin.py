"""The admin port: what it answers and whom it refuses."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.net import admin as module
from proxy.net.admin import (
    PROMETHEUS,
    Admin,
    Answer,
    Route,
    is_loopback_host,
    json_answer,
    text_answer,
)


async def hello() -> Answer:
    return json_answer({"hello": 1})


async def unready() -> Answer:
    return text_answer("starting", 503)


async def broken() -> Answer:
    raise RuntimeError("secret detail")


async def slow() -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def metrics() -> Answer:
    return Answer(body=b"a 1\n", content_type=PROMETHEUS)


ROUTES = {
    "/hello": Route(method="GET", handler=hello),
    "/ready": Route(method="GET", handler=unready),
    "/broken": Route(method="GET", handler=broken),
    "/slow": Route(method="GET", handler=slow),
    "/metrics": Route(method="GET", handler=metrics),
    "/do": Route(method="POST", handler=hello),
    "/private": Route(method="GET", handler=hello, is_private=True),
}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    admin = Admin(ROUTES)
    yield await admin.start("127.0.0.1", 0)
    await admin.close()


async def raw(port: int, data: bytes, *, step: int | None = None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            for i in range(0, len(data), step or len(data)):
                writer.write(data[i : i + (step or len(data))])
                await writer.drain()
                await asyncio.sleep(0)
            return await reader.read()
    finally:
        writer.close()


async def ask(port: int, line: str, *headers: str, host: str = "127.0.0.1:15000") -> bytes:
    lines = [f"{line} HTTP/1.1", f"Host: {host}", *headers, "", ""]
    return await raw(port, "\r\n".join(lines).encode())


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


async def test_a_path_is_answered_whole_and_the_connection_closed(port: int) -> None:
    answer = await ask(port, "GET /hello?x=1")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == 200
    assert body == b'{"hello":1}\n'
    assert b"Content-Type: application/json" in head
    assert b"Content-Length: 12" in head
    assert b"Connection: close" in head


async def test_a_request_in_single_bytes_is_the_same_request(port: int) -> None:
    answer = await raw(port, b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n", step=1)
    assert status(answer) == 200


async def test_prometheus_gets_its_content_type(port: int) -> None:
    assert b"Content-Type: text/plain; version=0.0.4" in await ask(port, "GET /metrics")


async def test_the_status_of_an_answer_is_the_status(port: int) -> None:
    answer = await ask(port, "GET /ready")
    assert status(answer) == 503
    assert answer.endswith(b"\r\n\r\nstarting\n")


async def test_head_has_the_length_and_no_body(port: int) -> None:
    answer = await ask(port, "HEAD /hello")
    assert b"Content-Length: 12" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_unknown_paths_and_methods(port: int) -> None:
    assert status(await ask(port, "GET /nope")) == 404
    assert status(await ask(port, "GET /hello/")) == 404
    wrong = await ask(port, "POST /hello")
    assert status(wrong) == 405
    assert b"Allow: GET\r\n" in wrong
    assert b"Allow: POST\r\n" in await ask(port, "GET /do")
    assert status(await ask(port, "DELETE /do")) == 405
    assert status(await ask(port, "POST /do", "Content-Length: 0")) == 200


@pytest.mark.parametrize(
    "headers", [["Content-Length: 5"], ["Transfer-Encoding: chunked"], ["Content-Length:  00"]]
)
async def test_bodies_are_refused(port: int, headers: list[str]) -> None:
    assert status(await ask(port, "POST /do", *headers)) == 413


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1:15000", True),
        ("127.1.2.3", True),
        ("localhost:15000", True),
        ("LOCALHOST", True),
        ("[::1]:15000", True),
        ("[::1]", True),
        ("evil.example", False),
        ("evil.example:15000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.1:15000", False),
        ("", False),
        ("::1", False),
        ("127.0.0.1:evil", False),
        ("0.0.0.0", False),
        ("127.1", False),
        ("user@127.0.0.1", False),
    ],
)
async def test_only_loopback_may_be_meant(port: int, host: str, is_loopback: bool) -> None:
    assert is_loopback_host(host) is is_loopback
    assert status(await ask(port, "GET /hello", host=host)) == (200 if is_loopback else 403)


async def test_exactly_one_host_header_is_needed(port: int) -> None:
    assert status(await raw(port, b"GET /hello HTTP/1.1\r\n\r\n")) == 400
    assert status(await ask(port, "GET /hello", "Host: localhost")) == 400


async def test_web_pages_are_refused(port: int) -> None:
    assert status(await ask(port, "POST /do", "Origin: https://evil.example")) == 403


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_not_http_is_refused(port: int, garbage: bytes) -> None:
    assert status(await raw(port, garbage)) == 400


async def test_an_upgrade_is_not_taken(port: int) -> None:
    answer = await ask(port, "GET /hello", "Connection: upgrade", "Upgrade: websocket")
    assert status(answer) in {200, 400}
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_second_request_on_the_connection_is_not_answered(port: int) -> None:
    one = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = await raw(port, one + one.replace(b"/hello", b"/ready"))
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_an_endless_head_is_refused(port: int) -> None:
    data = b"GET /hello HTTP/1.1\r\nX: " + b"y" * (module.MAX_HEAD_BYTES + 1)
    assert status(await raw(port, data)) == 431


async def test_a_failing_handler_says_nothing_of_its_insides(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await ask(port, "GET /broken")
    assert status(answer) == 500
    assert b"secret detail" not in answer
    assert "secret detail" in caplog.text


async def test_a_slow_handler_and_a_slow_client_end_at_their_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HANDLER_DEADLINE_S", 0.05)
    monkeypatch.setattr(module, "REQUEST_DEADLINE_S", 0.1)
    admin = Admin(ROUTES)
    port = await admin.start("127.0.0.1", 0)
    assert status(await ask(port, "GET /slow")) == 504
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /hello HT")
    with contextlib.suppress(ConnectionResetError):  # a reset is as good as a clean end
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await admin.close()


async def test_too_many_connections_are_turned_away(
    port: int, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(module, "MAX_TRUSTED_CONNECTIONS", 2)
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert status(await asyncio.wait_for(reader.read(), 5)) == 503
    for other in (writer, *(pair[1] for pair in idle)):
        other.close()
    await asyncio.sleep(0)

    async def is_free() -> bool:
        return status(await ask(port, "GET /hello")) == 200

    async with asyncio.timeout(5):
        while not await is_free():
            await asyncio.sleep(0.01)


async def test_a_taken_port_is_an_error(port: int) -> None:
    with pytest.raises(OSError):
        await Admin(ROUTES).start("127.0.0.1", port)


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int | None) -> None:
    """The other end of every connection is this user's; None: nobody can tell."""
    monkeypatch.setattr("proxy.net.sock_diag.SocketOwners.uid", lambda *_: uid)
    monkeypatch.setattr("proxy.net.sock_diag.SocketOwners._works", lambda _: True)


@pytest.mark.parametrize("uid", [12345, 65534, None])
async def test_what_is_not_for_everybody_is_refused_to_other_users(
    port: int, monkeypatch: pytest.MonkeyPatch, uid: int | None
) -> None:
    as_user(monkeypatch, uid)
    for request in (b"POST /do", b"GET /private", b"HEAD /private"):
        answer = await raw(port, request + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403")
    answer = await raw(port, b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("uid", [0, os.geteuid()])
async def test_root_and_the_proxys_own_user_may_do_all(
    port: int, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    as_user(monkeypatch, uid)
    for request in (b"POST /do", b"GET /private"):
        answer = await raw(port, request + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")


async def test_where_nobody_can_tell_who_asks_nothing_changes(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.net.sock_diag.SocketOwners._works", lambda _: False)
    answer = await raw(port, b"POST /do HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403")


async def test_a_real_process_of_another_user_may_not_change_anything(port: int) -> None:
    python = shutil.which("python3", path="/usr/bin:/bin")
    if os.geteuid() != 0 or python is None:
        pytest.skip("needs root, to be another user, and a Python of the system")
    code = (
        "import http.client, sys\n"
        "c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=60)\n"
        "c.request(sys.argv[2], sys.argv[3])\n"
        "print(c.getresponse().status)"
    )
    expected = {("POST", "/do"): "403", ("GET", "/private"): "403", ("GET", "/hello"): "200"}
    for user in ("nobody", "root"):
        for (method, path), status in expected.items():
            done = await asyncio.to_thread(
                subprocess.run,
                [python, "-I", "-c", code, str(port), method, path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                timeout=90,
                user=user,
                extra_groups=[],
                cwd="/",
            )
            assert done.stdout.strip() == ("200" if user == "root" else status)


@pytest.mark.parametrize(("uid", "expected"), [(0, 200), (12345, 503)])
async def test_other_users_cannot_lock_root_out_by_their_connections(
    port: int, monkeypatch: pytest.MonkeyPatch, uid: int, expected: int
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    as_user(monkeypatch, uid)
    _, idle = await asyncio.open_connection("127.0.0.1", port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status(await asyncio.wait_for(reader.read(), 30)) == expected
    finally:
        idle.close()
        writer.close()
