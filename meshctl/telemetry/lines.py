"""One line of a host's logs, read; and lines of many hosts put into one order. Pure.

What a host sends is untrusted text: it is decoded here, and made fit for a terminal where it is
shown. A line that is not one of the two JSON kinds is text, and stays what it is.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final, Generic, Literal, TypeVar

from proxy.model.codec import Malformed, decode
from proxy.model.names import HostName

MAX_WAITING: Final = 20_000
"""Lines that wait for late ones of other hosts; beyond, the oldest goes out at once."""

_LONG_AGO: Final = float("-inf")

T = TypeVar("T")
Kind = Literal["access", "proxy", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    host: HostName
    kind: Kind
    """``access``: of a call. ``proxy``: of the proxy itself. ``text``: a template's, systemd's."""
    at: float | None
    """Unix seconds, by the host's clock; None: it does not say."""
    text: str
    fields: Mapping[str, Any]
    """Empty for text."""

    def names(self, service: str) -> bool:
        """Whether it is about a service, as far as one can tell."""
        if self.kind == "access":
            return service in (self.fields.get("caller"), self.fields.get("service"))
        if self.kind == "proxy":
            return service in self.fields.values()
        return service in self.text.replace(",", " ").split()

    @property
    def document(self) -> dict[str, Any]:
        """For programs: what the host wrote, with its name."""
        if self.kind == "text":
            return {"host": self.host, "ts": _rfc3339(self.at), "text": self.text}
        return {**self.fields, "host": self.host}


def from_journal(host: HostName, data: bytes) -> Line | None:
    """Of ``journalctl -o json``; None: not an entry with a message."""
    try:
        entry = decode(data, dict[str, Any])
    except Malformed:
        return None
    said = entry.get("MESSAGE")
    if isinstance(said, list):  # bytes that are not UTF-8
        numbers = [each for each in said if isinstance(each, int) and 0 <= each < 256]
        said = bytes(numbers).decode("utf-8", "backslashreplace")
    if not isinstance(said, str):
        return None
    stamp = str(entry.get("__REALTIME_TIMESTAMP"))
    is_stamp = stamp.isascii() and stamp.isdecimal() and len(stamp) < 18
    return from_text(host, said.encode("utf-8", "replace"), int(stamp) / 1e6 if is_stamp else None)


def from_text(host: HostName, data: bytes, at: float | None = None) -> Line:
    """A line as the proxy wrote it; ``at``: when somebody received it."""
    fields: Mapping[str, Any] = {}
    kind: Kind = "text"
    if data.startswith(b"{"):
        try:
            fields = decode(data, dict[str, Any])
        except Malformed:
            fields = {}
        if fields.get("log") == "access":
            kind = "access"
        elif "msg" in fields and "level" in fields:
            kind = "proxy"
        else:
            fields = {}
    own = moment(fields.get("ts"))
    return Line(
        host=host,
        kind=kind,
        at=own if own is not None else at,
        text=data.decode("utf-8", "backslashreplace"),
        fields=fields,
    )


def merged(sources: Iterable[Iterable[Line]]) -> Iterator[Line]:
    """By time, each source in its own order: a line comes behind its predecessor even if it says
    that it is older, or does not say when it was written; then at once."""
    return heapq.merge(*sources, key=lambda line: line.at if line.at is not None else _LONG_AGO)


class Reorder(Generic[T]):
    """The same for what is still coming: each waits a moment for older ones of other sources."""

    def __init__(self, window_s: float, most: int = MAX_WAITING) -> None:
        self._window_s, self._most = window_s, most
        self._heap: list[tuple[float, int, T]] = []
        self._arrivals: deque[tuple[float, int]] = deque()
        self._gone: set[int] = set()
        """Of ``_arrivals``, what went out before its time was over."""
        self._latest: dict[str, float] = {}
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, source: str, item: T, at: float | None, now: float) -> None:
        """``at``: when it was written, by the clock of its host; ``now``: monotonic seconds."""
        latest = self._latest.get(source, _LONG_AGO)
        latest = max(latest, at if at is not None else latest)
        self._latest[source] = latest
        number = next(self._numbers)
        heapq.heappush(self._heap, (latest, number, item))
        self._arrivals.append((now, number))

    def due(self, now: float) -> Iterator[T]:
        """What has waited long enough, and what is older than that."""
        while self._arrivals and (
            self._arrivals[0][0] + self._window_s <= now or len(self._heap) > self._most
        ):
            number = self._arrivals[0][1]
            if number in self._gone:
                self._gone.discard(number)
                self._arrivals.popleft()
                continue
            yield self._pop()

    def rest(self) -> Iterator[T]:
        while self._heap:
            yield self._pop()
        self._arrivals.clear()
        self._gone.clear()

    def _pop(self) -> T:
        _, number, item = heapq.heappop(self._heap)
        self._gone.add(number)
        return item


def moment(value: object) -> float | None:
    """Unix seconds of an RFC 3339 text; None: it is none."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.timestamp() if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _rfc3339(at: float | None) -> str | None:
    if at is None:
        return None
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
