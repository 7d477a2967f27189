"""What many finished requests of one pair of services have in common, and how many they are.

On the path of a request its outcome is found by one look-up and counted in by a few increments;
the rest of what is kept of it, an entry, is one small tuple that names its outcome. What is
counted goes from there to the series of all metrics that tell of it when these are read, and what
stands in each line of the access log is made once.
"""

from collections.abc import Hashable
from typing import Final

from proxy.core.metrics import BYTES_BUCKETS, DURATION_MS_BUCKETS
from proxy.core.series import Histogram, Value
from proxy.model.endpoint import Endpoint

_DURATIONS: Final = len(DURATION_MS_BUCKETS) + 1
_SIZES: Final = len(BYTES_BUCKETS) + 1


class Outcome:
    """``line_start`` and ``printer``: see ``access_line``."""

    __slots__ = (
        *("caller", "service", "method", "authority", "protocol", "route", "endpoint", "attempts"),
        *("status", "grpc_status", "flag", "is_bad", "is_failure"),
        *("line_start", "printer"),
        *("key", "series"),
        *("counts", "total_ms", "asked", "asked_bytes", "answers", "answer_bytes"),
    )

    def __init__(
        self,
        *,
        caller: str,
        service: str,
        method: bytes,
        authority: bytes | None = None,
        protocol: str = "http",
        route: str = "",
        endpoint: Endpoint | None = None,
        attempts: int = 1,
        status: int = 0,
        grpc_status: str = "",
        flag: str = "",
        is_failure: bool = False,
    ) -> None:
        self.caller, self.service = caller, service
        self.method = method
        self.authority = authority
        self.protocol = protocol
        """As ``request_protocol`` has it."""
        self.route = route
        self.endpoint = endpoint
        """Of the last try."""
        self.attempts = attempts
        self.status = status
        """0: none was sent."""
        self.grpc_status = grpc_status
        """In digits; empty: unknown, or not gRPC."""
        self.flag = flag
        self.is_failure = is_failure
        """For whoever wanted the answer."""
        self.is_bad = is_failure or flag != ""
        """Worth to be remembered for longer."""
        self.line_start = b""
        self.printer: object = None
        self.key: Hashable = None
        self.series: Series | None = None
        """None: not counted."""
        self.counts = [0] * _DURATIONS
        self.total_ms = 0.0
        self.asked = [0] * _SIZES
        """Bodies of requests, by size, and below of answers: those that are empty are not counted
        here, as most of one kind are."""
        self.asked_bytes = 0
        self.answers = [0] * _SIZES
        self.answer_bytes = 0

    def settle(self) -> bool:
        """Hands on what was counted; False: nothing was."""
        if not any(self.counts):
            return False
        if self.series is not None:
            self.series.take(self)
        self.counts[:] = [0] * _DURATIONS
        self.total_ms = 0.0
        if self.asked_bytes:
            self.asked[:] = [0] * _SIZES
            self.asked_bytes = 0
        if self.answer_bytes:
            self.answers[:] = [0] * _SIZES
            self.answer_bytes = 0
        return True

    def retire(self) -> None:
        """Nothing more is counted; entries may go on naming it."""
        self.settle()
        self.key = self.series = None


class Series:
    """All that tell of one outcome."""

    __slots__ = ("_answer_bytes", "_asked_bytes", "_durations", "_requests", "took")

    def __init__(
        self,
        requests: Value,
        took: Histogram,
        asked_bytes: Histogram,
        answer_bytes: Histogram,
        more: tuple[Histogram, ...],
    ) -> None:
        """``more``: of durations."""
        self._requests = requests
        self.took = took
        self._durations = (took, *more)
        self._asked_bytes, self._answer_bytes = asked_bytes, answer_bytes

    def take(self, outcome: Outcome) -> None:
        count = sum(outcome.counts)
        self._requests.value += count
        for each in self._durations:
            _add(each, outcome.counts, outcome.total_ms)
        for sizes, counts, total in (
            (self._asked_bytes, outcome.asked, outcome.asked_bytes),
            (self._answer_bytes, outcome.answers, outcome.answer_bytes),
        ):
            if total:
                _add(sizes, counts, total)
                sizes.counts[0] += count - sum(counts)
            else:
                sizes.counts[0] += count


def _add(series: Histogram, counts: list[int], total: float) -> None:
    own = series.counts
    for at, count in enumerate(counts):
        if count:
            own[at] += count
    series.total += total
