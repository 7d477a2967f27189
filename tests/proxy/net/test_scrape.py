"""The metrics port over real sockets: whom it answers, with what, and how it is bounded."""

import asyncio
import gzip
import ipaddress
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.core.metrics import Metrics
from proxy.model.settings import Address
from proxy.model.settings import Metrics as Placement
from proxy.net import admin
from proxy.net import scrape as module
from proxy.net.admin import PROMETHEUS, Answer
from proxy.net.scrape import Scrape, is_within

BODY = b"".join(b'a_metric{label="%d"} 1\n' % number for number in range(500))
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: web-1.example:15090\r\n"


class Port:
    """A running metrics port, and what its readers said they accept."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.accepted: list[str] = []
        self.body = BODY
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.number = 0
        self.host = ""
        self._scrape: Scrape | None = None

    async def start(self, host: str, *sources: str) -> None:
        placement = Placement(listen=Address(host=host, port=0), sources=sources)
        self._scrape = Scrape(placement, self._render, self.metrics)
        self.number, self.host = await self._scrape.start(), host

    async def close(self) -> None:
        if self._scrape is not None:
            await self._scrape.close()

    async def _render(self, accept: str) -> Answer:
        self.accepted.append(accept)
        await self.may_answer.wait()
        return Answer(body=self.body, content_type=PROMETHEUS)

    async def ask(self, data: bytes, *, at: str = "", come_from: str = "") -> bytes:
        """All that is answered; empty if the connection is cut."""
        address = (come_from, 0) if come_from else None
        reader, writer = await asyncio.open_connection(
            at or self.host, self.number, local_addr=address
        )
        try:
            async with asyncio.timeout(20):
                writer.write(data)
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    @property
    def refused(self) -> float:
        return self.metrics.counter("mesh_scrapes_refused_total", "").labels().value


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    made = Port()
    yield made
    await made.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


async def test_who_may_reads_the_metrics_whatever_name_it_calls_the_host_by(port: Port) -> None:
    await port.start("127.0.0.1", "127.0.0.1/32")
    answer = await port.ask(REQUEST + b"Accept: text/plain;version=0.0.4\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == 200
    assert b"Content-Type: text/plain; version=0.0.4" in head
    assert b"Content-Encoding" not in head
    assert body == BODY
    assert port.accepted == ["text/plain;version=0.0.4"]
    assert port.refused == 0


async def test_an_address_of_no_network_named_gets_not_a_byte_and_is_counted(port: Port) -> None:
    await port.start("127.0.0.1", "127.0.0.0/29", "10.0.0.0/8")
    assert await port.ask(REQUEST + b"\r\n", come_from="127.0.0.9") == b""
    assert port.accepted == []
    assert port.refused == 1
    assert status(await port.ask(REQUEST + b"\r\n", come_from="127.0.0.5")) == 200


async def test_without_a_network_nobody_is_answered(port: Port) -> None:
    await port.start("127.0.0.1")
    assert await port.ask(REQUEST + b"\r\n") == b""
    assert port.refused == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"GET / HTTP/1.1", 404),
        (b"GET /status HTTP/1.1", 404),
        (b"GET /metrics/x HTTP/1.1", 404),
        (b"POST /metrics HTTP/1.1", 405),
        (b"POST /reload HTTP/1.1", 404),
        (b"HEAD /metrics HTTP/1.1", 200),
    ],
)
async def test_there_is_nothing_else(port: Port, line: bytes, expected: int) -> None:
    await port.start("127.0.0.1", "127.0.0.0/8")
    answer = await port.ask(line + b"\r\nHost: a\r\n\r\n")
    assert status(answer) == expected
    if expected == 200:
        assert answer.endswith(b"\r\n\r\n")


async def test_a_web_page_reads_nothing(port: Port) -> None:
    await port.start("127.0.0.1", "127.0.0.0/8")
    assert status(await port.ask(REQUEST + b"Origin: http://evil.example\r\n\r\n")) == 403


async def test_it_is_packed_for_who_takes_it(port: Port) -> None:
    await port.start("127.0.0.1", "127.0.0.0/8")
    answer = await port.ask(REQUEST + b"Accept-Encoding: deflate, gzip\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
    assert len(body) < len(BODY) / 4
    assert gzip.decompress(body) == BODY


@pytest.mark.parametrize("header", [b"Accept-Encoding: identity", b"Accept-Encoding: gzip;q=0"])
async def test_it_is_not_packed_for_who_does_not(port: Port, header: bytes) -> None:
    await port.start("127.0.0.1", "127.0.0.0/8")
    answer = await port.ask(REQUEST + header + b"\r\n\r\n")
    assert b"Content-Encoding" not in answer
    assert answer.endswith(BODY)


async def test_what_is_small_is_not_packed(port: Port) -> None:
    port.body = b"a 1\n"
    await port.start("127.0.0.1", "127.0.0.0/8")
    answer = await port.ask(REQUEST + b"Accept-Encoding: gzip\r\n\r\n")
    assert answer.endswith(b"\r\n\r\na 1\n")


async def test_a_head_without_end_is_cut(port: Port) -> None:
    await port.start("127.0.0.1", "127.0.0.0/8")
    assert status(await port.ask(REQUEST + b"X: " + b"x" * admin.MAX_HEAD_BYTES)) == 431


async def test_who_says_nothing_is_closed(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "REQUEST_DEADLINE_S", 0.05)
    await port.start("127.0.0.1", "127.0.0.0/8")
    assert await port.ask(b"") == b""


async def test_beyond_so_many_connections_one_is_told(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    port.may_answer.clear()
    await port.start("127.0.0.1", "127.0.0.0/8")
    async with asyncio.TaskGroup() as group:
        first = [group.create_task(port.ask(REQUEST + b"\r\n")) for _ in range(2)]
        async with asyncio.timeout(20):
            while len(port.accepted) < 2:
                await asyncio.sleep(0.001)
        assert status(await port.ask(b"")) == 503
        port.may_answer.set()
    assert [status(task.result()) for task in first] == [200, 200]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_ipv6_is_told_apart_as_well(port: Port) -> None:
    await port.start("::1", "fd00::/8")
    assert await port.ask(REQUEST + b"\r\n") == b""
    await port.close()
    await port.start("::1", "::1/128")
    assert status(await port.ask(REQUEST + b"\r\n")) == 200


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        ("10.0.0.5", ("10.0.0.5/32",), True),
        ("10.0.0.6", ("10.0.0.5/32",), False),
        ("::ffff:10.0.0.5", ("10.0.0.0/24",), True),
        ("::ffff:10.0.1.5", ("10.0.0.0/24",), False),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("fd00::1", ("10.0.0.0/8", "fd00::/16"), True),
        ("10.0.0.5", ("::/0",), False),
        ("/run/socket", ("0.0.0.0/0",), False),
    ],
)
def test_a_peer_is_within_a_network_by_its_own_address(
    address: str, networks: tuple[str, ...], expected: bool
) -> None:
    assert is_within(address, tuple(map(ipaddress.ip_network, networks))) is expected
