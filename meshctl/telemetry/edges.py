"""Calls from one service to another as both their proxies counted them, joined to edges."""

from collections import Counter
from collections.abc import Mapping

from meshctl.telemetry.counting import Requests
from meshctl.telemetry.difference import Difference
from meshctl.telemetry.view import Edge, Security, Sessions
from proxy.core import grpc

UNKNOWN = "unknown"
"""What the proxies call who is outside the mesh."""

DELAYED = "DI"
"""The one response flag that does not say that something went wrong."""

Pair = tuple[str, str]
"""Caller and service."""

_PAIR = ("reporter", "source_workload", "destination_service")
_ENDED = (*_PAIR, "response_code", "response_flags", "connection_security_policy")
_GRPC = "grpc_response_status"
FAILED_CALLS = frozenset(str(int(each)) for each in grpc.Status if grpc.is_failure(each))
"""Statuses of gRPC that say so, in digits."""
_SESSION = (*_PAIR, "response_flags", "connection_security_policy")


def is_failure(status: str, flag: str, grpc_status: str = "") -> bool:
    """``flag`` ``-``: none. Status 0: the caller had gone, or was cut off. ``grpc_status`` in
    digits; empty: it was no gRPC, or its end told none."""
    if flag not in ("-", "", DELAYED) or grpc_status in FAILED_CALLS:
        return True
    return not (len(status) == 3 and "1" <= status[0] <= "4")


class _Side:
    """What one side of an edge counted, over its hosts."""

    __slots__ = (
        *("closed", "codes", "failed_sessions", "flags", "opened", "opened_per_s"),
        *("received_per_s", "request_bytes_per_s", "requests", "response_bytes_per_s"),
        "sent_per_s",
    )

    def __init__(self) -> None:
        self.requests = Requests()
        self.codes: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.request_bytes_per_s = 0.0
        self.response_bytes_per_s = 0.0
        self.opened = 0.0
        self.closed = 0.0
        """Both since the proxies' start: the rest is open."""
        self.opened_per_s = 0.0
        self.sent_per_s = 0.0
        self.received_per_s = 0.0
        self.failed_sessions = 0

    def sessions(self) -> Sessions:
        return Sessions(
            opened_per_s=self.opened_per_s,
            open=max(0, int(self.opened - self.closed)),
            sent_bytes_per_s=self.sent_per_s,
            received_bytes_per_s=self.received_per_s,
            failures=self.failed_sessions,
        )


class Joined:
    """One caller, one service, one protocol."""

    __slots__ = ("denied", "retries_per_s", "sides", "words_ever", "words_now")

    def __init__(self) -> None:
        self.sides: dict[str, _Side] = {}
        self.retries_per_s = 0.0
        self.denied = 0
        self.words_now: set[str] = set()
        self.words_ever: set[str] = set()
        """Connection security, of what moved in the window and of all."""

    def side(self, reporter: str) -> _Side:
        side = self.sides.get(reporter)
        if side is None:
            side = self.sides[reporter] = _Side()
        return side

    @property
    def told(self) -> _Side:
        """The source's, as it knows what the caller got; else the destination's."""
        source, destination = self.sides.get("source"), self.sides.get("destination")
        if source is not None and (source.requests.requests or source.opened):
            return source
        return destination or source or _Side()

    @property
    def security(self) -> Security:
        words = self.words_now or self.words_ever
        if "none" in words:
            return "none"
        return "mutual_tls" if "mutual_tls" in words else "unknown"


