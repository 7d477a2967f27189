"""Every byte that is written, read by OpenTelemetry's own messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from otlp_receiver import attributes_of

from proxy.core import otlp
from proxy.core.otlp import Key

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
PARENT = b"a3ce929d0e0e4736"
WHEN = 1_790_000_000_000_000_000


def decoded(**fields: object) -> Span:
    known = {
        "trace_id": TRACE,
        "span_id": SPAN,
        "parent_id": PARENT,
        "state": b"",
        "trace_flags": 1,
        "name": b"GET",
        "kind": otlp.CLIENT,
        "started_ns": WHEN,
        "ended_ns": WHEN + 5,
        "attributes": b"",
    }
    made = otlp.span(**(known | fields))  # type: ignore[arg-type]
    message = ExportTraceServiceRequest.FromString(
        otlp.request([(b"", [made])], otlp.make_scope("s", "1"))
    )
    (resource,) = message.resource_spans
    (scope,) = resource.scope_spans
    (span,) = scope.spans
    return span


def test_a_span_is_read_as_it_was_written() -> None:
    span = decoded(
        state=b"a=1,b=2",
        trace_flags=3,
        attributes=Key("k").text(b"v") + Key("n").number(70_000),
        events=otlp.event(WHEN + 1, b"again", Key("why").event_text(b"reset")),
        is_error=True,
        reason=b"no",
    )
    assert span.trace_id.hex().encode() == TRACE
    assert span.span_id.hex().encode() == SPAN
    assert span.parent_span_id.hex().encode() == PARENT
    assert (span.trace_state, span.name, span.kind) == ("a=1,b=2", "GET", Span.SPAN_KIND_CLIENT)
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (WHEN, WHEN + 5)
    assert attributes_of(span) == {"k": "v", "n": 70_000}
    (event,) = span.events
    assert (event.time_unix_nano, event.name) == (WHEN + 1, "again")
    assert attributes_of(event) == {"why": "reset"}
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "no")
    remote = (
        SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
        | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
    )
    assert span.flags == 3 | remote


def test_the_first_span_of_a_trace_has_no_parent_and_says_nothing_of_one() -> None:
    span = decoded(parent_id=b"", kind=otlp.SERVER)
    assert (span.parent_span_id, span.flags, span.kind) == (b"", 1, Span.SPAN_KIND_SERVER)
    assert span.status.code == Status.STATUS_CODE_UNSET


@given(st.text(max_size=400), st.integers(0, 2**63 - 1))
def test_texts_and_numbers_of_any_size_are_read_as_they_were_written(text: str, n: int) -> None:
    span = decoded(attributes=Key("t").text(text.encode("utf-8", "replace")) + Key("n").number(n))
    assert attributes_of(span) == {"t": text.encode("utf-8", "replace").decode(), "n": n}


def test_spans_are_told_apart_by_the_resource_that_they_are_of() -> None:
    name = Key("service.name").resource_text
    made = otlp.span(
        trace_id=TRACE, span_id=SPAN, parent_id=b"", state=b"", trace_flags=1, name=b"GET",
        kind=otlp.SERVER, started_ns=1, ended_ns=2, attributes=b"",
    )  # fmt: skip
    body = otlp.request(
        [(name(b"web"), [made, made]), (name(b"api"), [made])], otlp.make_scope("meshctl", "9")
    )
    message = ExportTraceServiceRequest.FromString(body)
    seen = [
        (
            attributes_of(each.resource),
            each.scope_spans[0].scope.name,
            len(each.scope_spans[0].spans),
        )
        for each in message.resource_spans
    ]
    assert seen == [
        ({"service.name": "web"}, "meshctl", 2),
        ({"service.name": "api"}, "meshctl", 1),
    ]


def test_what_a_receiver_has_not_taken_is_read() -> None:
    answer = ExportTraceServiceResponse()
    assert otlp.parse_answer(answer.SerializeToString()) == (0, "")
    answer.partial_success.rejected_spans = 300
    answer.partial_success.error_message = "too old: ä"
    assert otlp.parse_answer(answer.SerializeToString()) == (300, "too old: ä")


@pytest.mark.parametrize("body", [b"{}", b"<html>", b"\x0a", b"\x0a\x05\x08", b"\xff" * 40])
def test_an_answer_that_is_something_else_rejects_nothing(body: bytes) -> None:
    assert otlp.parse_answer(body) == (0, "")


@given(st.binary(max_size=60))
def test_no_answer_breaks_the_reader(body: bytes) -> None:
    rejected, _ = otlp.parse_answer(body)
    assert rejected >= 0
