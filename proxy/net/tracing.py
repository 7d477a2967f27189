"""Which calls are traced, and the spans of those that are.

The caller's side decides: by what the application's trace context says, else by the called
service's share. The called side follows, so that a trace is whole or not there. What is not
traced costs a look at one line; the rest is ``proxy.net.span`` and ``proxy.net.otlp``.
"""

from random import Random
from typing import Final

from proxy.core.metrics import Metrics
from proxy.core.trace_context import SAMPLED, Context, is_unsampled, parse_traceparent
from proxy.http.exchange import Exchange
from proxy.http.head import RequestHead
from proxy.http.trace_fields import (
    VALUE_AT,
    b3_of,
    begin_trace,
    forget_trace,
    make_span_id,
    traceparent_of,
    write,
)
from proxy.model.settings import Settings
from proxy.model.telemetry import Telemetry, Tracing
from proxy.net.otlp import Exporter
from proxy.net.span import Hop, Place, Sink, Span

_random = Random().random  # noqa: S311  # a share of requests; nothing secret

_IDS: Final = 2
"""``RequestHead.fleeting`` of a request that a proxy of ours has sent on, mostly."""
_EVEN: Final = b"02468ace"
"""Last digits of flags without ``sampled``."""


class Sampler:
    """For one pair of services as one side sees it."""

    __slots__ = ("_hop", "_sink")

    def __init__(self, sink: Sink, hop: Hop) -> None:
        self._sink = sink
        self._hop = hop

    def begin(self, exchange: Exchange) -> None:
        """HOT. Before the request is sent on. If the call is traced: sets ``exchange.span``, whose
        ``ended(exchange, now)`` is called once it is finished, and its context in the head."""
        raise NotImplementedError

    def _trace(self, exchange: Exchange, caller: Context, client: bytes = b"") -> None:
        made = Context(
            caller.trace_id,
            make_span_id(),
            True,
            caller.flags | SAMPLED,
            is_debug=caller.is_debug,
        )
        write(exchange.head, made, caller.span_id)
        exchange.span = Span(self._sink, self._hop, made, caller.span_id, client)


class SourceSampler(Sampler):
    """Decides."""

    __slots__ = ("_line", "_prefix", "_share")

    def __init__(self, sink: Sink, hop: Hop, policy: Tracing) -> None:
        super().__init__(sink, hop)
        self._share = policy.percent / 100
        name, colon, value = policy.header.encode("latin-1", "replace").partition(b":")
        self._prefix = name + b": " if name else b""
        self._line = self._prefix + value.strip(b" ") if colon else b""

    def begin(self, exchange: Exchange) -> None:
        head = exchange.head
        if head.has_trace:
            line = traceparent_of(head)
            is_asked = self._prefix and self._is_asked(head)
            if not is_asked and is_unsampled(line):
                return
            caller = parse_traceparent(line[VALUE_AT:]) if line else None
            if caller is not None:
                if caller.is_sampled or is_asked:
                    self._trace(exchange, caller)
                return
            forget_trace(head)
        caller = b3_of(head) if head.fleeting > head.has_request_id else None
        is_sampled = caller.is_sampled if caller is not None else None
        if is_sampled is None:
            is_sampled = self._share > 0.0 and _random() < self._share
        if is_sampled or (self._prefix and self._is_asked(head)):
            if caller is None or not caller.trace_id:
                is_debug = caller is not None and caller.is_debug
                caller = begin_trace(head)
                caller.is_debug = is_debug
            self._trace(exchange, caller)

    def _is_asked(self, head: RequestHead) -> bool:
        if self._line:
            return self._line in head.lines
        prefix = self._prefix
        return any(line.startswith(prefix) for line in head.lines)


class DestinationSampler(Sampler):
    """Follows."""

    __slots__ = ()

    def begin(self, exchange: Exchange) -> None:
        head = exchange.head
        caller: Context | None = None
        if head.has_trace:
            # Nothing behind the two ids, or more: secrets of the request.
            line = head.lines[-1] if head.fleeting == _IDS else traceparent_of(head)
            # Anything else than this version's, and sampled, comes from callers without a proxy.
            if line[-1:] in _EVEN and (not line or line.startswith(b"00-", VALUE_AT)):
                return
            caller = parse_traceparent(line[VALUE_AT:])
        elif head.fleeting > head.has_request_id:
            caller = b3_of(head)
        if caller is not None and caller.is_sampled and caller.trace_id:
            self._trace(exchange, caller, exchange.client())


class Tracer:
    """Of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._exporter = Exporter(metrics)
        self._place = Place()

    def know(self, settings: Settings) -> None:
        """Where we are; before ``sampler``."""
        self._place = Place(settings)

    def apply(self, choice: Telemetry) -> None:
        self._exporter.use(choice.otlp)

    def sampler(self, side: str, caller: str, service: str, policy: Tracing) -> Sampler | None:
        """None: nothing is ever traced."""
        if not self._exporter.is_wanted:
            return None
        hop = Hop(self._place, side, caller, service)
        if side == "source":
            return SourceSampler(self._exporter, hop, policy)
        return DestinationSampler(self._exporter, hop)

    async def close(self) -> None:
        """Sends what waits, within a second."""
        await self._exporter.close()
