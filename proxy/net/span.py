"""One hop of a traced call, from one side, and what is told of it in OpenTelemetry's words.

What a finished request has to say is taken from it at once, as references and without words; the
words are made when the span is sent. Every text is cut to a length and made valid UTF-8.
"""

from http import HTTPMethod
from time import monotonic
from typing import Final, Protocol

from proxy.core.grpc import Status
from proxy.core.otlp import CLIENT, SERVER, Key, event, span
from proxy.core.retry import Failure
from proxy.core.trace_context import MAX_STATE_BYTES, Context
from proxy.http.exchange import Exchange
from proxy.http.trace_fields import state_of
from proxy.model.authorization import UNKNOWN
from proxy.model.endpoint import Endpoint
from proxy.model.flags import SENTENCE, Flag
from proxy.model.names import HostName, ServiceName, TrustDomain, spiffe_id
from proxy.model.settings import Settings

MAX_TEXT: Final = 256
"""Characters of what applications say: a path, a Host, a request id, a reason."""
MAX_RETRIES: Final = 8
"""Events of one span."""

_ID: Final = b"x-request-id: "
_METHODS: Final = frozenset(each.value.encode() for each in HTTPMethod) | {b"QUERY"}
"""Those that the conventions know; another one is ``_OTHER``."""
_ERRORS_OF_SERVERS: Final = frozenset(
    (
        *(Status.UNKNOWN, Status.DEADLINE_EXCEEDED, Status.UNIMPLEMENTED, Status.INTERNAL),
        *(Status.UNAVAILABLE, Status.DATA_LOSS),
    )
)
"""By OpenTelemetry's conventions for gRPC; a client's errors are all but OK."""
_DELAYED: Final = Flag.FAULT_DELAY.value
_REASONS: Final = {
    Failure.CONNECT: b"connect-failure",
    Failure.REFUSED_BY_PEER: b"refused",
    Failure.UNPROCESSED: b"unprocessed",
    Failure.RESET: b"reset",
    Failure.PROTOCOL: b"protocol-error",
    Failure.TIMEOUT: b"timeout",
    Failure.PER_TRY_TIMEOUT: b"per-try-timeout",
    None: b"status",
}

_method = Key("http.request.method").text
_original_method = Key("http.request.method_original").text
_resend_count = Key("http.request.resend_count").number
_request_size = Key("http.request.body.size").number
_status_code = Key("http.response.status_code").number
_response_size = Key("http.response.body.size").number
_url_full = Key("url.full").text
_url_path = Key("url.path").text
_scheme = Key("url.scheme").text(b"http")
_server_address = Key("server.address").text
_server_port = Key("server.port").number
_peer_address = Key("network.peer.address").text
_peer_port = Key("network.peer.port").number
_client_address = Key("client.address").text
_http_1_0 = Key("network.protocol.version").text(b"1.0")
_http_1_1 = Key("network.protocol.version").text(b"1.1")
_error_type = Key("error.type").text

_rpc_system = Key("rpc.system").text(b"grpc")
_rpc_service = Key("rpc.service").text
_rpc_method = Key("rpc.method").text
_rpc_status = Key("rpc.grpc.status_code").number

_side = Key("mesh.side").text
_source_service = Key("mesh.source.service").text
_source_identity = Key("mesh.source.identity").text
_destination_service = Key("mesh.destination.service").text
_destination_identity = Key("mesh.destination.identity").text
_destination_host = Key("mesh.destination.host").text
_destination_version = Key("mesh.destination.version").text
_route = Key("mesh.route").text
_flag = Key("mesh.flag").text
_policy = Key("mesh.policy").text
_request_id = Key("mesh.request_id").text

_retry_reason = Key("mesh.retry.reason").event_text
_retry_host = Key("mesh.destination.host").event_text

_service_name = Key("service.name").resource_text
_service_version = Key("service.version").resource_text
_host_name = Key("host.name").resource_text


class Place:
    """Where spans are made."""

    __slots__ = ("domain", "host", "versions")

    def __init__(self, settings: Settings | None = None) -> None:
        self.host = HostName("") if settings is None else settings.host
        self.domain = TrustDomain("") if settings is None else settings.trust_domain
        self.versions: dict[ServiceName, str] = (
            {} if settings is None else {each.service: each.version for each in settings.workloads}
        )

    def resource(self, service: str) -> bytes:
        """The attributes of one workload here."""
        version = self.versions.get(ServiceName(service), "")
        return (
            _service_name(service.encode())
            + (_service_version(_text(version.encode())) if version else b"")
            + (_host_name(self.host.encode()) if self.host else b"")
        )


