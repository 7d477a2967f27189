"""Where ids and trace context are in a request's head, whatever else is there."""

import pytest

from proxy.core.trace_context import SAMPLED, Context
from proxy.http.head import RequestHead, parse_request
from proxy.http.trace_fields import (
    b3_of,
    begin_trace,
    forget_trace,
    identify,
    make_span_id,
    state_of,
    traceparent_of,
    unsample,
    write,
)

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"
CONTEXT = f"Traceparent: 00-{TRACE.decode()}-{SPAN.decode()}-01"

GIVEN = [
    "",
    "Cookie: a=b",
    "X-Request-Id: 1",
    CONTEXT,
    f"Cookie: a=b\r\n{CONTEXT}",
    "Cookie: a=b\r\nX-Request-Id: 1",
    f"{CONTEXT}\r\nX-Request-Id: 1\r\nCookie: a=b",
    f"X-Request-Id: 1\r\n{CONTEXT}\r\nCookie: a=b",
]


def head_of(given: str) -> RequestHead:
    text = f"GET / HTTP/1.1\r\nHost: api\r\n{given}\r\nAccept: */*".replace("\r\n\r\n", "\r\n")
    return parse_request(text.encode())


def names(head: RequestHead) -> list[str]:
    return [line.partition(b":")[0].decode() for line in head.lines]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("is_traced", [False, True])
def test_a_request_has_its_ids_where_the_peer_looks_for_them(given: str, is_traced: bool) -> None:
    head = head_of(given)
    made = Context(TRACE, b"1" * 16, True, SAMPLED)
    if is_traced:
        if not head.has_trace:
            begin_trace(head)
        write(head, made, SPAN)
    if not (head.has_request_id and head.has_trace):
        identify(head)
    assert names(head)[:3] == ["accept", "x-request-id", "traceparent"]
    assert names(head)[3:] == ["cookie"] * ("Cookie" in given)
    assert head.fleeting == len(head.lines) - 1
    assert head.has_request_id
    assert head.has_trace
    if is_traced:
        assert traceparent_of(head) == b"traceparent: 00-%b-1111111111111111-01" % TRACE


def test_ids_that_are_made_are_one_number_and_never_the_same() -> None:
    made = set()
    for _ in range(50):
        head = head_of("")
        identify(head)
        identifier = head.get(b"x-request-id")
        line = traceparent_of(head)
        assert identifier is not None
        assert line.startswith(b"traceparent: 00-%b-" % identifier)
        assert line.endswith(b"-02")  # random, and not sampled
        made.add(identifier)
    assert len(made) == 50


@pytest.mark.parametrize(
    "given",
    [
        "Connection: baggage\r\nBaggage: a\r\nBaggage: b\r\nBaggage: c\r\n" + CONTEXT,
        "Connection: b3, x-b3-traceid, traceparent\r\nb3: 0\r\nX-B3-TraceId: a\r\n" + CONTEXT,
    ],
)
def test_lines_that_a_client_has_removed_do_not_displace_the_others(given: str) -> None:
    head = head_of(given)
    assert traceparent_of(head).endswith(b"-01")
    identify(head)
    assert names(head)[:3] == ["accept", "x-request-id", "traceparent"]
    assert head.fleeting == len(head.lines) - 1


def test_b3_cannot_be_taken_away_by_a_connection_field() -> None:
    head = head_of("Connection: b3, x-b3-sampled\r\nb3: 0\r\nX-B3-Sampled: 0")
    assert {"b3", "x-b3-sampled"} <= set(names(head))


@pytest.mark.parametrize(
    "given",
    ["", "Cookie: a", f"{CONTEXT}\r\n{CONTEXT}", f"{CONTEXT}\r\nCookie: a\r\n{CONTEXT}"],
)
def test_none_or_two_contexts_are_none(given: str) -> None:
    head = head_of(given)
    assert traceparent_of(head) == b"" if head.lines else True


def test_two_request_ids_do_not_hide_the_context() -> None:
    head = head_of(f"X-Request-Id: 1\r\nX-Request-Id: 2\r\n{CONTEXT}")
    assert traceparent_of(head).endswith(b"-01")


def test_what_is_forgotten_is_gone_with_its_state() -> None:
    head = head_of(f"Tracestate: a=1\r\n{CONTEXT}\r\nCookie: a=b\r\nTracestate: b=2\r\n{CONTEXT}")
    assert state_of(head) == b"a=1,b=2"
    forget_trace(head)
    identify(head)
    assert names(head) == ["accept", "x-request-id", "traceparent", "cookie"]
    assert head.fleeting == 3


def test_of_b3_that_is_there_twice_the_first_counts() -> None:
    head = head_of(f"b3: {TRACE.decode()}-{SPAN.decode()}-1\r\nb3: 0")
    context = b3_of(head)
    assert context is not None
    assert context.is_sampled


def test_b3_is_replaced_as_a_whole() -> None:
    head = head_of("b3: 1\r\nb3: 0\r\nX-B3-Flags: 1\r\nX-B3-ParentSpanId: x\r\nCookie: a=b")
    write(head, Context(TRACE, SPAN, True, SAMPLED), b"")
    assert names(head)[2:] == ["cookie", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"]
    assert head.fleeting == len(head.lines) - 1


def test_a_copy_loses_the_flag_and_b3_alone() -> None:
    head = head_of(f"b3: 1\r\n{CONTEXT}\r\nCookie: a=b")
    unsample(head)
    assert b"traceparent: 00-%b-%b-00" % (TRACE, SPAN) in head.lines
    assert names(head) == ["accept", "traceparent", "cookie"]


def test_span_ids_are_sixteen_digits() -> None:
    assert all(len(int(make_span_id(), 16).to_bytes(8)) == 8 for _ in range(20))
    assert len(make_span_id()) == 16
