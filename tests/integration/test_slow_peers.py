"""2,000 slow clients of each kind against a proxy process: closed in time, cheap meanwhile."""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fuzz.ours import Address, inbound_at, make_pki
from integration.parts import Part, many_files

SLOW = 2000
READERS = 200
"""Each has megabytes waiting in the kernel."""
CLOSED_WITHIN_S = 15.0
_MEASURED_AFTER_S = 3.0
_DRIP_EVERY_S = 3.0
_LOOK_EVERY_S = 0.5
_OPENED_AT_ONCE = 100

HEAD = b"GET / HTTP/1.1\r\nHost: api\r\nX-Slow: "
BODY = b"POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 4096\r\n\r\nx"
READ = b"GET /big HTTP/1.1\r\nHost: api\r\n\r\n"
GOOD = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"


class Slow(asyncio.Protocol):
    """Sends the beginning of something, then a byte now and then; ``lasted_s`` once it is over."""

    def __init__(self, start: bytes) -> None:
        self._start = start
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0
        self.lasted_s: float | None = None
        self.status = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._began = time.monotonic()
        transport.write(self._start)
        if hasattr(transport, "set_read_buffer_limits"):  # the loop's TLS reads on until then
            transport.set_read_buffer_limits(1024)
        asyncio.get_running_loop().call_soon(self._drip)

    def _drip(self) -> None:
        is_reader = self._start is READ
        every_s = _LOOK_EVERY_S if is_reader else _DRIP_EVERY_S
        self._timer = asyncio.get_running_loop().call_later(every_s, self._drip)
        if not is_reader:
            self._transport.write(b"x")
        elif _is_reset(self._transport):  # a paused transport is not told
            self.connection_lost(None)
        else:
            self._transport.pause_reading()  # not before uvloop has begun to read

    def data_received(self, data: bytes) -> None:
        self.status = self.status or data[9:12]

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, _: Exception | None) -> None:
        if self.lasted_s is None:
            self.lasted_s = time.monotonic() - self._began
            if self._timer is not None:
                self._timer.cancel()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()


def _is_reset(transport: Any) -> bool:
    sock = transport.get_extra_info("socket")
    try:
        # TCP_INFO's first byte is the state; 1 is ESTABLISHED (tcp(7)).
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[0] != 1
    except OSError:
        return True


@dataclass
class Measured:
    kib_each: float = 0.0
    lasted_s: list[float] = field(default_factory=list)
    left: int = 0
    statuses: set[bytes] = field(default_factory=set)
    good: int = 0
    errors: list[str] = field(default_factory=list)
    worst_s: float = 0.0

    def __str__(self) -> str:
        last = max(self.lasted_s, default=0.0)
        return (
            f"{self.kib_each:.1f} KiB each, all closed after {last:.1f} s, {self.left} left, "
            f"{self.good} good requests, {len(self.errors)} errors, worst {self.worst_s:.2f} s"
        )


async def open_slow(address: Address, start: bytes) -> Slow:
    host, port, context, name = address
    sock = socket.socket()
    sock.setblocking(False)
    if start is READ:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (host, port))
    _, slow = await loop.create_connection(
        lambda: Slow(start), sock=sock, ssl=context, server_hostname=name
    )
    return slow


async def good_requests(address: Address, measured: Measured, is_over: asyncio.Event) -> None:
    host, port, context, name = address
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    while not is_over.is_set():
        begun = time.monotonic()
        writer.write(GOOD)
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 10)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            measured.errors.append(repr(error))
            break
        if not head.startswith(b"HTTP/1.1 200"):
            measured.errors.append(repr(head[:40]))
        measured.worst_s = max(measured.worst_s, time.monotonic() - begun)
        measured.good += 1
        await asyncio.sleep(0.05)
    writer.transport.abort()


async def attack(proxy: Part, address: Address, start: bytes) -> Measured:
    measured = Measured()
    is_over = asyncio.Event()
    good = asyncio.create_task(good_requests(address, measured, is_over))
    while not measured.good:  # what is loaded with the first request is not the attackers' doing
        await asyncio.sleep(0.05)
        assert not good.done(), measured.errors
    before = proxy.rss_kib
    slow: list[Slow] = []
    count = READERS if start is READ else SLOW
    for _ in range(count // _OPENED_AT_ONCE):
        slow += await asyncio.gather(*(open_slow(address, start) for _ in range(_OPENED_AT_ONCE)))
    await asyncio.sleep(_MEASURED_AFTER_S)
    measured.kib_each = (proxy.rss_kib - before) / count
    ends = time.monotonic() + CLOSED_WITHIN_S + 3
    while any(each.lasted_s is None for each in slow) and time.monotonic() < ends:
        await asyncio.sleep(0.25)
    is_over.set()
    await good
    for each in slow:
        if each.lasted_s is None:
            measured.left += 1
        else:
            measured.lasted_s.append(each.lasted_s)
        measured.statuses.add(each.status)
        each.end()
    return measured


KINDS = {"head": HEAD, "body": BODY, "read": READ}
LISTENERS: dict[str, tuple[str, Callable[[Any, int], Address]]] = {
    "outbound, plain": ("near", lambda _, port: ("127.0.0.1", port, None, None)),
    "inbound, mTLS": ("far", inbound_at),
}
"""Which process listens, and how to reach it."""
MAX_KIB = {"outbound, plain": 32, "inbound, mTLS": 128}
"""That a slow connection may cost the proxy."""


@pytest.mark.timeout(180)
def test_slow_clients_are_closed_in_time_cost_little_and_disturb_nobody(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    for service in ("web", "mob", "api", "db"):
        pki.issue(service)
    parts: list[Part] = []

    def start(role: str, port: int = 0) -> Part:
        parts.append(Part(role, tmp_path, port))
        return parts[-1]

    async def work() -> dict[str, Measured]:
        app = start("app")
        far = start("far", app.port)
        results = {}
        for listener, (role, reach) in LISTENERS.items():
            attacks = {}
            for kind, begin in KINDS.items():
                proxy = start(role, far.port if role == "near" else app.port)
                attacks[f"{listener}, {kind}"] = attack(proxy, reach(pki, proxy.port), begin)
            results |= dict(zip(attacks, await asyncio.gather(*attacks.values()), strict=True))
        return results

    try:
        with many_files(10 * SLOW), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(work())
    finally:
        for part in reversed(parts):
            part.stop()
    print("\n".join(f"{name}: {measured}" for name, measured in results.items()))
    for name, measured in results.items():
        listener, _, kind = name.rpartition(", ")
        assert measured.left == 0, f"{name}: {measured}"
        # Where the machine is so busy that good requests wait, the sweeper waits as well.
        assert max(measured.lasted_s) <= CLOSED_WITHIN_S + measured.worst_s, f"{name}: {measured}"
        assert measured.kib_each <= MAX_KIB[listener], f"{name}: {measured}"
        assert measured.errors == [], f"{name}: {measured}"
        assert measured.good > 20, f"{name}: {measured}"
        if kind != "read":
            assert measured.statuses <= {b"408", b""}, f"{name}: {measured.statuses}"
