"""What a span tells of a gRPC call, read as a collector reads it."""

from time import monotonic

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Read
from opentelemetry.proto.trace.v1.trace_pb2 import Status as ReadStatus
from otlp_receiver import attributes_of

from proxy.core import otlp
from proxy.core.grpc import Status
from proxy.core.retry import Failure
from proxy.core.trace_context import Context
from proxy.http.exchange import Exchange
from proxy.http.grpc import Call
from proxy.http.head import RequestHead
from proxy.http.ledger import Ledger
from proxy.net.span import _REASONS, Hop, Place, Span

TARGET = b"/orders.v1.Orders/GetOrder"


class Taking:
    def add(self, span: Span) -> None:
        span.encode(0)


def told(status: Status | None, *, side: str = "source", target: bytes = TARGET) -> Read:
    head = RequestHead(b"POST", target, b"api", False)
    exchange = Exchange(None, head, None, Ledger(10, lambda _: None))  # type: ignore[arg-type]
    exchange.status = 200
    exchange.grpc = Call()
    exchange.grpc.status = status
    span = Span(Taking(), Hop(Place(), side, "web", "api"), Context(b"a" * 32, b"b" * 16), b"")
    span.ended(exchange, monotonic())
    sent = otlp.request([(b"", [span.encode(0)])], otlp.make_scope("s", "1"))
    (resource,) = ExportTraceServiceRequest.FromString(sent).resource_spans
    (scope,) = resource.scope_spans
    (read,) = scope.spans
    return read


def test_a_grpc_call_is_told_by_the_conventions_for_rpc() -> None:
    span = told(Status.OK)
    said = attributes_of(span)
    assert span.name == "orders.v1.Orders/GetOrder"
    assert (said["rpc.system"], said["rpc.service"]) == ("grpc", "orders.v1.Orders")
    assert (said["rpc.method"], said["rpc.grpc.status_code"]) == ("GetOrder", 0)
    assert said["http.response.status_code"] == 200
    assert span.status.code == ReadStatus.STATUS_CODE_UNSET
    assert "error.type" not in said


@pytest.mark.parametrize(
    ("status", "of_client", "of_server"),
    [
        (Status.NOT_FOUND, True, False),
        (Status.UNIMPLEMENTED, True, True),
        (Status.UNAVAILABLE, True, True),
    ],
)
def test_what_an_error_is_depends_on_the_side(
    status: Status, of_client: bool, of_server: bool
) -> None:
    for side, is_error in (("source", of_client), ("destination", of_server)):
        span = told(status, side=side)
        assert (span.status.code == ReadStatus.STATUS_CODE_ERROR) is is_error
        assert attributes_of(span).get("error.type") == (status.name if is_error else None)


def test_a_call_without_an_end_has_no_status_and_a_strange_path_no_name() -> None:
    assert "rpc.grpc.status_code" not in attributes_of(told(None))
    span = told(Status.OK, target=b"/x")
    assert span.name == "POST"
    assert "rpc.service" not in attributes_of(span)


def test_every_failure_that_can_be_tried_again_has_a_word() -> None:
    assert set(Failure) <= set(_REASONS)
