"""Which calls of a pair of services are logged, and what is kept of one until its line is made."""

import random
import time
from typing import Final, Protocol
from zlib import crc32

from proxy.core.access_entry import Entry
from proxy.core.access_line import Printer
from proxy.model.endpoint import Endpoint
from proxy.model.telemetry import AccessLog

MAX_WAITING: Final = 4096
"""Calls that went well and wait to be written; some 500 bytes each."""
MAX_WAITING_BAD: Final = 6144
"""The same of all calls: what is above is there for those that failed."""

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
        *("_below", "_logs", "_slow_s"),
        *("is_all", "is_any", "printer", "waiting"),
    )

    def __init__(self, logs: Logs, printer: Printer, policy: AccessLog) -> None:
        self._logs = logs
        self.waiting = logs.waiting
        """Whoever appends to it where it is empty, or long, does so by ``add``."""
        self.printer = printer
        self._below = round(policy.percent / 100 * _ALL)
        self._slow_s = policy.slow_ms / 1000
        self.is_all = self._below == _ALL
        self.is_any = self._below > 0 or self._slow_s > 0
        """Whether calls that went well are logged, where ``is_wanted`` says so."""

    def is_wanted(self, id_line: bytes, took_s: float) -> bool:
        """HOT. Of a request that went well."""
        # The same at both sides of the call, and for each call of one request.
        below = self._below
        return (
            below > 0 and (crc32(id_line) if id_line else _getrandbits(32)) < below
        ) or 0 < self._slow_s < took_s

    def add(self, entry: Entry, *, is_bad: bool) -> None:
        waiting = self.waiting
        if len(waiting) >= MAX_WAITING and not self._logs.has_room(is_bad):
            return
        if not waiting:
            self._logs.wake()
        waiting.append(entry)

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
        kind = self.printer.bad_session if is_bad else self.printer.good_session
        self.add(
            (
                kind, now, started, connect_s, endpoint, attempts, flag, policy, detail,
                sent_bytes, received_bytes,
            ),
            is_bad=is_bad,
        )  # fmt: skip

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
