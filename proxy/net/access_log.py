"""One line for each call that policy wants logged, in batches, to the journal or a file.

On the path of a request one tuple is appended, which ``recent`` keeps as well; lines are made of
it a tenth of a second later, some hundreds at a time, so that the event loop is never held for
long. What waits is bounded, and of what is bounded a share is kept for calls that failed; what is
lost is counted.
"""

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Final

from proxy.core.access_entry import Entry
from proxy.core.access_format import Compiled, parse_format
from proxy.core.access_line import Printer, Stamps, lines
from proxy.core.metrics import Metrics
from proxy.model.authorization import UNKNOWN
from proxy.model.names import HostName, ServiceName, TrustDomain, spiffe_id
from proxy.model.telemetry import AccessLog, Telemetry
from proxy.net.log_sink import Sink, is_journal, open_file, open_stdout, stdout_fd
from proxy.net.pair_log import MAX_WAITING_BAD, PairLog

FILE_NAME: Final = "access.log"
BATCH_S: Final = 0.1
RETRY_S: Final = 0.1
LINES_A_TURN: Final = 200
"""Of the event loop: a fifth of a millisecond's work."""
GOOD_PER_S: Final = 5000
"""To what is read by another process, such as the journal, which takes some ten thousand in all."""
BAD_PER_S: Final = 1000
CLOSE_S: Final = 1.0
_LINES_AT_ONCE: Final = 100
"""Some 64 KiB: larger pieces of memory are had from the kernel anew each time, which costs as much
as the lines in them."""
_MAX_PIECES: Final = 512
"""At once; IOV_MAX is 1024."""

_FLUSH_POLL_S: Final = 0.005
_HELD_BACK: Final = 2.0
"""Seconds for which a rate that was not used may be made up for."""

_log = logging.getLogger(__name__)


