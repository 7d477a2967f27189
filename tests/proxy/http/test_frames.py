"""Frames as bytes, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.fields import ProtocolError
from proxy.http.frames import (
    HEAD,
    HEAD_END,
    HEADER_BYTES,
    INTERIM,
    MAX_BLOCK,
    MAX_DATA,
    MAX_PAYLOAD,
    credit_frame,
    credit_of,
    frame,
    head_frame,
    interim_frame,
    split_head,
    split_trailers,
    unpack_header,
)


@given(
    number=st.integers(0, 0xFFFFFFFF),
    head=st.binary(max_size=300),
    data=st.binary(max_size=300),
    is_end=st.booleans(),
)
def test_a_head_is_split_where_it_was_joined(
    number: int, head: bytes, data: bytes, is_end: bool
) -> None:
    made = head_frame(number, head + b"\r\n\r\n", data, is_end)
    length, found, kind = unpack_header(made, 0)
    assert (length, found, kind) == (
        len(made) - HEADER_BYTES,
        number,
        HEAD_END if is_end else HEAD,
    )
    assert split_head(made[HEADER_BYTES:]) == (head, data)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"\0\4\r\n\r",
        b"\0\0\r\n\r\n",
        b"\0\2\r\n\r\n",
        b"\0\3\r\n\r\nxx",
        b"\0\x09GET\r\n\r\n",
        b"\0\5GET\r\n\r\n",
        b"\xff\xffGET / HTTP/1.1\r\n\r\n",
        b"\0\x08abcd\r\n\n\n",
    ],
)
def test_a_head_that_does_not_end_where_its_frame_says_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        split_head(payload)
    assert caught.value.reason == "frame"


def test_the_largest_head_with_the_largest_piece_of_body_fits() -> None:
    block = b"x" * (MAX_BLOCK - 4) + b"\r\n\r\n"
    made = head_frame(1, block, b"y" * MAX_DATA, True)
    assert unpack_header(made, 0)[0] == MAX_PAYLOAD
    head, data = split_head(made[HEADER_BYTES:])
    assert (len(head), len(data)) == (MAX_BLOCK - 4, MAX_DATA)


def test_an_interim_head_is_one_without_data() -> None:
    made = interim_frame(3, b"HTTP/1.1 100 Continue\r\n\r\n")
    assert unpack_header(made, 0)[1:] == (3, INTERIM)
    assert split_head(made[HEADER_BYTES:]) == (b"HTTP/1.1 100 Continue", b"")


@given(st.integers(0, 0xFFFFFFFF))
def test_credit_is_four_bytes(size: int) -> None:
    made = credit_frame(1, size)
    assert credit_of(made[HEADER_BYTES:]) == size
    for wrong in (b"", made[HEADER_BYTES:-1], made[HEADER_BYTES:] + b"\0"):
        with pytest.raises(ProtocolError):
            credit_of(wrong)


def test_trailers_end_with_a_line_ending() -> None:
    assert split_trailers(b"a: b\r\n") == b"a: b"
    for wrong in (b"", b"a: b", b"a: b\n"):
        with pytest.raises(ProtocolError):
            split_trailers(wrong)


def test_a_frame_without_a_payload_is_its_header() -> None:
    assert len(frame(1, HEAD)) == HEADER_BYTES
