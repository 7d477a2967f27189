"""The last requests and TCP sessions of this process, kept so that they can be told afterwards.

A request costs one small tuple of references; words are made of it when somebody asks. What
failed or was denied is kept apart, so that a flood of good requests does not push it out. Nothing
here holds on to a connection, a body or a header but the request's ids.

Each ring counts what it was given, so that a reader who comes again knows how many it has missed.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal

from proxy.core.access_entry import ID, MAX_ID_LINE, Entry, Request, trace_id_of
from proxy.core.outcome import Outcome
from proxy.model.endpoint import Endpoint
from proxy.model.flags import SENTENCE, Flag
from proxy.model.names import HostName
from proxy.model.recent import Ended, SeenRequest, Wanted

KEPT: Final = 1024
"""Of each side, in each worker: some 300 bytes each."""
KEPT_BAD: Final = 1024
NEWEST: Final = 100
"""Answered where no id is given."""
MAX_FOUND: Final = 100
"""Requests of one id: the applications choose it."""

MAX_ENDED: Final = 250
"""Of one process in one answer: making words of them takes a few milliseconds."""
MAX_CURSOR_CHARS: Final = 8192
MAX_PROCESSES: Final = 100
"""Of one cursor, dead ones among them."""

_ID: Final = b"x-request-id: "
_MAX_TARGET: Final = 256
_MAX_TEXT: Final = 200

_ID_LINE: Final = Request._fields.index("id_line")

Side = Literal["source", "destination"]


class Ring:
    """Of one side."""

    __slots__ = ("bad", "bads", "good", "goods", "side")

    def __init__(self, side: Side) -> None:
        self.side: Side = side
        self.good: deque[Entry] = deque(maxlen=KEPT)
        self.bad: deque[Entry] = deque(maxlen=KEPT_BAD)
        self.goods = self.bads = 0
        """Of each, since the start: whoever appends to one counts it."""

    def add_session(
        self,
        caller: str,
        service: str,
        *,
        now: float,
        started: float,
        flag: str,
        detail: str,
        policy: str,
        endpoint: Endpoint | None,
        attempts: int,
        received_bytes: int,
        sent_bytes: int,
    ) -> None:
        """A TCP session that is over: of its tries the last one's endpoint; bytes from and to the
        caller."""
        outcome = Outcome(
            caller=caller,
            service=service,
            method=b"",
            protocol="tcp",
            endpoint=endpoint,
            attempts=attempts,
            flag=flag,
        )
        entry = (
            outcome, now, started, 0.0, 0.0, 0.0, b"", b"", b"", (), policy, detail,
            received_bytes, sent_bytes,
        )  # fmt: skip
        if flag:
            self.bads += 1
            self.bad.append(entry)
        else:
            self.goods += 1
            self.good.append(entry)

    def entries(self) -> list[Entry]:
        """The newest first."""
        return sorted((*self.good, *self.bad), key=lambda entry: -entry[1])

    def since(self, goods: int, bads: int, *, is_bad_only: bool) -> tuple[list[Entry], int]:
        """What came after so many of each, in no order, and how many of it are forgotten."""
        new, kept = max(0, self.bads - bads), self.bad
        found = list(islice(kept, max(0, len(kept) - new), None))
        missed = new - len(found)
        if not is_bad_only:
            new, kept = max(0, self.goods - goods), self.good
            rest = list(islice(kept, max(0, len(kept) - new), None))
            missed += new - len(rest)
            found += rest
        return found, missed


class Recent:
    """Both sides of one process."""

    def __init__(self) -> None:
        self.host = HostName("")
        """Set by whoever knows."""
        self.before_reading: Callable[[], None] = lambda: None
        """Puts in what is not there yet."""
        self.source, self.destination = Ring("source"), Ring("destination")
        self._life = secrets.token_hex(4)
        """Tells a cursor of this process from one of another that was here before."""

    def ring(self, side: str) -> Ring:
        return self.source if side == "source" else self.destination

    def find(self, request_id: str) -> tuple[SeenRequest, ...]:
        """Those of this id, the newest first; with an empty one, the newest of all."""
        self.before_reading()
        line = (_ID + request_id.encode("latin-1", "replace"))[:MAX_ID_LINE]
        most = MAX_FOUND if request_id else NEWEST
        found: list[tuple[float, Side, Entry]] = []
        for ring in (self.source, self.destination):
            wanted = (
                e for e in ring.entries() if not request_id or e[_ID_LINE][:MAX_ID_LINE] == line
            )
            found += ((entry[1], ring.side, entry) for entry in islice(wanted, most))
        found.sort(key=lambda each: -each[0])
        since = time.time() - time.monotonic()
        return tuple(self._seen(side, entry, since) for _, side, entry in found[:most])

    def ended(self, wanted: Wanted) -> Ended:
        """What ended since; of too many the newest."""
        self.before_reading()
        rings = (self.source, self.destination)
        upto = f"{self._life}.{'.'.join(f'{ring.goods}.{ring.bads}' for ring in rings)}"
        if not wanted.cursor:
            return Ended(host=self.host, requests=(), next=upto, missed=0)
        before = _position(wanted.cursor, self._life)
        found: list[tuple[float, Side, Entry]] = []
        missed = 0
        for ring, (goods, bads) in zip(rings, before, strict=True):
            entries, forgotten = ring.since(goods, bads, is_bad_only=wanted.is_bad_only)
            missed += forgotten
            found += (
                (entry[1], ring.side, entry)
                for entry in entries
                if not wanted.service or entry[0].service == wanted.service
            )
        found.sort(key=lambda each: each[0])
        missed += max(0, len(found) - MAX_ENDED)
        since = time.time() - time.monotonic()
        seen = tuple(self._seen(side, entry, since) for _, side, entry in found[-MAX_ENDED:])
        return Ended(host=self.host, requests=seen, next=upto, missed=missed)

    def _seen(self, side: Side, entry: Entry, since: float) -> SeenRequest:
        seen = Request._make(entry)
        outcome, started, ended = seen.outcome, seen.started, seen.ended
        return SeenRequest(
            id=_text(seen.id_line[ID:]),
            side=side,
            host=self.host,
            ended_at=_rfc3339(since + ended),
            caller=outcome.caller,
            service=outcome.service,
            method=_text(outcome.method),
            path=_text(seen.target[:_MAX_TARGET].partition(b"?")[0]),
            route=outcome.route,
            endpoints=tuple(_places(seen.tried, outcome.endpoint)) if side == "source" else (),
            tries=outcome.attempts,
            status=outcome.status,
            flag=outcome.flag,
            policy=seen.policy,
            duration_ms=round((ended - started) * 1000, 3),
            first_byte_ms=round((seen.headed - started) * 1000, 3) if seen.headed else 0.0,
            request_bytes=seen.request_bytes,
            response_bytes=seen.response_bytes,
            protocol="http" if outcome.method else "tcp",
            trace_id=trace_id_of(seen.trace_line),
            grpc_status=outcome.grpc_status,
            reason=_reason(outcome.flag, seen.detail),
        )


def together(answers: tuple[Ended, ...], cursor: str) -> Ended:
    """Of all processes of one proxy, which share the host's clock. One that has not answered
    keeps its place in ``cursor``."""
    told = {answer.next.partition(".")[0] for answer in answers}
    silent = [
        part
        for part in cursor[:MAX_CURSOR_CHARS].split("_")
        if part and part.partition(".")[0] not in told
    ]
    requests = sorted(
        (each for answer in answers for each in answer.requests), key=lambda each: each.ended_at
    )
    return Ended(
        host=answers[0].host,
        requests=tuple(requests),
        next="_".join([*(answer.next for answer in answers), *silent][:MAX_PROCESSES]),
        missed=sum(answer.missed for answer in answers),
    )


def _position(cursor: str, life: str) -> tuple[tuple[int, int], ...]:
    """Goods and bads of each side; nothing yet for a process that the cursor does not know."""
    for part in cursor[:MAX_CURSOR_CHARS].split("_"):
        name, *numbers = part.split(".")
        if name == life and len(numbers) == 4 and all(map(_is_count, numbers)):
            goods, bads, more_goods, more_bads = map(int, numbers)
            return (goods, bads), (more_goods, more_bads)
    return (0, 0), (0, 0)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def _reason(flag: str, detail: str) -> str:
    try:
        sentence = SENTENCE[Flag(flag)] if flag else ""
    except ValueError:
        return _text(detail.encode("utf-8", "replace"))  # a newer peer's
    return _text(f"{sentence} {detail}".strip().encode("utf-8", "replace"))


def _places(tried: tuple[Endpoint, ...], last: Endpoint | None) -> Iterator[str]:
    for each in (*tried, *((last,) if last is not None else ())):
        yield f"{each.service} on {each.host}"


def _text(value: bytes) -> str:
    """ASCII, as it comes from applications and ends on a terminal."""
    return value.decode("ascii", "backslashreplace")[:_MAX_TEXT]


def _rfc3339(epoch_s: float) -> str:
    moment = datetime.fromtimestamp(epoch_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