class Hop:
    """What all spans of one pair of services have in common, as one side sees it."""

    __slots__ = ("attributes", "is_client", "resource")

    def __init__(self, place: Place, side: str, caller: str, service: str) -> None:
        self.is_client = side == "source"
        self.resource = place.resource(caller if self.is_client else service)
        name = service.encode()
        said = [
            _side(side.encode()),
            _scheme,
            _server_address(name),
            _source_service(caller.encode()),
            _destination_service(name),
            _destination_identity(spiffe_id(place.domain, ServiceName(service)).encode()),
        ]
        if caller != UNKNOWN:
            identity = spiffe_id(place.domain, ServiceName(caller))
            said.append(_source_identity(identity.encode()))
        self.attributes = b"".join(said)


class Sink(Protocol):
    def add(self, span: "Span") -> None:
        """Takes a finished span; never waits."""


class Span:
    """Of one request on one side; it ends with the request, however often that is tried."""

    __slots__ = (
        "_authority",
        "_client",
        "_context",
        "_detail",
        "_ended",
        "_endpoint",
        "_flag",
        "_grpc_status",
        "_hop",
        "_is_grpc",
        "_is_old",
        "_method",
        "_parent_id",
        "_policy",
        "_request_bytes",
        "_request_id",
        "_response_bytes",
        "_retries",
        "_route",
        "_sink",
        "_started",
        "_state",
        "_status",
        "_target",
        "_tries",
        "trace_id",
    )

    def __init__(
        self, sink: Sink, hop: Hop, context: Context, parent_id: bytes, client: bytes = b""
    ) -> None:
        """``context``: its own, sampled; ``parent_id`` is empty where the trace begins. ``client``:
        the address that the request came from, on the called side."""
        self._sink = sink
        self._hop = hop
        self._context = context
        self._parent_id = parent_id
        self.trace_id = context.trace_id
        """32 hexadecimal digits."""
        self._client = client
        self._endpoint: Endpoint | None = None
        self._retries: list[tuple[float, Endpoint, Failure | None]] = []

    @property
    def span_id(self) -> bytes:
        """16 hexadecimal digits."""
        return self._context.span_id

    def retried(self, endpoint: Endpoint, failure: Failure | None) -> None:
        """A try at ``endpoint`` has failed (None: by its answer's status), and another follows."""
        if len(self._retries) < MAX_RETRIES:
            self._retries.append((monotonic(), endpoint, failure))

    def ended(self, exchange: Exchange, now: float) -> None:
        """``now``: monotonic seconds. The exchange is not kept."""
        head = exchange.head
        self._started, self._ended = exchange.started, now
        self._method, self._is_old = head.method, head.is_old
        self._target = head.target.partition(b"?")[0][:MAX_TEXT]
        self._authority = (head.authority or b"")[:MAX_TEXT]
        self._request_id = (head.get(b"x-request-id") or b"")[:MAX_TEXT]
        state = state_of(head)
        self._state = state if len(state) <= MAX_STATE_BYTES and state.isascii() else b""
        self._status, self._flag, self._policy = exchange.status, exchange.flag, exchange.policy
        self._grpc_status = None if exchange.grpc is None else exchange.grpc.status
        self._is_grpc = exchange.grpc is not None
        self._detail = exchange.detail[:MAX_TEXT]
        self._route = exchange.rule.name if exchange.rule is not None else ""
        if self._hop.is_client and exchange.target is not None:
            self._endpoint = exchange.target.endpoint
        self._tries = exchange.tries
        self._request_bytes, self._response_bytes = exchange.body_bytes, exchange.response_bytes
        self._sink.add(self)

    @property
    def resource(self) -> bytes:
        return self._hop.resource

    @property
    def is_error(self) -> bool:
        """By the conventions: a 4xx is an error of who asked, so of the client's span alone, and
        so are some statuses of gRPC."""
        status = self._status
        if self._grpc_status is not None and self._grpc_status != Status.OK:
            return self._hop.is_client or self._grpc_status in _ERRORS_OF_SERVERS
        if status >= 500 or not status:
            return True
        if status >= 400:
            return self._hop.is_client
        return bool(self._flag) and self._flag != _DELAYED  # cut off after a good head

    def encode(self, since_ns: int) -> bytes:
        """``since_ns``: the epoch's time at zero of the monotonic clock. Once it has ended."""
        known = self._method in _METHODS
        is_client, is_error = self._hop.is_client, self.is_error
        said = [self._hop.attributes]
        add = said.append
        if known:
            add(_method(self._method))
        else:
            add(_method(b"_OTHER"))
            add(_original_method(self._method))
        path = _text(self._target)
        name = self._method if known else b"HTTP"
        add(_url_path(path))
        if self._is_grpc:
            name = self._say_rpc(said, path) or name
        add(_http_1_0 if self._is_old else _http_1_1)
        if self._status:
            add(_status_code(self._status))
        add(_request_size(self._request_bytes))
        add(_response_size(self._response_bytes))
        if is_client:
            self._say_as_client(said, path)
        elif self._client:
            add(_client_address(self._client))
            add(_peer_address(self._client))
        if self._request_id:
            add(_request_id(_text(self._request_id)))
        if self._route:
            add(_route(_text(self._route.encode())))
        if self._flag:
            add(_flag(_text(self._flag.encode())))
        if self._policy:
            add(_policy(_text(self._policy.encode())))
        if is_error:
            failed_by = self._flag if self._flag != _DELAYED else ""
            add(_error_type(_text(failed_by.encode()) or self._failed_status()))
        return span(
            trace_id=self.trace_id,
            span_id=self.span_id,
            parent_id=self._parent_id,
            state=self._state,
            trace_flags=self._context.flags,
            name=name,
            kind=CLIENT if is_client else SERVER,
            started_ns=since_ns + int(self._started * 1e9),
            ended_ns=since_ns + int(self._ended * 1e9),
            attributes=b"".join(said),
            events=b"".join([_retry(since_ns, *each) for each in self._retries]),
            is_error=is_error,
            reason=self._reason() if is_error else b"",
        )

    def _failed_status(self) -> bytes:
        if self._grpc_status is not None and self._grpc_status != Status.OK:
            return self._grpc_status.name.encode()
        return b"%d" % self._status

    def _say_rpc(self, said: list[bytes], path: bytes) -> bytes:
        """The call's name; empty: the path is none of gRPC's."""
        said.append(_rpc_system)
        if self._grpc_status is not None:
            said.append(_rpc_status(self._grpc_status))
        service, _, method = path[1:].rpartition(b"/")
        if not service or not method:
            return b""
        said.append(_rpc_service(service))
        said.append(_rpc_method(method))
        return path[1:]

    def _say_as_client(self, said: list[bytes], path: bytes) -> None:
        if self._authority and path.startswith(b"/"):
            said.append(_url_full(b"http://" + _text(self._authority) + path))
        endpoint = self._endpoint
        if endpoint is not None:
            address = endpoint.address.encode()
            said.append(_server_port(endpoint.port))
            said.append(_peer_address(address))
            said.append(_peer_port(endpoint.port))
            said.append(_destination_host(endpoint.host.encode()))
            if endpoint.version:
                said.append(_destination_version(_text(endpoint.version.encode())))
        if self._tries > 1:
            said.append(_resend_count(self._tries - 1))

    def _reason(self) -> bytes:
        """Of a status code alone nothing is said that it does not say itself."""
        try:
            sentence = SENTENCE[Flag(self._flag)] if self._flag != _DELAYED else ""
        except ValueError:  # none, or one that a newer peer has
            return b""
        said = f"{sentence}: {self._detail}" if sentence and self._detail else sentence
        return _text(said.encode("utf-8", "replace"))


def _retry(since_ns: int, at: float, endpoint: Endpoint, failure: Failure | None) -> bytes:
    said = _retry_reason(_REASONS[failure]) + _retry_host(endpoint.host.encode())
    return event(since_ns + int(at * 1e9), b"mesh.retry", said)


def _text(value: bytes) -> bytes:
    """Valid UTF-8 of a bounded length."""
    if not value.isascii():
        value = value.decode("utf-8", "replace")[:MAX_TEXT].encode()
    return value[:MAX_TEXT] if value.isascii() else value
