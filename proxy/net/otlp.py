"""Finished spans on their way to a receiver: OTLP over HTTP, in batches, by one task.

A request only ever appends to a queue. Whatever the receiver does (away, slow, silent, garbage),
at most ``MAX_QUEUED`` spans and one batch are held; what does not fit, or cannot be delivered in
``DELIVER_S``, is dropped and counted by why. The task exists while there is something to send.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from typing import Final

from proxy import __version__
from proxy.core.backoff import Backoff
from proxy.core.metrics import Metrics
from proxy.core.otlp import make_scope, parse_answer, request
from proxy.net.otlp_http import Receiver, Sender, Undelivered, parse_receiver
from proxy.net.span import Span

MAX_QUEUED: Final = 2048
BATCH: Final = 512
"""Both are the OpenTelemetry SDKs' defaults."""
LINGER_S = 1.0
"""How long a span waits for others."""
DELIVER_S = 30.0
"""All tries of one batch."""
BACKOFF_S = 0.5
MAX_BACKOFF_S: Final = 5.0
MAX_PAUSE_S: Final = 300.0
"""However long a receiver asks to be left alone."""
FLUSH_S = 1.0
"""At the end of the process."""

_SLICE: Final = 32
"""Spans encoded before the loop has its turn: a third of a millisecond."""
_MAX_REASON: Final = 200

_log = logging.getLogger(__name__)


class Exporter:
    """Of one process."""

    def __init__(self, metrics: Metrics, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311  # spreads retries; nothing secret
        self._exported = metrics.counter(
            "mesh_spans_exported_total", "Spans that the receiver of traces has taken."
        )
        self._dropped = metrics.counter(
            "mesh_spans_dropped_total", "Spans that no receiver has taken, by why.", ("reason",)
        )
        self._receiver: Receiver | None = None
        self._url = ""
        self._queue: deque[Span] = deque()
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        """There is a full batch, or no time to wait for one."""
        self._changed = asyncio.Event()
        """Another receiver, or the end: waiting to try again makes no sense."""
        self._sender = Sender()
        self._not_before = 0.0
        """Monotonic seconds: until then the receiver wants to hear nothing."""
        self._is_closing = False
        self._error = ""
        self._scope = make_scope("meshctl.proxy", __version__)

    @property
    def is_wanted(self) -> bool:
        return self._receiver is not None

    def use(self, url: str) -> None:
        """From now on; empty: nobody wants spans, and those that wait are dropped."""
        if url == self._url:
            return
        self._url = url
        try:
            self._receiver = parse_receiver(url) if url else None
        except ValueError as error:  # the policy is judged before, so not to be expected
            self._receiver = None
            _log.error("spans cannot be sent", extra={"url": url, "error": str(error)})
        self._error, self._not_before = "", 0.0
        self._sender.disconnect()
        self._changed.set()
        if self._receiver is None:
            self._drop(len(self._queue), "off")
            self._queue.clear()

    def add(self, span: Span) -> None:
        """HOT. Takes a finished span; never waits."""
        queue = self._queue
        if len(queue) >= MAX_QUEUED:
            self._drop(1, "queue-full")
            return
        if self._receiver is None or self._is_closing:
            self._drop(1, "off" if self._receiver is None else "stopping")
            return
        queue.append(span)
        if self._task is None:
            self._hurry.clear()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="spans")
        elif len(queue) == BATCH:
            self._hurry.set()

    async def close(self) -> None:
        """Sends what waits, within ``FLUSH_S``; the rest is dropped."""
        self._is_closing = True
        self._hurry.set()
        self._changed.set()
        task = self._task
        if task is not None:
            await asyncio.wait((task,), timeout=FLUSH_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._drop(len(self._queue), "stopping")
        self._queue.clear()
        self._sender.disconnect()

    async def _run(self) -> None:
        queue = self._queue
        try:
            while queue:
                if len(queue) < BATCH and not self._is_closing:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LINGER_S):
                            await self._hurry.wait()
                self._hurry.clear()
                batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
                try:
                    await self._deliver(batch)
                except Exception:  # a defect, but no reason to never send again
                    _log.exception("spans not sent")
                    self._sender.disconnect()
        finally:
            self._task = None

    async def _deliver(self, batch: list[Span]) -> None:
        count = len(batch)
        is_settled = False
        try:
            body = await self._encode(batch)
            batch.clear()
            rejected = await self._try_until_taken(body, count)
            self._exported.labels().value += count - rejected
            if rejected:
                self._drop(rejected, "rejected")
            is_settled = True
        except Undelivered as error:
            self._drop(count, error.reason)
            is_settled = True
        finally:
            if not is_settled:
                self._drop(count, "stopping" if self._is_closing else "failed")

    async def _encode(self, batch: list[Span]) -> bytes:
        since_ns = time.time_ns() - time.monotonic_ns()
        resources: dict[bytes, list[bytes]] = {}
        for number, span in enumerate(batch, 1):
            resources.setdefault(span.resource, []).append(span.encode(since_ns))
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        return request(resources.items(), self._scope)

    async def _try_until_taken(self, body: bytes, count: int) -> int:
        """How many of them were rejected. Raises Undelivered."""
        ends = time.monotonic() + DELIVER_S
        backoff = Backoff(base_s=BACKOFF_S, cap_s=MAX_BACKOFF_S)
        while True:
            receiver = self._receiver
            if receiver is None:
                raise Undelivered("", reason="off", may_retry=False)
            if not self._is_closing:
                self._changed.clear()
            try:
                if self._not_before > ends:
                    raise Undelivered(self._error, reason="refused", may_retry=False)
                answer = await self._sender.send(receiver, body)
                rejected, why = parse_answer(answer)
                rejected = min(rejected, count)
                self._said(f"{rejected} spans were rejected: {why}" if rejected else "")
                return rejected
            except Undelivered as error:
                self._said(str(error))
                now = time.monotonic()
                wait_s = backoff.next_s(self._rng)
                if error.after_s:
                    self._not_before = now + min(error.after_s, MAX_PAUSE_S)
                    wait_s = max(wait_s, self._not_before - now)
                if not error.may_retry or self._is_closing or now + wait_s > ends:
                    raise
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()

    def _drop(self, count: int, reason: str) -> None:
        if count:
            self._dropped.labels(reason).value += count

    def _said(self, error: str) -> None:
        """One line for each change: a receiver that stays away fails in the same way each time."""
        error = error[:_MAX_REASON]
        if error == self._error:
            return
        self._error = error
        if error:
            _log.warning("spans not delivered", extra={"url": self._url, "error": error})
        else:
            _log.info("spans are delivered again", extra={"url": self._url})
