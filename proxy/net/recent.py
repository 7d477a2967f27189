"""The last requests of this process, kept so that one of them can be explained afterwards.

A request costs one small tuple of references; words are made of it when somebody asks. What
failed or was denied is kept apart, so that a flood of good requests does not push it out. Nothing
here holds on to a connection, a body or a header but the request's id.
"""

import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, Literal

from proxy.http.exchange import Exchange
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName
from proxy.model.recent import SeenRequest

KEPT: Final = 1024
"""Of each side, in each worker: some 300 bytes each."""
KEPT_BAD: Final = 1024
NEWEST: Final = 100
"""Answered where no id is given."""
MAX_FOUND: Final = 100
"""Requests of one id: the applications choose it."""

_ID: Final = b"x-request-id: "
_MAX_TARGET: Final = 256
_MAX_TEXT: Final = 200

Side = Literal["source", "destination"]
_Entry = tuple[Any, ...]


class Ring:
    """Of one side."""

    __slots__ = ("_bad", "_good", "side")

    def __init__(self, side: Side) -> None:
        self.side: Side = side
        self._good: deque[_Entry] = deque(maxlen=KEPT)
        self._bad: deque[_Entry] = deque(maxlen=KEPT_BAD)

    def add(self, caller: str, service: str, exchange: Exchange, now: float) -> None:
        """HOT. ``exchange`` is finished; it is not kept."""
        head = exchange.head
        # Near the end, where the proxies put it.
        for line in reversed(head.lines):
            if line.startswith(_ID):
                break
        else:
            return  # refused before it was given one
        target = head.target
        if len(target) > _MAX_TARGET:
            target = target[:_MAX_TARGET]
        upstream, rule, tried = exchange.target, exchange.rule, exchange.tried
        status, flag = exchange.status, exchange.flag
        ring = self._bad if flag or status >= 500 or not status else self._good
        ring.append((
            line, now, caller, service, head.method, target, rule.name if rule else "",
            upstream.endpoint if upstream else None,
            tuple([each.endpoint for each in tried]) if tried else (),  # type: ignore[attr-defined]
            exchange.tries, status, flag, exchange.policy,
            exchange.started, exchange.headed, exchange.body_bytes,
        ))  # fmt: skip

    def entries(self) -> list[_Entry]:
        """The newest first."""
        return sorted((*self._good, *self._bad), key=lambda entry: -entry[1])


class Recent:
    """Both sides of one process."""

    def __init__(self) -> None:
        self.host = HostName("")
        """Set by whoever knows."""
        self.source, self.destination = Ring("source"), Ring("destination")

    def ring(self, side: str) -> Ring:
        return self.source if side == "source" else self.destination

    def find(self, request_id: str) -> tuple[SeenRequest, ...]:
        """Those of this id, the newest first; with an empty one, the newest of all."""
        line = _ID + request_id.encode("latin-1", "replace")
        most = MAX_FOUND if request_id else NEWEST
        found: list[tuple[float, Side, _Entry]] = []
        for ring in (self.source, self.destination):
            wanted = (e for e in ring.entries() if not request_id or e[0] == line)
            found += ((entry[1], ring.side, entry) for entry in islice(wanted, most))
        found.sort(key=lambda each: -each[0])
        since = time.time() - time.monotonic()
        return tuple(self._seen(side, entry, since) for _, side, entry in found[:most])

    def _seen(self, side: Side, entry: _Entry, since: float) -> SeenRequest:
        (
            line, now, caller, service, method, target, route, endpoint, tried,
            tries, status, flag, policy, started, headed, body_bytes,
        ) = entry  # fmt: skip
        return SeenRequest(
            id=_text(line[len(_ID) :]),
            side=side,
            host=self.host,
            ended_at=_rfc3339(since + now),
            caller=caller,
            service=service,
            method=_text(method),
            path=_text(target.partition(b"?")[0]),
            route=route,
            endpoints=tuple(_places(tried, endpoint)) if side == "source" else (),
            tries=tries,
            status=status,
            flag=flag,
            policy=policy,
            duration_ms=round((now - started) * 1000, 3),
            first_byte_ms=round((headed - started) * 1000, 3) if headed else 0.0,
            request_bytes=body_bytes,
        )


def _places(tried: tuple[Endpoint, ...], last: Endpoint | None) -> Iterator[str]:
    for each in (*tried, *((last,) if last is not None else ())):
        yield f"{each.service} on {each.host}"


def _text(value: bytes) -> str:
    """ASCII, as it comes from applications and ends on a terminal."""
    return value.decode("ascii", "backslashreplace")[:_MAX_TEXT]


def _rfc3339(epoch_s: float) -> str:
    moment = datetime.fromtimestamp(epoch_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
