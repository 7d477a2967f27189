"""gRPC's statuses, deadlines and messages, by its own documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.grpc import (
    MAX_MESSAGE_BYTES,
    Status,
    decode_message,
    encode_message,
    http_of,
    is_failure,
    parse_status,
    parse_timeout,
    render_timeout,
    status_of_http,
    status_of_refusal,
)
from proxy.model.flags import STATUS, Flag


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        (400, Status.INTERNAL),
        (401, Status.UNAUTHENTICATED),
        (403, Status.PERMISSION_DENIED),
        (404, Status.UNIMPLEMENTED),
        (429, Status.UNAVAILABLE),
        (502, Status.UNAVAILABLE),
        (503, Status.UNAVAILABLE),
        (504, Status.UNAVAILABLE),
        (200, Status.UNKNOWN),
        (302, Status.UNKNOWN),
        (418, Status.UNKNOWN),
        (500, Status.UNKNOWN),
    ],
)
def test_an_answer_without_a_status_is_read_as_grpc_clients_read_it(
    http: int, expected: Status
) -> None:
    assert status_of_http(http) is expected


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (Flag.UPSTREAM_TIMEOUT, Status.DEADLINE_EXCEEDED),
        (Flag.DENIED, Status.PERMISSION_DENIED),
        (Flag.RATE_LIMITED, Status.RESOURCE_EXHAUSTED),
        (Flag.NO_ROUTE, Status.UNIMPLEMENTED),
        (Flag.UPSTREAM_OVERFLOW, Status.UNAVAILABLE),
        (Flag.UPSTREAM_CONNECT_FAILURE, Status.UNAVAILABLE),
        (Flag.NO_HEALTHY_UPSTREAM, Status.UNAVAILABLE),
        (Flag.OVERLOAD, Status.UNAVAILABLE),
        (Flag.UPSTREAM_RESET, Status.UNAVAILABLE),
        (Flag.STREAM_IDLE, Status.UNAVAILABLE),
        (Flag.RETRY_LIMIT, Status.UNAVAILABLE),
        (Flag.FAULT_ABORT, Status.UNAVAILABLE),
        (Flag.DOWNSTREAM_PROTOCOL_ERROR, Status.INTERNAL),
        (Flag.UPSTREAM_PROTOCOL_ERROR, Status.INTERNAL),
    ],
)
def test_each_refusal_of_a_proxy_has_a_status(flag: Flag, expected: Status) -> None:
    assert status_of_refusal(flag.value.encode(), STATUS[flag]) is expected


def test_no_refusal_is_a_success() -> None:
    assert all(status_of_refusal(flag.encode(), STATUS[flag]) for flag in STATUS)


@pytest.mark.parametrize(
    ("flag", "http", "policy", "expected"),
    [
        (b"UAEX", 403, b"api/token", Status.UNAUTHENTICATED),
        (b"UAEX", 403, b"api/default-deny", Status.PERMISSION_DENIED),
        (b"URX", 504, b"", Status.DEADLINE_EXCEEDED),
        (b"URX", 502, b"", Status.UNAVAILABLE),
        (b"FI", 429, b"", Status.RESOURCE_EXHAUSTED),
        (b"FI", 403, b"", Status.PERMISSION_DENIED),
        (b"FI", 500, b"", Status.UNKNOWN),
        (b"??", 503, b"", Status.UNAVAILABLE),
        (b"\xff", 400, b"", Status.INTERNAL),
    ],
)
def test_what_a_flag_leaves_open_its_status_or_its_policy_says(
    flag: bytes, http: int, policy: bytes, expected: Status
) -> None:
    assert status_of_refusal(flag, http, policy) is expected


def test_what_is_no_status_is_unknown() -> None:
    assert [parse_status(value) for value in (b"0", b"14", b"16")] == [
        Status.OK,
        Status.UNAVAILABLE,
        Status.UNAUTHENTICATED,
    ]
    for value in (b"", b"17", b"-1", b"00", b"+1", b"x", b"1 "):
        assert parse_status(value) is Status.UNKNOWN


def test_only_what_the_server_could_not_do_is_held_against_its_endpoint() -> None:
    assert {status for status in Status if is_failure(status)} == {
        Status.UNKNOWN,
        Status.DEADLINE_EXCEEDED,
        Status.INTERNAL,
        Status.UNAVAILABLE,
        Status.DATA_LOSS,
    }
    assert http_of(Status.RESOURCE_EXHAUSTED) == 429


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"1500m", 1.5),
        (b"2500000u", 2.5),
        (b"99999999n", 0.099999999),
        (b"1n", 0.001),
        (b"0S", 0.001),
        (b"99999999H", 359_999_996_400.0),
        (b"100000000m", None),
        (b"1", None),
        (b"m", None),
        (b"", None),
        (b"-1S", None),
        (b"+1S", None),
        (b"1.5S", None),
        (b"1_0S", None),
        (b"1s", None),
        (b"1h", None),
        (b" 1S", None),
        (b"1S ", None),
        (b"1S\n", None),
        (b"1SS", None),
        (b"\xd9\xa1S", None),
    ],
)
def test_a_timeout_is_at_most_eight_digits_and_a_unit(value: bytes, expected: float | None) -> None:
    assert parse_timeout(value) == (None if expected is None else pytest.approx(expected))


@given(st.floats(min_value=0, max_value=1e12))
def test_a_rendered_timeout_is_valid_and_never_longer(remaining_s: float) -> None:
    again_s = parse_timeout(render_timeout(remaining_s))
    assert again_s is not None
    assert again_s <= max(remaining_s, 0.001) * (1 + 1e-9)
    assert again_s >= min(remaining_s * 0.99 - 0.001, 99_999_999)


@given(st.text())
def test_a_message_is_encoded_as_printable_ascii_and_comes_back(text: str) -> None:
    encoded = encode_message(text)
    assert len(encoded) <= MAX_MESSAGE_BYTES
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    back = decode_message(encoded)
    whole = text.strip().encode("utf-8", "replace").decode()
    assert whole.startswith(back)
    if len(text) <= MAX_MESSAGE_BYTES // 12:
        assert back == whole


def test_a_long_message_is_cut_between_characters() -> None:
    encoded = encode_message("\N{SNOWMAN}" * 1000)
    assert encoded == b"%E2%98%83" * (MAX_MESSAGE_BYTES // 9)


@given(st.binary())
def test_any_bytes_are_some_message(value: bytes) -> None:
    decode_message(value)


def test_what_is_no_escape_stays() -> None:
    assert decode_message(b"100% of %zz %41%") == "100% of %zz A%"
    assert encode_message("100% of\n") == b"100%25 of"
