"""Live calls, as the proxies' rings have them: one command a host that asks again and again.

The path of a request knows nothing of it. What a ring forgot before it was read, and what was too
much to be shown, is counted and told.
"""

import asyncio
import fnmatch
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts.request import admin_query
from meshctl.inventory.model import Host
from meshctl.telemetry.lines import Reorder, moment
from meshctl.telemetry.plain import plain
from meshctl.telemetry.tasks import end, raise_failed
from meshctl.transport import Connector
from proxy.core.backoff import TokenBucket
from proxy.model.codec import Malformed, decode
from proxy.model.names import HostName
from proxy.model.recent import Ended, SeenRequest

EVERY_S: Final = 0.25
WINDOW_S: Final = 0.7
"""Hosts are asked four times a second, each at moments of its own; some are slow to answer."""
AGAIN_S: Final = 3.0
_QUEUE: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is shown; None: any."""

    service: str
    caller: str | None = None
    method: str | None = None
    path: str | None = None
    """``*`` stands for anything."""
    status: str | None = None
    """``503`` or ``5xx``."""
    flag: str | None = None
    side: Literal["source", "destination"] | None = None
    """None: each call once, as the caller's proxy saw it where there is one."""
    workloads: frozenset[str] = frozenset()
    """Services whose calls a caller's proxy tells of."""

    @property
    def is_bad_only(self) -> bool:
        """What failed is kept apart by the proxies, and longer."""
        return self.flag not in (None, "DI") or (self.status or "").startswith(("5", "0"))

    @property
    def question(self) -> str:
        """The first one to the admin port, whose answer says how to go on."""
        return f"/ended/{self.service},{'bad' if self.is_bad_only else 'all'},-"

    def test(self) -> Callable[[SeenRequest], bool]:
        tests: list[Callable[[SeenRequest], bool]] = []
        if self.side is None:
            tests.append(lambda seen: seen.side == "source" or seen.caller not in self.workloads)
        else:
            tests.append(lambda seen: seen.side == self.side)
        if self.caller is not None:
            tests.append(lambda seen: seen.caller == self.caller)
        if self.method is not None:
            method = self.method.upper()
            tests.append(lambda seen: seen.method.upper() == method)
        if self.path is not None:
            glob = re.compile(fnmatch.translate(re.sub(r"[][?]", r"[\g<0>]", self.path)))
            tests.append(lambda seen: glob.match(seen.path) is not None)
        if self.status is not None:
            first, is_class = self.status[0], self.status.lower().endswith("xx")
            tests.append(
                lambda seen: (
                    str(seen.status)[0] == first if is_class else str(seen.status) == self.status
                )
            )
        if self.flag is not None:
            tests.append(lambda seen: seen.flag == self.flag)
        return lambda seen: all(each(seen) for each in tests)


@dataclass(frozen=True, slots=True)
class Gap:
    """Calls of any service that ended on a host and are not shown."""

    host: HostName
    missed: int


@dataclass(frozen=True, slots=True)
class Silent:
    """A host that cannot be asked, or cannot any more."""

    host: HostName
    error: MeshError


@dataclass(frozen=True, slots=True)
class Held:
    """So many were not shown since the last: more came than may be shown in a second."""

    count: int


Event = SeenRequest | Gap | Silent | Held


async def tap(
    hosts: Iterable[Host],
    connector: Connector,
    wanted: Filter,
    *,
    for_s: float,
    most: int,
    per_s: float,
) -> AsyncGenerator[Event, None]:
    """Calls in the order of time, until there were ``most`` or ``for_s`` is over. To be closed
    (``contextlib.aclosing``): it has a command running on each host."""
    queue: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
    is_wanted = wanted.test()
    tasks = [
        asyncio.create_task(
            _watch(host, connector, wanted.question, is_wanted, queue), name=f"tap {host.name}"
        )
        for host in hosts
    ]
    order: Reorder[SeenRequest] = Reorder(WINDOW_S)
    bucket = TokenBucket(rate=per_s, burst=max(1, int(per_s)))
    ends = time.monotonic() + for_s
    shown = held = 0
    try:
        while time.monotonic() < ends or len(order):
            try:
                async with asyncio.timeout(WINDOW_S / 4):
                    event = await queue.get()
                if isinstance(event, SeenRequest):
                    at = moment(event.ended_at)
                    order.push(event.host, event, at, time.monotonic())
                else:
                    yield event
            except TimeoutError:
                raise_failed(tasks)
            now = time.monotonic()
            for seen in order.due(now) if now < ends else order.rest():
                if not bucket.try_take(now):
                    held += 1
                    continue
                if held:
                    yield Held(held)
                    held = 0
                yield seen
                shown += 1
                if shown >= most:
                    return
        if held:
            yield Held(held)
    finally:
        await end(tasks)


async def _watch(
    host: Host,
    connector: Connector,
    question: str,
    is_wanted: Callable[[SeenRequest], bool],
    queue: "asyncio.Queue[Event]",
) -> None:
    argv = admin_query(host, "--every", str(EVERY_S), "--follow", "GET", question)
    is_silent = False
    while True:
        try:
            transport = await connector.connect(host.name)
            async with transport.lines(argv) as lines:
                async for data in lines:
                    ended = _read(host.name, data)
                    is_silent = False
                    if ended.missed:
                        await queue.put(Gap(host.name, ended.missed))
                    for seen in ended.requests:
                        if is_wanted(seen):
                            await queue.put(seen)
            raise RemoteFailure(
                f"{host.name}: its proxy is not asked any more", hint="meshctl status"
            )
        except MeshError as error:
            if not is_silent:
                await queue.put(Silent(host.name, error))
            is_silent = True
        await asyncio.sleep(AGAIN_S)


def _read(host: HostName, data: bytes) -> Ended:
    try:
        return decode(data, Ended)
    except Malformed as error:
        try:
            said: Any = decode(data, dict[str, Any]).get("error")
        except Malformed:
            said = None
        if isinstance(said, str):
            raise RemoteFailure(
                f"{host}: its proxy does not answer: {plain(said, 300)}", hint="meshctl status"
            ) from None
        raise RemoteFailure(
            f"{host}: what its proxy tells cannot be read: {error}",
            hint="it is of another release: meshctl deploy",
        ) from error
