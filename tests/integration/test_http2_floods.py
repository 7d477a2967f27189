"""HTTP/2's floods against proxy processes: ended in time, cheap, and nobody else suffers.

From a caller on the plaintext port, from a peer with a certificate on the mTLS port, and from the
application behind. The peak of the proxy's memory is the kernel's own (VmHWM).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fuzz.ours import Address, inbound_at, make_pki
from hostile.http2_attacks import APPLICATIONS, AT_ONCE_S, CLIENTS, SLOW_S, Answer, Attack
from hostile.http2_wire import PREFACE, Peer, connect, greeted, settings
from integration.parts import Part, many_files

from proxy.model.names import ServiceName, server_name

pytestmark = pytest.mark.timeout(400)

MAX_GROWTH_MIB = 32.0
CALLS = 4
"""To an application, one after the other."""
GOOD = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
_EVERY_S = 0.02
_PATIENCE_S = 15.0


@dataclass(slots=True)
class Others:
    """Requests of somebody else through the same proxy, one after the other."""

    count: int = 0
    errors: list[str] = field(default_factory=list)
    worst_s: float = 0.0

    async def run(self, address: Address, is_over: asyncio.Event) -> None:
        host, port, context, name = address
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name
        )
        while not is_over.is_set():
            begun = time.monotonic()
            writer.write(GOOD)
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    head = await reader.readuntil(b"\r\n\r\nok")
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.errors.append(repr(error))
                break
            if not head.startswith(b"HTTP/1.1 200"):
                self.errors.append(repr(head[:80]))
            self.worst_s = max(self.worst_s, time.monotonic() - begun)
            self.count += 1
            await asyncio.sleep(_EVERY_S)
        writer.transport.abort()


@dataclass(slots=True)
class Row:
    what: str
    outcome: str = ""
    took_s: float = 0.0
    """Until the connection was closed, or all was answered."""
    growth_mib: float = 0.0
    others: Others = field(default_factory=Others)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.what:48} {self.outcome:32} {self.took_s:5.2f} s {self.growth_mib:6.1f} MiB"
            f" {self.others.count:5} {len(self.others.errors):3} {self.others.worst_s:5.2f} s"
        )


HEADING = f"{'':48} {'':32} {'took':>7} {'memory':>10} {'others':>5} bad   worst"


async def watched(
    proxy: Part, other: Address, row: Row, attack: Any, most_mib: float = MAX_GROWTH_MIB
) -> Row:
    """``attack``, while somebody else's requests go on and the proxy's memory is looked at."""
    is_over = asyncio.Event()
    others = asyncio.create_task(row.others.run(other, is_over))
    while not row.others.count and not others.done():
        await asyncio.sleep(_EVERY_S)
    before = proxy.rss_kib
    proxy.forget_peak()
    try:
        await attack
    finally:
        row.growth_mib = (proxy.peak_kib - before) / 1024
        is_over.set()
        await others
    if row.growth_mib > most_mib:
        row.wrong.append("memory")
    if row.others.errors:
        row.wrong.append(f"others: {row.others.errors[:3]}")
    return row


async def strike(address: Address, attack: Attack) -> tuple[str, float]:
    """One connection's; how it ended, and after how long."""
    if attack.has_greeting:
        peer = await greeted(address, is_polite=attack.is_polite, opening=attack.opening)
    else:
        peer = await connect(address, is_polite=attack.is_polite)
    begun = time.monotonic()
    script: asyncio.Future[None] | None = None
    try:
        if isinstance(attack.does, bytes):
            peer.send(attack.does)
        else:
            script = asyncio.ensure_future(attack.does(peer))
        if attack.ends or (attack.within_s == SLOW_S and not attack.comes):
            await peer.closes(2 * SLOW_S)
            took = time.monotonic() - begun
            return f"closed {peer.goaway}" if peer.is_closed else "is not closed", took
        if script is not None and not attack.comes:
            await script
        if attack.comes:
            await peer.until(lambda: len(peer.statuses) >= attack.answers, 2 * SLOW_S)
            took = time.monotonic() - begun
            found = {status.decode() for status in peer.statuses.values()}
            return f"closed {peer.goaway}" if peer.is_closed else " ".join(sorted(found)), took
        is_alive = await peer.ping(b"the last", _PATIENCE_S)
        return "is answered" if is_alive else f"closed {peer.goaway}", time.monotonic() - begun
    finally:
        if script is not None:
            script.cancel()
        peer.abort()


async def by_clients(proxy: Part, address: Address, other: Address, attack: Attack) -> Row:
    row = Row(attack.what)

    async def all_of_them() -> None:
        ends = await asyncio.gather(*(strike(address, attack) for _ in range(attack.connections)))
        row.took_s = max(took for _, took in ends)
        row.outcome = ", ".join(sorted({what for what, _ in ends}))
        for what, took in ends:
            if attack.ends:
                is_right = what in ("closed ", *[f"closed {code}" for code in attack.ends])
            elif attack.comes:
                is_right = bool(what) and set(what.split()) <= set(attack.comes.split())
            elif attack.within_s == SLOW_S:
                is_right = what.startswith("closed")
            else:
                is_right = what == "is answered"
            if not is_right:
                row.wrong.append(what)
            # Where the machine is so busy that others wait, this waits as well.
            if took > attack.within_s + row.others.worst_s:
                row.wrong.append(f"{took:.1f} s")

    return await watched(proxy, other, row, all_of_them(), attack.most_mib)


