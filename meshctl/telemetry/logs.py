"""The proxies' log lines of all hosts: where they are, and how they are read.

On a host with systemd the journal has the proxy's own lines and, unless policy sends them to a
file, the lines of calls; a local host has two files. Hosts are asked at the same time; one that
does not answer is named and costs nothing but its own lines.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from meshctl.apply.steps import log_file
from meshctl.errors import MeshError
from meshctl.facts.request import layout_of, uses_systemd
from meshctl.inventory.model import Host
from meshctl.layout import PROXY_UNIT
from meshctl.telemetry.lines import Line, Reorder, from_journal, from_text, merged
from meshctl.telemetry.tasks import end, raise_failed
from meshctl.transport import Connector
from proxy.model.names import HostName

LINES_PER_FILE: Final = 50_000
"""Read of each file, from its end: some 30 MB."""
ONE_LOOK_S: Final = 120.0
WINDOW_S: Final = 1.0
"""How long a followed line waits for older ones: the proxies write ten times a second."""
AGAIN_S: Final = 3.0
_QUEUE: Final = 10_000
_FILES = 'tail -q -n "$2" -- "$1.1" "$1" 2>/dev/null; :'

Test = Callable[[Line], bool]
Failed = Callable[[HostName, MeshError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    host: HostName
    name: str
    argv: tuple[str, ...]
    is_journal: bool

    def read(self, data: bytes) -> Line | None:
        data = data.rstrip(b"\r\n")
        if not data:
            return None
        return from_journal(self.host, data) if self.is_journal else from_text(self.host, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    lines: tuple[Line, ...]
    """In one order."""
    left_out: int
    """Older ones that were wanted too."""
    failures: dict[HostName, MeshError]


def sources(
    host: Host, since_s: float, *, is_following: bool, most: int | None = None
) -> tuple[Source, ...]:
    """``since_s``: how far back; a file is read from its end, whatever it says. ``most``: so many
    lines of each are enough."""
    found = []
    layout = layout_of(host)
    files = [layout.access_log]
    if uses_systemd(host):
        journal = (
            "journalctl", "--unit", PROXY_UNIT, "--output=json", "--all", "--quiet", "--no-pager",
            "--output-fields=MESSAGE", f"--since=-{max(0, round(since_s * 1000))}ms",
        )  # fmt: skip
        more: tuple[str, ...] = (f"--lines={'all' if most is None else most}",)
        more += ("--follow",) if is_following else ()
        found.append(Source(host=host.name, name="journal", argv=journal + more, is_journal=True))
    else:
        files.append(log_file(host))
    for path in files:
        if is_following:
            lines = LINES_PER_FILE if since_s else 0
            argv: tuple[str, ...] = ("tail", "-q", "-n", str(lines), "-F", "--", path)
        else:
            lines = min(LINES_PER_FILE, LINES_PER_FILE if most is None else most)
            argv = ("sh", "-c", _FILES, "sh", path, str(lines))
        found.append(Source(host=host.name, name=path, argv=argv, is_journal=False))
    return tuple(found)


async def look(
    hosts: Iterable[Host],
    connector: Connector,
    *,
    since_s: float,
    most: int,
    is_wanted: Test | None,
    parallel: int,
) -> Looked:
    """The newest ``most`` lines that are wanted (None: all are). Never raises for a host that does
    not answer."""
    oldest = time.time() - since_s
    gate = asyncio.Semaphore(parallel)
    failures: dict[HostName, MeshError] = {}
    counted = 0

    async def read(source: Source) -> deque[Line]:
        nonlocal counted
        kept: deque[Line] = deque(maxlen=most)
        async with gate:
            try:
                transport = await connector.connect(source.host)
                async with transport.lines(source.argv, timeout_s=ONE_LOOK_S) as lines:
                    async for data in lines:
                        line = source.read(data)
                        if line is None or not _is_young(line, oldest):
                            continue
                        if is_wanted is not None and not is_wanted(line):
                            continue
                        counted += 1
                        kept.append(line)
            except MeshError as error:
                failures[source.host] = error
        return kept

    # One more than are kept: so that it is known that there are older ones.
    enough = most + 1 if is_wanted is None else None
    every = [
        each for host in hosts for each in sources(host, since_s, is_following=False, most=enough)
    ]
    found = await asyncio.gather(*map(read, every))
    lines = deque(merged(found), maxlen=most)
    return Looked(lines=tuple(lines), left_out=counted - len(lines), failures=failures)


@asynccontextmanager
async def following(
    hosts: Iterable[Host],
    connector: Connector,
    *,
    since_s: float,
    is_wanted: Test,
    failed: Failed,
) -> AsyncIterator[AsyncIterator[Line]]:
    """Lines as they come, until the context ends. A source that breaks is told of by ``failed``
    and opened again."""
    queue: asyncio.Queue[tuple[str, Line]] = asyncio.Queue(_QUEUE)

    async def read(host: Host, number: int) -> None:
        oldest = time.time() - since_s
        back_s, is_down = since_s, False
        while True:
            source = sources(host, back_s, is_following=True)[number]
            began = time.time()
            try:
                transport = await connector.connect(source.host)
                async with transport.lines(source.argv) as lines:
                    async for data in lines:
                        is_down = False
                        line = source.read(data)
                        if line is None or not _is_young(line, oldest) or not is_wanted(line):
                            continue
                        await queue.put((f"{source.host} {source.name}", line))
            except MeshError as error:
                if not is_down:
                    failed(source.host, error)
                is_down = True
            oldest = max(oldest, began)
            await asyncio.sleep(AGAIN_S)
            back_s = time.time() - oldest

    tasks = [
        asyncio.create_task(read(host, number), name=f"logs of {host.name}")
        for host in hosts
        for number in range(len(sources(host, 0, is_following=True)))
    ]
    try:
        yield _in_order(queue, tasks)
    finally:
        await end(tasks)


async def _in_order(
    queue: "asyncio.Queue[tuple[str, Line]]", tasks: "Sequence[asyncio.Task[None]]"
) -> AsyncIterator[Line]:
    order: Reorder[Line] = Reorder(WINDOW_S)
    while True:
        try:
            async with asyncio.timeout(WINDOW_S / 4 if len(order) else WINDOW_S):
                name, line = await queue.get()
                order.push(name, line, line.at, time.monotonic())
        except TimeoutError:
            raise_failed(tasks)
        for line in order.due(time.monotonic()):
            yield line


def _is_young(line: Line, oldest: float) -> bool:
    return line.at is None or line.at >= oldest
