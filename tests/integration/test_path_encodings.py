"""No spelling of a denied path reaches it, behind two proxies, with three servers of files.

Each server reads paths in its own way. Where nothing denies it the secret is read by many of these
spellings, which is what makes it mean something that with any kind of rule it is read by none.
"""

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.backends import SERVERS, Unavailable
from integration.encodings import KINDS, Case, make

from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import ServicePolicy
from proxy.model.routing import Match, PathMatch

pytestmark = pytest.mark.timeout(900)

SEED = 20260707
COUNT = 10_000
SECRET, PUBLIC = b"the secret that nobody may read", b"what everybody may read"
SECRET_PATH, PUBLIC_PATH = "/secret/file.txt", "/public/file.txt"
SERVICES = ("api", "api2", "orders")
"""In front of ``SERVERS``, in this order."""
_AT_ONCE = 8
_ANSWERED_IN_S = 60.0
_ALL = Intention(name="all", allow=("*",))


def _denying(path: PathMatch) -> tuple[Intention, ...]:
    return (_ALL, Intention(name="closed", deny=("*",), match=Match(path=path)))


RULES: dict[str, tuple[Intention, ...]] = {
    "a denied prefix": _denying(PathMatch(prefix="/secret")),
    "a denied path": _denying(PathMatch(exact=SECRET_PATH)),
    "a denied expression": _denying(PathMatch(regex="/secret/[a-z.]*")),
    "another path allowed": (
        Intention(name="open", allow=("web",), match=Match(path=PathMatch(prefix="/public"))),
    ),
}
OUTCOMES = ("proxy", "server", "harmless")
"""Refused by a proxy, refused by the server, answered with something else than the secret."""


@pytest.fixture
def site() -> Iterator[Path]:
    """Readable for a server that runs as nobody, as below ``tmp_path`` nothing is."""
    path = Path(tempfile.mkdtemp(prefix="mesh-site-"))
    path.chmod(0o755)
    for name, text in ((SECRET_PATH, SECRET), (PUBLIC_PATH, PUBLIC)):
        file = path / name[1:]
        file.parent.mkdir()
        file.write_bytes(text)
    (path / "public" / "sub").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def grid(make_grid: Any, site: Path, tmp_path: Path) -> Any:
    """``web`` calls each of ``SERVICES``, behind each of which is one of ``SERVERS``."""
    try:
        for server in SERVERS:
            server.require()
    except Unavailable as error:
        if os.environ.get("MESHCTL_REQUIRE_BACKENDS") == "1":
            pytest.fail(f"{error} (MESHCTL_REQUIRE_BACKENDS=1)", pytrace=False)
        pytest.skip(str(error))
    left = iter(SERVERS)

    def next_server() -> Any:
        server = next(left)
        return server(tmp_path / server.name, site)

    grid = await make_grid(next_server)
    for service, server in zip(SERVICES, SERVERS, strict=True):
        await grid.serve(service, server.name)
    return grid


class Reader:
    """One connection, opened again when it was closed."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, target: bytes) -> tuple[int, bytes, bytes]:
        """Status, head in lower case, body."""
        async with asyncio.timeout(_ANSWERED_IN_S):
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._address)
            reader, writer = self._streams
            writer.write(b"GET %b HTTP/1.1\r\nHost: api\r\n\r\n" % target)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await self._body(reader, head)
            if b"connection: close" in head:
                self.close()
            return int(head.split(b" ", 2)[1]), head, body

    @staticmethod
    async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
        if b"transfer-encoding: chunked" not in head:
            length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
            return await reader.readexactly(int(length)) if length else await reader.read()
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _try(grid: Any, service: str, cases: list[Case]) -> Counter[tuple[str, str]]:
    """How often each kind ended in which way; ``read``: with the secret."""
    address = grid.planes["near"].outbound_address(ServiceName("web"), ServiceName(service))
    found: Counter[tuple[str, str]] = Counter()
    left = iter(cases)

    async def work() -> None:
        reader = Reader(address)
        for case in left:
            status, head, body = await reader.get(case.target)
            if SECRET in body:
                outcome = "read"
            elif b"\r\nx-mesh-flag: " in head:
                outcome = "proxy"
            else:
                outcome = "server" if status >= 400 else "harmless"
            found[case.kind, outcome] += 1
            if outcome == "read":
                found[repr(case.target)[:200], outcome] += 1
        reader.close()

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return found


async def _try_all(grid: Any, cases: list[Case]) -> list[Counter[tuple[str, str]]]:
    return list(await asyncio.gather(*(_try(grid, service, cases) for service in SERVICES)))


def _put(grid: Any, intentions: tuple[Intention, ...]) -> None:
    grid.policy = {name: ServicePolicy(intentions=intentions) for name in SERVICES}
    grid.apply()


async def _require_public(grid: Any) -> None:
    """Each server serves, also what is spelled oddly and has one reading."""
    for service in SERVICES:
        address = grid.planes["near"].outbound_address(ServiceName("web"), ServiceName(service))
        reader = Reader(address)
        for target in (b"/public/file.txt", b"/x/..//public/./%66ile.txt?x=;"):
            status, _, body = await reader.get(target)
            assert (status, body) == (200, PUBLIC), (service, target)
        reader.close()


def _table(
    protected: list[Counter[tuple[str, str]]], bare: list[Counter[tuple[str, str]]]
) -> Iterator[str]:
    names = [server.name for server in SERVERS]
    yield (
        f"{COUNT} spellings of a denied path, to each server behind two proxies, under each of "
        f"{len(RULES)} kinds of rule: refused by a proxy / by the server / harmless answer"
    )
    yield "(last column: how many read the secret where nothing denied it)"
    yield "  ".join([f"{'':20}", *(f"{name:>18}" for name in names), f"{'/'.join(names):>20}"])
    for kind in (*KINDS, "mixed", ""):

        def count(found: Counter[tuple[str, str]], outcome: str, kind: str = kind) -> int:
            if kind:
                return found[kind, outcome]
            return sum(found[each, outcome] for each in (*KINDS, "mixed"))

        cells = ["/".join(str(count(found, each)) for each in OUTCOMES) for found in protected]
        read = "/".join(str(count(found, "read")) for found in bare)
        yield "  ".join([f"{kind or 'all':20}", *(f"{cell:>18}" for cell in cells), f"{read:>20}"])


async def test_no_spelling_of_a_denied_path_reads_it(
    grid: Any, show: Callable[[str], None]
) -> None:
    cases = make(SEED, COUNT, SECRET_PATH)
    assert len({case.target for case in cases}) == COUNT
    protected = [Counter[tuple[str, str]]() for _ in SERVERS]
    for rule, intentions in RULES.items():
        _put(grid, intentions)
        await _require_public(grid)
        found = await _try_all(grid, cases)
        for total, one in zip(protected, found, strict=True):
            total.update(one)
            assert not [key for key in one if key[1] == "read"], rule
    _put(grid, ())
    await _require_public(grid)
    bare = await _try_all(grid, cases)
    show("\n".join(_table(protected, bare)))
    for server, found, open_ in zip(SERVERS, protected, bare, strict=True):
        tried = sum(found[kind, outcome] for kind in (*KINDS, "mixed") for outcome in OUTCOMES)
        assert tried == COUNT * len(RULES), server.name
        for kind in (*KINDS, "mixed"):
            assert found[kind, "proxy"], (server.name, kind)
        # Else the rules would have had nothing to keep from it.
        read = {kind for kind in KINDS if open_[kind, "read"]}
        assert {"as it is", "dots", "escaped dots", "slashes", "escaped letters"} <= read
