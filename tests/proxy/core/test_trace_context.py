"""W3C Trace Context and B3, as their specifications have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.trace_context import (
    RANDOM,
    SAMPLED,
    Context,
    is_unsampled,
    parse_b3,
    parse_traceparent,
    render_b3,
    render_traceparent,
)

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = b"00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("flags", "kept"),
    [(b"00", 0), (b"01", SAMPLED), (b"02", RANDOM), (b"03", SAMPLED | RANDOM), (b"ff", 3)],
)
def test_a_context_of_our_version_is_read_with_the_flags_that_we_know(
    flags: bytes, kept: int
) -> None:
    context = parse_traceparent(b"00-%b-%b-%b" % (TRACE, SPAN, flags))
    assert context is not None
    assert (context.trace_id, context.span_id, context.flags) == (TRACE, SPAN, kept)
    assert context.is_sampled is bool(kept & SAMPLED)


@pytest.mark.parametrize("rest", [b"", b"-", b"-more", b"-what-ever comes"])
def test_a_later_version_is_read_as_far_as_ours_goes(rest: bytes) -> None:
    context = parse_traceparent(b"cc-%b-%b-01%b" % (TRACE, SPAN, rest))
    assert context is not None
    assert (context.trace_id, context.span_id, context.is_sampled) == (TRACE, SPAN, True)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        b"00-%b-%b" % (TRACE, SPAN),
        b"00-%b-%b-" % (TRACE, SPAN),
        b"00-%b-%b-1" % (TRACE, SPAN),
        b"00-%b-%b-01-more" % (TRACE, SPAN),
        b"00-%b-%b-01-" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b"cc-%b-%b-01more" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE.upper(), SPAN),
        b"00-%b-%b-0G" % (TRACE, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-%b-01" % (TRACE[1:], SPAN),
        b"00-%b-%b-01" % (TRACE, SPAN + b"0"),
        b"00-%b-%b-01\n" % (TRACE, SPAN),
        b" 00-%b-%b-01" % (TRACE, SPAN),
    ],
)
def test_what_is_malformed_is_no_context(value: bytes) -> None:
    assert parse_traceparent(value) is None
    assert not is_unsampled(b"traceparent: " + value)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_parsers(value: bytes) -> None:
    parse_traceparent(value)
    parse_b3({b"b3": value})
    parse_b3({b"x-b3-traceid": value, b"x-b3-spanid": value, b"x-b3-sampled": value})


@given(st.integers(0, 255))
def test_the_quick_look_and_the_parser_agree_on_every_flag(flags: int) -> None:
    value = b"00-%b-%b-%02x" % (TRACE, SPAN, flags)
    context = parse_traceparent(value)
    assert context is not None
    assert is_unsampled(b"traceparent: " + value) is not context.is_sampled


def test_what_is_written_is_read_again() -> None:
    line = render_traceparent(TRACE, SPAN, SAMPLED | RANDOM)
    assert line == b"traceparent: 00-%b-%b-03" % (TRACE, SPAN)


B3_CASES: list[tuple[dict[str, str], tuple[bytes, bool | None, bool]]] = [
    ({"b3": f"{TRACE.decode()}-{SPAN.decode()}-1"}, (TRACE, True, False)),
    ({"b3": f"{TRACE.decode()}-{SPAN.decode()}-0"}, (TRACE, False, False)),
    ({"b3": f"{TRACE.decode()}-{SPAN.decode()}-d"}, (TRACE, True, True)),
    ({"b3": f"{TRACE.decode()}-{SPAN.decode()}"}, (TRACE, None, False)),
    ({"b3": f"{TRACE.decode()}-{SPAN.decode()}-1-{SPAN.decode()}"}, (TRACE, True, False)),
    (
        {"b3": f"a3ce929d0e0e4736-{SPAN.decode()}-1"},
        (b"0000000000000000a3ce929d0e0e4736", True, False),
    ),
    ({"b3": "0"}, (b"", False, False)),
    ({"b3": "1"}, (b"", True, False)),
    ({"b3": "d"}, (b"", True, True)),
    (
        {"x-b3-traceid": TRACE.decode(), "x-b3-spanid": SPAN.decode(), "x-b3-sampled": "1"},
        (TRACE, True, False),
    ),
    (
        {"x-b3-traceid": TRACE.decode(), "x-b3-spanid": SPAN.decode(), "x-b3-sampled": "0"},
        (TRACE, False, False),
    ),
    ({"x-b3-traceid": TRACE.decode(), "x-b3-spanid": SPAN.decode()}, (TRACE, None, False)),
    (
        {"x-b3-traceid": TRACE.decode(), "x-b3-spanid": SPAN.decode(), "x-b3-flags": "1"},
        (TRACE, True, True),
    ),
    (
        {"x-b3-traceid": TRACE.decode(), "x-b3-spanid": SPAN.decode(), "x-b3-sampled": "true"},
        (TRACE, True, False),
    ),
    ({"x-b3-sampled": "0"}, (b"", False, False)),
    ({"x-b3-sampled": "1", "x-b3-traceid": "bad"}, (b"", True, False)),
    # The single one goes first.
    ({"b3": "0", "x-b3-sampled": "1"}, (b"", False, False)),
]


@pytest.mark.parametrize(("fields", "expected"), B3_CASES)
def test_b3_says_which_trace_and_whether_it_is_sampled(
    fields: dict[str, str], expected: tuple[bytes, bool | None, bool]
) -> None:
    context = parse_b3({name.encode(): value.encode() for name, value in fields.items()})
    assert context is not None
    assert (context.trace_id, context.is_sampled, context.is_debug) == expected
    assert context.span_id == (SPAN if context.trace_id else b"")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"b3": ""},
        {"b3": "x"},
        {"b3": f"{TRACE.decode()}-{SPAN.decode()}-2"},
        {"b3": f"{TRACE.decode()}-{SPAN.decode()}-1-{SPAN.decode()}-1"},
        {"b3": f"{'0' * 32}-{SPAN.decode()}-1"},
        {"b3": f"{TRACE.decode()}-{'0' * 16}-1"},
        {"b3": f"{TRACE.decode()[:20]}-{SPAN.decode()}-1"},
        {"x-b3-traceid": TRACE.decode()},
        {"x-b3-spanid": SPAN.decode()},
        {"x-b3-sampled": "maybe"},
    ],
)
def test_b3_that_is_malformed_is_no_context(fields: dict[str, str]) -> None:
    assert parse_b3({name.encode(): value.encode() for name, value in fields.items()}) is None


def test_b3_is_written_in_the_form_that_came() -> None:
    made = Context(TRACE, SPAN, True, SAMPLED)
    assert render_b3({b"b3"}, made, b"1" * 16) == [b"b3: %b-%b-1-1111111111111111" % (TRACE, SPAN)]
    assert render_b3({b"x-b3-sampled"}, made, b"") == [
        b"x-b3-traceid: " + TRACE,
        b"x-b3-spanid: " + SPAN,
        b"x-b3-sampled: 1",
    ]
    made = Context(TRACE, SPAN, True, SAMPLED, is_debug=True)
    both = render_b3({b"b3", b"x-b3-flags"}, made, b"")
    assert both[0] == b"b3: %b-%b-d" % (TRACE, SPAN)
    assert both[-1] == b"x-b3-flags: 1"
