"""Probing a local application."""

import asyncio
import random
import socket
from typing import Any

import pytest

from proxy.model.settings import Address, HealthCheck
from proxy.net.health import HealthChecker, probe


def http(path: str = "/healthz", timeout_s: float = 1.0) -> HealthCheck:
    return HealthCheck(kind="http", path=path, timeout_s=timeout_s)


def app(port: int) -> Address:
    return Address(host="127.0.0.1", port=port)


def says(scripted: Any, data: bytes, *, close: bool = False) -> None:
    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            writer.close()

    scripted.script = script


@pytest.mark.parametrize(
    ("status", "is_healthy"),
    [(200, True), (204, True), (301, True), (399, True), (400, False), (404, False), (503, False)],
)
async def test_2xx_and_3xx_are_healthy(
    scripted: Any, reply: Any, status: int, is_healthy: bool
) -> None:
    says(scripted, reply(b"", status=status))
    failure = await probe(app(scripted.port), http())
    assert (failure is None) is is_healthy
    if not is_healthy:
        assert failure == f"GET /healthz answered {status}"
    assert scripted.requests[0].startswith("GET /healthz HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{scripted.port}\r\n" in scripted.requests[0]


async def test_a_large_or_endless_body_does_not_matter(scripted: Any) -> None:
    says(scripted, b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 500_000)
    assert await probe(app(scripted.port), http()) is None


@pytest.mark.parametrize(
    ("data", "close", "says_why"),
    [
        (b"", False, "no answer from"),
        (b"HTTP/1.1 200", False, "no answer from"),
        (b"", True, "closed before an answer"),
        (b"+PONG\r\n", False, "not HTTP"),
    ],
)
async def test_silence_and_nonsense_are_failures(
    scripted: Any, data: bytes, close: bool, says_why: str
) -> None:
    says(scripted, data, close=close)
    failure = await probe(app(scripted.port), http(timeout_s=0.2))
    assert failure is not None
    assert says_why in failure


async def test_tcp_needs_only_a_connection(scripted: Any, free_ports: Any) -> None:
    assert await probe(app(scripted.port), HealthCheck(kind="tcp")) is None
    assert scripted.requests == []
    failure = await probe(app(free_ports(1)[0]), HealthCheck(kind="tcp"))
    assert failure is not None
    assert "Connection refused" in failure


async def test_an_application_that_does_not_accept_is_a_failure_in_time() -> None:
    with socket.socket() as listener:  # a full backlog: connects hang
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.socket() as first, socket.socket() as second:
            for blocker in (first, second):
                blocker.setblocking(False)
                blocker.connect_ex(("127.0.0.1", port))
            failure = await probe(app(port), HealthCheck(kind="tcp", timeout_s=0.2))
    assert failure == f"no answer from 127.0.0.1:{port} within 0.2 s"


async def test_only_changes_are_reported_and_the_threshold_holds(
    scripted: Any, reply: Any, until: Any
) -> None:
    status = 200

    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"", status=status))

    scripted.script = script
    changes = []
    check = HealthCheck(kind="http", interval_s=0.05, unhealthy_after=3)
    checker = HealthChecker(
        "api",
        app(scripted.port),
        check,
        lambda: changes.append((checker.health.is_healthy, checker.health.failures)),
        rng=random.Random(1),
    )
    task = asyncio.ensure_future(checker.run())
    await until(lambda: len(scripted.requests) >= 3)
    assert changes == [(True, 0)]
    status = 500
    await until(lambda: len(changes) == 2)
    assert changes[1] == (False, 3)
    assert checker.health.detail == "GET / answered 500"
    status = 200
    await until(lambda: len(changes) == 3)
    assert changes[2] == (True, 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