class Edges:
    """Adds up the differences of all hosts; ``joined`` by caller, service and protocol."""

    def __init__(self) -> None:
        self.joined: dict[tuple[str, str, str], Joined] = {}
        self.denials: Counter[tuple[str, str, str]] = Counter()

    def edge(self, caller: str, service: str, protocol: str) -> Joined:
        key = (caller, service, protocol)
        found = self.joined.get(key)
        if found is None:
            found = self.joined[key] = Joined()
        return found

    def add(self, host: Difference) -> None:
        self._add_requests(host)
        self._add_sizes(host)
        self._add_sessions(host)

    def add_refusals(self, host: Difference) -> None:
        """Retries and denials, which name no protocol: after ``add`` of all hosts."""
        pair = ("source_workload", "destination_service")
        for (caller, service), added, _ in host.moved("mesh_retries_total", pair):
            if added is not None:
                self._known(caller, service).retries_per_s += added[0] / host.window_s
        denial = (*pair, "policy")
        for labels, added, _ in host.moved("mesh_authorization_denials_total", denial):
            if added is not None:
                caller, service, policy = labels
                self.denials[caller, service, policy] += int(added[0])
                self._known(caller, service).denied += int(added[0])

    def _known(self, caller: str, service: str) -> Joined:
        protocol = "http" if (caller, service, "tcp") not in self.joined else "tcp"
        return self.edge(caller, service, protocol)

    def _add_requests(self, host: Difference) -> None:
        name = "istio_requests_total"
        knows_grpc = host.has(name, _GRPC)  # a proxy of an earlier release has no such label
        for labels, added, _ in host.moved(name, (*_ENDED, _GRPC) if knows_grpc else _ENDED):
            reporter, caller, service, code, flag, security, *more = labels
            edge = self.edge(caller, service, "http")
            side = edge.side(reporter)
            edge.words_ever.add(security)
            if added is None:
                continue
            edge.words_now.add(security)
            number = int(added[0])
            side.requests.count(number, host.window_s, is_failure=is_failure(code, flag, *more))
            side.codes[code] += number
            if flag not in ("-", ""):
                side.flags[flag] += number
        name = "istio_request_duration_milliseconds"
        bounds = host.bounds(name)
        for (reporter, caller, service), added, _ in host.moved(name, _PAIR):
            if added is not None:
                self.edge(caller, service, "http").side(reporter).requests.observe(bounds, added)

    def _add_sizes(self, host: Difference) -> None:
        for (reporter, caller, service), added, _ in host.moved("istio_request_bytes", _PAIR):
            if added is not None:
                side = self.edge(caller, service, "http").side(reporter)
                side.request_bytes_per_s += added[-1] / host.window_s
        for (reporter, caller, service), added, _ in host.moved("istio_response_bytes", _PAIR):
            if added is not None:
                side = self.edge(caller, service, "http").side(reporter)
                side.response_bytes_per_s += added[-1] / host.window_s

    def _add_sessions(self, host: Difference) -> None:
        name = "istio_tcp_connections_opened_total"
        for labels, added, now in host.moved(name, _SESSION):
            reporter, caller, service, _, security = labels
            edge = self.edge(caller, service, "tcp")
            side = edge.side(reporter)
            side.opened += now[0]
            edge.words_ever.add(security)
            if added is not None:
                edge.words_now.add(security)
                side.opened_per_s += added[0] / host.window_s
        name = "istio_tcp_connections_closed_total"
        for (reporter, caller, service, flag, _), added, now in host.moved(name, _SESSION):
            side = self.edge(caller, service, "tcp").side(reporter)
            side.closed += now[0]
            if added is not None and flag not in ("-", ""):
                side.failed_sessions += int(added[0])
        for (reporter, caller, service), added, _ in host.moved(
            "istio_tcp_sent_bytes_total", _PAIR
        ):
            if added is not None:
                side = self.edge(caller, service, "tcp").side(reporter)
                side.sent_per_s += added[0] / host.window_s
        name = "istio_tcp_received_bytes_total"
        for (reporter, caller, service), added, _ in host.moved(name, _PAIR):
            if added is not None:
                side = self.edge(caller, service, "tcp").side(reporter)
                side.received_per_s += added[0] / host.window_s


def edge_of(key: tuple[str, str, str], joined: Joined) -> Edge:
    caller, service, protocol = key
    told = joined.told
    signals = told.requests.signals() if told.requests.requests else None
    per_s = signals.per_s if signals is not None else 0.0
    return Edge(
        caller=caller,
        service=service,
        protocol=protocol,
        # Nobody was called, so no connection was secured or not.
        security=joined.security if service != UNKNOWN else "unknown",
        seen_by=tuple(sorted(joined.sides, reverse=True)),
        signals=signals,
        sessions=told.sessions() if protocol == "tcp" else None,
        actual_per_s=per_s + joined.retries_per_s,
        retries_per_s=joined.retries_per_s,
        request_bytes_per_s=told.request_bytes_per_s,
        response_bytes_per_s=told.response_bytes_per_s,
        codes=_plain(told.codes),
        flags=_plain(told.flags),
        denied=joined.denied,
    )


def _plain(counted: Mapping[str, int]) -> Mapping[str, int]:
    return dict(sorted(counted.items()))
