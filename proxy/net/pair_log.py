"""Which calls of a pair of services are logged, and what is kept of one until its line is made."""

import random
import time
from typing import Final, Protocol
from zlib import crc32

from proxy.core.access_entry import MAX_PATH_CHARS, Entry
from proxy.core.access_line import Printer
from proxy.http.exchange import Exchange
from proxy.model.endpoint import Endpoint
from proxy.model.flags import FINE
from proxy.model.telemetry import AccessLog

MAX_WAITING: Final = 4096
"""Calls that went well and wait to be written; some 500 bytes each."""
MAX_WAITING_BAD: Final = 6144
"""The same of all calls: what is above is there for those that failed."""

_ID: Final = b"x-request-id: "
_TRACE: Final = b"traceparent: "
_MAX_LINES: Final = 300
"""Bytes: no caller decides how much memory its request takes here."""
_ALL: Final = 1 << 32
"""Above every CRC."""
_getrandbits = random.Random().getrandbits  # noqa: S311  # a share of the sessions; nothing secret


class Logs(Protocol):
    """Where entries wait."""

    waiting: list[Entry]

    def has_room(self, is_bad: bool) -> bool:
        """Where ``MAX_WAITING`` wait; counts what there is no room for."""

    def wake(self) -> None:
        """The first one waits."""


class PairLog:
    """Of one pair of services as one side sees it."""

    __slots__ = (
        *("_at", "_below", "_logs", "_make_request", "_make_session", "_slow_s", "_waiting"),
    )

    def __init__(self, logs: Logs, printer: Printer, policy: AccessLog) -> None:
        self._logs = logs
        self._waiting = logs.waiting
        self._make_request, self._make_session = printer.request, printer.session
        self._below = round(policy.percent / 100 * _ALL)
        self._slow_s = policy.slow_ms / 1000
        self._at = -2
        """Where the last request had its id, from the end: its trace follows, and then what the
        proxy itself appends."""

    def __call__(self, exchange: Exchange, now: float) -> None:
        """HOT. ``exchange`` is finished, and not kept; ``now``: monotonic seconds."""
        status, flag = exchange.status, exchange.flag
        is_bad = status >= 500 or not status or flag not in FINE
        below = self._below
        if not is_bad and not below and not (self._slow_s and self._is_slow(exchange, now)):
            return
        head = exchange.head
        lines, at = head.lines, self._at
        if len(lines) >= -at and lines[at].startswith(_ID) and lines[at + 1].startswith(_TRACE):
            id_line, trace_line = lines[at], lines[at + 1]
        else:
            id_line, trace_line = self._find(lines)
        # The same at both sides of the call, and for each call of one request.
        if (
            not is_bad
            and below != _ALL
            and (crc32(id_line) if id_line else _getrandbits(32)) >= below
            and not (self._slow_s and self._is_slow(exchange, now))
        ):
            return
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING and not self._logs.has_room(is_bad):
            return
        if not waiting:
            self._logs.wake()
        target, authority = head.target, head.authority
        if len(target) > MAX_PATH_CHARS:
            target = target[:MAX_PATH_CHARS]
        if len(id_line) + len(trace_line) > _MAX_LINES:
            id_line, trace_line = id_line[:_MAX_LINES], trace_line[:_MAX_LINES]
        if authority is not None and len(authority) > _MAX_LINES:
            authority = authority[:_MAX_LINES]
        upstream, rule = exchange.target, exchange.rule
        queue_s = exchange.queue_s
        if exchange.waits_since:
            queue_s += now - exchange.waits_since
        waiting.append((
            self._make_request, is_bad, now, exchange.started, exchange.headed, queue_s,
            exchange.connect_s, id_line, trace_line, head.method, target, authority,
            rule.name if rule is not None else "",
            upstream.endpoint if upstream is not None else None,
            exchange.tries, status, flag, exchange.policy, exchange.detail,
            exchange.body_bytes, exchange.response_bytes,
        ))  # fmt: skip

    def _find(self, lines: list[bytes]) -> tuple[bytes, bytes]:
        """The lines of the request's id and trace; empty: there is none."""
        id_line = trace_line = b""
        for at in range(-1, -len(lines) - 1, -1):
            line = lines[at]
            if line.startswith(_ID):
                id_line = line
                self._at = min(at, -2)
            elif line.startswith(_TRACE):
                trace_line = line
            else:
                continue
            if id_line and trace_line:
                break
        return id_line, trace_line

    def _is_slow(self, exchange: Exchange, now: float) -> bool:
        return now - exchange.started > self._slow_s

    def session(
        self,
        *,
        now: float,
        started: float,
        connect_s: float,
        endpoint: Endpoint | None,
        attempts: int,
        flag: str,
        policy: str,
        detail: str,
        sent_bytes: int,
        received_bytes: int,
    ) -> None:
        """A TCP session that is over. It has no id that both sides know, so that each decides for
        itself whether it is of the share."""
        is_bad = flag != ""
        if not (
            is_bad
            or _getrandbits(32) < self._below
            or (self._slow_s and now - started > self._slow_s)
        ):
            return
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING and not self._logs.has_room(is_bad):
            return
        if not waiting:
            self._logs.wake()
        waiting.append((
            self._make_session, is_bad, now, started, connect_s, endpoint, attempts, flag, policy,
            detail, sent_bytes, received_bytes,
        ))  # fmt: skip

    def refused(self, flag: str, policy: str, detail: str) -> None:
        """A TCP session that was not even begun."""
        now = time.monotonic()
        self.session(
            now=now,
            started=now,
            connect_s=0.0,
            endpoint=None,
            attempts=0,
            flag=flag,
            policy=policy,
            detail=detail,
            sent_bytes=0,
            received_bytes=0,
        )