class AccessLogs:
    """Of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self.waiting: list[Entry] = []
        """In the order of their ends. One list for good: those who append to it hold it."""
        self._host, self._domain, self._folder = HostName(""), TrustDomain(""), ""
        self._choice = Telemetry()
        self._sink: Sink | None = None
        self._made: list[tuple[bytes, int]] = []
        """Lines that the sink has not taken yet, some in each, with their number; not many more of
        them than it takes at once."""
        self._made_bytes = 0
        self._line_bytes = 600
        """Of one, as they were lately."""
        self._timer: asyncio.Handle | None = None
        self._stamps = Stamps()
        self._good, self._bad = _Allowance(GOOD_PER_S), _Allowance(BAD_PER_S)
        self._is_failing = False
        self._lines = metrics.counter(
            "mesh_access_log_lines_total", "Lines of the access log that were written."
        ).labels()
        dropped = metrics.counter(
            "mesh_access_log_dropped_total",
            "Lines of the access log that were not written, by why: buffer (too many waited), "
            "rate (more than the journal is given), write (the write failed).",
            ("reason",),
        )
        self._dropped_buffer, self._dropped_rate, self._dropped_write = (
            dropped.labels(reason) for reason in ("buffer", "rate", "write")
        )

    def use(self, host: HostName, domain: TrustDomain, folder: str) -> None:
        """Before the first logger. ``folder``: for log files; empty: there is none."""
        self._host, self._domain, self._folder = host, domain, folder

    def apply(self, choice: Telemetry) -> None:
        """Another place, if it is another one, from the next batch on."""
        before, self._choice = self._choice, choice
        if self._sink is not None and _place(before) != _place(choice):
            self._sink.close()  # what it has, it writes
            self._sink = None

    def logger(
        self, side: str, caller: str, principal: str, service: str, policy: AccessLog
    ) -> PairLog:
        """For one pair of services as one side sees it."""
        printer = Printer(
            side=side,
            host=self._host,
            caller=caller,
            caller_identity=principal if principal.startswith("spiffe:") else "",
            service=service,
            service_identity=self._identity(service),
            format=_compiled(policy.format),
            stamps=self._stamps,
        )
        return PairLog(self, printer, policy)

    async def flush(self, within_s: float) -> None:
        """Returns when what waits is written, or the time is over."""
        deadline = time.monotonic() + within_s
        while (self.waiting or self._made) and time.monotonic() < deadline:
            self._write()
            await asyncio.sleep(_FLUSH_POLL_S if self._made else 0)
        if self._sink is not None:
            await self._sink.settle(max(0.0, deadline - time.monotonic()))

    async def close(self) -> None:
        """Writes what waits, for as long as ``CLOSE_S``; the rest is lost."""
        await self.flush(CLOSE_S)
        self._drop_all()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    # For the loggers

    def has_room(self, is_bad: bool) -> bool:
        """Where ``MAX_WAITING`` wait; counts what there is no room for."""
        if is_bad and len(self.waiting) < MAX_WAITING_BAD:
            return True
        self._dropped_buffer.value += 1
        return False

    def wake(self) -> None:
        """The first one waits."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self._write)

    # For the sink

    def wrote(self, count: int) -> None:
        self._lines.value += count
        if self._is_failing:
            self._is_failing = False
            _log.info("the access log is written again")

    def lost(self, count: int, error: OSError) -> None:
        self._dropped_write.value += count
        if not self._is_failing:
            self._is_failing = True
            _log.warning(
                "the access log cannot be written; its lines are lost until it can",
                extra={"error": error.strerror or str(error), "to": self._where()},
            )

    def freed(self) -> None:
        if self._made:
            self._again(0)

    # Writing

    def _write(self) -> None:
        """One turn: some lines are made, and given to the sink if it takes them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sink = self._sink
        if sink is None:
            sink = self._sink = self._open()
        if sink is None:
            self._drop_all()
            return
        left = LINES_A_TURN
        while True:
            if left and self.waiting and self._made_bytes < sink.max_bytes:
                left -= self._make(sink, left)
            if not self._made:
                if self.waiting:
                    self._again(0)
                return
            if not left and self.waiting and self._made_bytes < sink.max_bytes:
                self._again(0)  # a write costs more than its lines: as few as can be
                return
            batch, count = self._batch(sink.max_bytes)
            if not sink.offer(batch, count):
                self._again(RETRY_S)  # or sooner, if the sink says that it is free
                return
            del self._made[: len(batch)]
            self._made_bytes -= sum(map(len, batch))

    def _drop_all(self) -> None:
        self._dropped_write.value += len(self.waiting) + sum(count for _, count in self._made)
        self.waiting.clear()
        self._made.clear()
        self._made_bytes = 0

    def _again(self, after_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = (
            loop.call_later(after_s, self._write) if after_s else loop.call_soon(self._write)
        )

    def _make(self, sink: Sink, most: int) -> int:
        """Lines of what has waited longest, until there are about enough for the sink; how many
        calls were looked at, ``most`` at most."""
        now = time.monotonic()
        most = min(most, (sink.max_bytes - self._made_bytes) // self._line_bytes + 1)
        entries = self.waiting[:most]
        del self.waiting[:most]
        taken = len(entries)
        if sink.is_bounded:
            self._good.refill(now)
            self._bad.refill(now)
            entries = [
                entry
                for entry in entries
                if (self._bad if entry[0].is_failure else self._good).take()
            ]
            self._dropped_rate.value += taken - len(entries)
        since = time.time() - now
        for at in range(0, len(entries), _LINES_AT_ONCE):
            some = entries[at : at + _LINES_AT_ONCE]
            made = lines(some, since, self._stamps)
            self._made.append((made, len(some)))
            self._made_bytes += len(made)
            self._line_bytes = len(made) // len(some)
        return taken

    def _batch(self, most_bytes: int) -> tuple[list[bytes], int]:
        """Of what is made, as much as goes at once, and how many lines that is."""
        made = self._made
        if len(made[0][0]) > most_bytes:
            made[:1] = _split(*made[0], most_bytes)
        batch, size, count = [made[0][0]], len(made[0][0]), made[0][1]
        for text, lines_in_it in made[1:]:
            size += len(text)
            if size > most_bytes or len(batch) == _MAX_PIECES:
                break
            batch.append(text)
            count += lines_in_it
        return batch, count

    def _open(self) -> Sink | None:
        try:
            folder = self._folder_for_file()
            if folder is None:
                return open_stdout(self)
            choice = self._choice
            return open_file(folder / FILE_NAME, choice.log_file_bytes, choice.log_files, self)
        except OSError as error:
            self.lost(0, error)
            return None

    def _folder_for_file(self) -> Path | None:
        """None: to stdout. A file as well where there is no journal."""
        if not self._folder:
            return None
        fd = stdout_fd()
        if self._choice.log_to == "journal" and fd is not None and is_journal(fd, os.environ):
            return None
        return Path(self._folder)

    def _where(self) -> str:
        folder = self._folder_for_file()
        return str(folder / FILE_NAME) if folder is not None else "stdout"

    def _identity(self, service: str) -> str:
        if not self._domain or service == UNKNOWN:
            return ""
        return spiffe_id(self._domain, ServiceName(service))


class _Allowance:
    """A rate in lines a second."""

    __slots__ = ("_at", "_per_s", "left")

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._at = time.monotonic()
        self.left = per_s * _HELD_BACK

    def refill(self, now: float) -> None:
        self.left = min(self._per_s * _HELD_BACK, self.left + (now - self._at) * self._per_s)
        self._at = now

    def take(self) -> bool:
        if self.left < 1:
            return False
        self.left -= 1
        return True


def _split(text: bytes, count: int, most_bytes: int) -> tuple[tuple[bytes, int], ...]:
    """As many whole lines as ``most_bytes`` allow, one at least; and the rest, if any."""
    end = text.rfind(b"\n", 0, most_bytes) + 1 or text.find(b"\n") + 1
    first = text.count(b"\n", 0, end)
    parts = (text[:end], first), (text[end:], count - first)
    return parts if first < count else parts[:1]


def _place(choice: Telemetry) -> tuple[object, ...]:
    return choice.log_to, choice.log_file_bytes, choice.log_files


def _compiled(text: str) -> Compiled | None:
    """None: JSON. So is what another version may understand: a log is better than none."""
    if not text:
        return None
    try:
        return parse_format(text)
    except ValueError as error:
        _log.warning("the format of an access log is not understood: %s", error)
        return None
