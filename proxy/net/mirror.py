"""A copy of a request, sent to another cluster; its answer is read and thrown away.

It may never hold the real request up: a copy that cannot keep up is given up instead.
"""

from time import monotonic
from typing import cast

from proxy.core.retry import Failure, Verdict
from proxy.http.exchange import Exchange
from proxy.http.head import RequestHead, ResponseHead
from proxy.http.trace_fields import unsample
from proxy.model.policy import Timeouts
from proxy.net.cluster import Cluster
from proxy.net.pool import EndpointPool


def start_mirror(original: Exchange, cluster: Cluster, timeouts: Timeouts) -> None:
    """Copies ``original`` as it is now and from now on; to be called before its first try.

    What asks for another protocol is not copied: that would be read as the next requests.
    """
    if original.head.upgrade:
        return
    down = _Discarded()
    head = original.head
    copy = RequestHead(head.method, head.target, head.authority, head.is_old)
    copy.length = head.length
    copy.lines = list(head.lines)
    copy.is_grpc, copy.has_te = head.is_grpc, head.has_te
    if original.span is not None:
        unsample(copy)
    mirror = Exchange(down, copy, _MirrorHandler(original, cluster, timeouts), original.ledger)
    down.mirror = mirror
    mirror.begin(original.take_body(), original.is_request_done, original.trailers)
    if not original.is_request_done and not mirror.is_finished:
        original.mirror = mirror


class _Discarded:
    """The downstream half of nobody."""

    mirror: Exchange

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None: ...
    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None: ...
    def respond_whole(self, head: ResponseHead, data: bytes, trailers: list[bytes]) -> None: ...
    def inform(self, head: ResponseHead) -> None: ...
    def abandon(self) -> None: ...

    def pause_request(self) -> None:
        self.mirror.downstream_gone()

    def resume_request(self) -> None: ...

    def client(self) -> bytes:
        return b""


class _MirrorHandler:
    trusts_flag = True

    def __init__(self, original: Exchange, cluster: Cluster, timeouts: Timeouts) -> None:
        self.subject = original.handler.subject
        self.authority = original.handler.authority
        self.timeouts = timeouts
        self._cluster = cluster
        self._call = original.grpc

    def dispatch(self, exchange: Exchange) -> None:
        exchange.timeouts = self.timeouts
        if exchange.grpc is None:
            exchange.request_s = self.timeouts.request_s
        elif self._call is not None:
            exchange.grpc.deadline = self._call.deadline
        self._cluster.begin(exchange)

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        return False

    def finished(self, exchange: Exchange) -> None:
        """What becomes of copies is the mirror's concern: it teaches the balancer, and counts."""
        pool = cast(EndpointPool | None, exchange.target)
        cluster = self._cluster
        if pool is not None:
            cluster.over(exchange, pool)
            now = monotonic()
            is_failure = exchange.judged_status >= 500
            cluster.balancer.observe(
                pool, (exchange.headed or now) - exchange.tried_at, is_failure, now
            )
        cluster.mirrored(exchange.status, exchange.flag)
