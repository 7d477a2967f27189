"""A service's routes with the live objects that they lead to: what one request needs, at hand."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from proxy.core.deadline import render
from proxy.core.retry import CompiledRetries, compile_retries
from proxy.core.routing import CompiledRoute, Hasher, compile_hash
from proxy.core.table import ClusterKey, OutboundRoute
from proxy.http.head import ResponseHead
from proxy.model.policy import Route, Timeouts
from proxy.model.routing import DirectResponse
from proxy.net.cluster import Cluster

Clusters = Mapping[ClusterKey, Cluster]


class Rule:
    """One route, or what holds where none matches. Read-only."""

    __slots__ = (
        "cluster",
        "clusters",
        "deadline_line",
        "hashers",
        "is_plain",
        "mirror",
        "mirror_share",
        "name",
        "retries",
        "route",
        "timeouts",
    )

    def __init__(
        self, owner: OutboundRoute, clusters: Clusters, compiled: CompiledRoute | None
    ) -> None:
        policy = owner.policy
        route = compiled.route if compiled is not None else Route(name="")
        self.route = compiled
        self.name = route.name
        self.timeouts = _timeouts(policy.timeouts, route)
        self.retries: CompiledRetries = compile_retries(route.retries or policy.retries)
        self.clusters: tuple[Cluster | None, ...] = tuple(
            clusters.get((each.service or owner.service, each.subset)) for each in route.to
        ) or (clusters.get((owner.service, "")),)
        """In the order of the route's destinations; None: one that the caller does not declare."""
        self.cluster = self.clusters[0]
        self.hashers: tuple[Hasher | None, ...] = tuple(map(_hasher, self.clusters))
        """For each of ``clusters``, what its balancing hashes."""
        self.mirror: Cluster | None = None
        self.mirror_share = 0.0
        if route.mirror is not None:
            self.mirror = clusters.get((route.mirror.service or owner.service, route.mirror.subset))
            self.mirror_share = route.mirror.percent / 100
        self.deadline_line = render(self.timeouts.request_s) if self.timeouts.request_s else b""
        self.is_plain = (
            self.cluster is not None
            and self.hashers == (None,)
            and (
                compiled is None
                or (
                    route.redirect is None
                    and route.respond is None
                    and self.mirror is None
                    and not compiled.has_request_changes
                    and not compiled.has_response_changes
                )
            )
        )
        """Straight on to one cluster, nothing changed on the way."""


def _hasher(cluster: Cluster | None) -> Hasher | None:
    if cluster is None:
        return None
    balancing = cluster.spec.policy.balancing
    if balancing.algorithm not in ("ring_hash", "maglev") or balancing.hash_on is None:
        return None
    return compile_hash(balancing.hash_on)


def answer_of(respond: DirectResponse) -> tuple[ResponseHead, bytes]:
    body = respond.body.encode()
    head = make_head(respond.status)
    head.length = len(body)
    if body:
        head.lines.append(b"content-type: " + respond.content_type.encode("latin-1", "replace"))
    if respond.status not in (204, 304):
        head.lines.append(b"content-length: %d" % len(body))
    return head, b"" if respond.status in (204, 304) else body


def redirect_to(status: int, location: bytes) -> ResponseHead:
    head = make_head(status)
    head.lines += [b"location: " + location, b"content-length: 0"]
    return head


def make_head(status: int) -> ResponseHead:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return ResponseHead(status, f"{status} {phrase}".encode(), True)


def _timeouts(own: Timeouts, route: Route) -> Timeouts:
    if route.timeouts is None:
        return own
    changes: dict[str, Any] = {
        key: value
        for key in ("per_try_s", "request_s", "grpc_s")
        if (value := getattr(route.timeouts, key)) is not None
    }
    return msgspec.structs.replace(own, **changes)
