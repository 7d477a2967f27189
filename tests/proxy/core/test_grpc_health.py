"""The question and the answer of gRPC's health service, against bytes of protobuf's own making."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import grpc_health

OK = [b"content-type: application/grpc", b"grpc-status: 0"]


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


SERVING = framed(b"\x08\x01")


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("", b""),
        ("a.B", b"\x0a\x03a.B"),
        ("x" * 127, b"\x0a\x7f" + b"x" * 127),
        ("x" * 128, b"\x0a\x80\x01" + b"x" * 128),
        ("x" * 256, b"\x0a\x80\x02" + b"x" * 256),
    ],
)
def test_the_question_is_one_message_with_the_name_as_its_first_field(
    service: str, message: bytes
) -> None:
    assert grpc_health.question(service) == framed(message)


def test_serving_is_well() -> None:
    assert grpc_health.failure(200, OK, SERVING) is None


@pytest.mark.parametrize(
    "message",
    [
        b"\x08\x01\x10\x05",  # another number behind it
        b"\x12\x02ab\x08\x01",  # another text before it
        b"\x19" + bytes(8) + b"\x25" + bytes(4) + b"\x08\x01",
        b"\x08\x02\x08\x01",  # of several the last
    ],
    ids=["varint", "text", "fixed", "repeated"],
)
def test_fields_that_nobody_knows_are_passed_over(message: bytes) -> None:
    assert grpc_health.failure(200, OK, framed(message)) is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (framed(b"\x08\x02"), "answered NOT_SERVING"),
        (framed(b"\x08\x00"), "answered UNKNOWN"),
        (framed(b""), "answered UNKNOWN"),
        (framed(b"\x08\x03"), "answered SERVICE_UNKNOWN"),
        (framed(b"\x08\x09"), "answered status 9"),
        (b"", "without a message"),
        (b"\0\0\0\0", "without a message"),
        (b"\x01" + SERVING[1:], "compressed"),
        (SERVING[:-1], "other than one message"),
        (SERVING + SERVING, "other than one message"),
        (framed(b"\x08"), "cut off"),
        (framed(b"\x08\x01\x12\x05ab"), "cut off"),
        (framed(b"\x0a\x01a"), "of another type"),
        (framed(b"\x0b"), "of another type"),
        (framed(b"\x13"), "not protobuf"),
        (framed(b"\x08" + b"\xff" * 10), "not protobuf"),
    ],
)  # fmt: skip
def test_anything_else_is_a_failure_and_says_which(body: bytes, why: str) -> None:
    assert why in (grpc_health.failure(200, OK, body) or "well")


@pytest.mark.parametrize(
    ("status", "lines", "why"),
    [
        (503, OK, "HTTP 503"),
        (200, [b"content-type: text/html"], "without a grpc-status"),
        (200, [b"grpc-status: 12"], "UNIMPLEMENTED"),
        (200, [b"grpc-status: 5", b"grpc-message: unknown service"], "NOT_FOUND: unknown service"),
        (200, [b"grpc-status: 16"], "UNAUTHENTICATED"),
        (200, [b"grpc-status: 17"], "grpc-status 17"),
        (200, [b"grpc-status: 000"], "grpc-status 000"),
        (200, [b"grpc-status: -1"], "grpc-status -1"),
    ],
)
def test_a_call_that_failed_is_a_failure_whatever_its_body_says(
    status: int, lines: list[bytes], why: str
) -> None:
    assert why in (grpc_health.failure(status, lines, SERVING) or "well")


@given(st.binary(max_size=40))
def test_no_answer_raises_and_only_serving_is_well(message: bytes) -> None:
    said = grpc_health.failure(200, OK, framed(message))
    assert said is not None or b"\x01" in message or b"\x81" in message