class Application(Peer):
    """Hostile: it says the same to every request."""

    def __init__(self, row: list["Application"], answer: Answer) -> None:
        super().__init__(is_polite=answer.is_polite)
        row.append(self)
        self._answer = answer
        self._skipped = len(PREFACE)
        self.struck_at = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._answer.has_greeting:
            self.send(settings())
        else:
            self._strike(1)

    def headed(self, stream: int, fields: dict[bytes, bytes]) -> None:
        self._strike(stream)

    def _strike(self, stream: int) -> None:
        self.struck_at = self.struck_at or asyncio.get_running_loop().time()
        self.send(self._answer.to(stream))


class Hostile:
    """The application's port, where each row's application listens in its turn."""

    def __init__(self) -> None:
        self.answer: Answer = APPLICATIONS[0]
        self.connections: list[Application] = []

    async def start(self) -> int:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: Application(self.connections, self.answer), "127.0.0.1", 0
        )
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        self.server.close()
        self.forget()

    def forget(self) -> None:
        for each in self.connections:
            each.abort()
        self.connections.clear()


async def by_application(
    proxy: Part, address: Address, other: Address, hostile: Hostile, answer: Answer
) -> Row:
    row = Row(answer.what)
    hostile.answer = answer

    async def ask() -> str:
        host, port, context, name = address
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name
        )
        try:
            writer.write(GOOD)
            async with asyncio.timeout(_PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                while head.startswith(b"HTTP/1.1 1"):
                    head = await reader.readuntil(b"\r\n\r\n")
                return head[9:12].decode()
        except (ConnectionError, asyncio.IncompleteReadError):
            return "closed"
        except TimeoutError:
            return "nothing"
        finally:
            writer.transport.abort()

    async def all_of_them() -> None:
        begun = time.monotonic()
        found = [await ask() for _ in range(CALLS)]
        row.took_s = (time.monotonic() - begun) / CALLS
        if not set(found) <= {answer.comes, "502"}:
            row.wrong.append(f"the caller got {found}")
        struck = [each for each in hostile.connections if each.struck_at]
        if answer.ends:
            ended = [await each.closes(AT_ONCE_S) for each in struck]
            took = [each.closed_at - each.struck_at for each in struck if each.is_closed]
            row.took_s = max(took, default=0.0)
            codes = {each.goaway for each in struck}
            if not all(ended) or not took or not codes <= {"", *answer.ends}:
                row.wrong.append(f"{codes}, {ended}")
            if row.took_s > AT_ONCE_S + row.others.worst_s:
                row.wrong.append(f"{row.took_s:.1f} s")
            found.append(f"closed {' '.join(sorted(codes))}")
        row.outcome = ", ".join(sorted(set(found)))
        hostile.forget()

    return await watched(proxy, other, row, all_of_them())


async def run_all(directory: Path, parts: list[Part], shown: Callable[[str], None]) -> list[str]:
    pki = make_pki(directory)
    for service in ("web", "mob", "api", "db"):
        pki.issue(service)

    def start(role: str, *ports: int) -> Part:
        parts.append(Part(role, directory, *ports))
        return parts[-1]

    app = start("app")
    behind = start("far", app.port)
    far = start("far", app.port)
    near = start("near", behind.port)
    wrong: list[str] = []

    def note(title: str, rows: list[Row]) -> None:
        shown("\n".join([title, HEADING, *map(str, rows)]))
        wrong.extend(f"{title}: {row}: {row.wrong}" for row in rows if row.wrong)

    async def strikes(proxy: Part, reach: Callable[[], Address]) -> list[Row]:
        """What has memory for a subject by itself, what is slow at the same time."""
        alone = [each for each in CLIENTS if each.within_s < SLOW_S or each.connections == 1]
        rows = [await by_clients(proxy, reach(), reach(), each) for each in alone]
        slow = [by_clients(proxy, reach(), reach(), each) for each in CLIENTS if each not in alone]
        return rows + await asyncio.gather(*slow)

    listeners: dict[str, tuple[Part, Callable[[], Address]]] = {
        "By a caller, plaintext": (near, lambda: ("127.0.0.1", near.port, None, None)),
        "By a peer, mTLS": (far, lambda: inbound_at(pki, far.port)),
    }
    for title, rows in zip(
        listeners,
        await asyncio.gather(*(strikes(*each) for each in listeners.values())),
        strict=True,
    ):
        note(title, rows)
    hostile = Hostile()
    try:
        far2 = start("far2", await hostile.start(), app.port)
        host, port, context, _ = inbound_at(pki, far2.port)
        other = (host, port, context, server_name(pki.domain, ServiceName("db")))
        rows = [
            await by_application(far2, inbound_at(pki, far2.port), other, hostile, answer)
            for answer in APPLICATIONS
        ]
    finally:
        hostile.stop()
    note("By the application", rows)
    return wrong


def test_floods_end_in_time_cost_little_and_disturb_nobody(
    tmp_path: Path, show: Callable[[str], None]
) -> None:
    parts: list[Part] = []
    try:
        with many_files(20_000), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            wrong = runner.run(run_all(tmp_path, parts, show))
    finally:
        for part in reversed(parts):
            part.stop()
    assert not wrong, "\n".join(wrong)
