"""HTTP/2 frames as bytes, both ways."""

import pytest
from engines import frames_of
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.h2 import frames
from proxy.http.h2.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    HEADER_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_STREAM,
    frame,
    headers_frames,
    pack_header,
    unpack_header,
)


@pytest.mark.parametrize(
    ("made", "wire"),
    [
        (frame(frames.DATA, END_STREAM, 3, b"abc"), "000003 00 01 00000003 616263"),
        (frame(HEADERS, END_HEADERS, 1, b"\x82\x86"), "000002 01 04 00000001 8286"),
        (frames.reset_frame(5, frames.CANCEL), "000004 03 00 00000005 00000008"),
        (frames.SETTINGS_ACK, "000000 04 01 00000000"),
        (
            frames.settings_frame({frames.HEADER_TABLE_SIZE: 0, frames.INITIAL_WINDOW_SIZE: 65536}),
            "00000c 04 00 00000000 0001 00000000 0004 00010000",
        ),
        (frame(frames.PING, frames.ACK, 0, b"12345678"), "000008 06 01 00000000 3132333435363738"),
        (frames.goaway_frame(7, 11, b"why"), "00000b 07 00 00000000 00000007 0000000b 776879"),
        (frames.window_update_frame(9, 0x7FFFFFFF), "000004 08 00 00000009 7fffffff"),
        (frame(CONTINUATION, END_HEADERS, 1, b""), "000000 09 04 00000001"),
        (frames.header(0x012345, frames.DATA, 0, MAX_STREAM), "012345 00 00 7fffffff"),
    ],
)
def test_a_frame_is_the_bytes_of_rfc_9113(made: bytes, wire: str) -> None:
    assert made == bytes.fromhex(wire)


@given(
    length=st.integers(0, MAX_FRAME_BYTES),
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    number=st.integers(0, 0xFFFFFFFF),
)
def test_a_header_is_unpacked_as_it_was_packed(
    length: int, kind: int, flags: int, number: int
) -> None:
    made = pack_header(length << 8 | kind, flags, number)
    assert len(made) == HEADER_BYTES
    assert unpack_header(made, 0) == (length << 8 | kind, flags, number)


@given(block=st.binary(max_size=200), most=st.integers(1, 64), is_end=st.booleans())
def test_a_block_goes_in_frames_of_the_peers_size(block: bytes, most: int, is_end: bool) -> None:
    made = frames_of(headers_frames(3, block, END_STREAM if is_end else 0, most))
    kinds = [kind for kind, _, _, _ in made]
    assert kinds == [HEADERS] + [CONTINUATION] * (len(made) - 1)
    assert b"".join(payload for _, _, _, payload in made) == block
    assert all(len(payload) <= most for _, _, _, payload in made)
    assert [bool(flags & END_HEADERS) for _, flags, _, _ in made] == [False] * (len(made) - 1) + [
        True
    ]
    assert [bool(flags & END_STREAM) for _, flags, _, _ in made] == [is_end] + [False] * (
        len(made) - 1
    )
    assert len(made) == max(1, -(-len(block) // most))


def test_settings_are_read_in_their_order() -> None:
    payload = bytes.fromhex("000400000001 000400000002 fff0ffffffff")
    assert frames.settings_of(payload) == [(4, 1), (4, 2), (0xFFF0, 0xFFFFFFFF)]


def test_a_goaways_reserved_bit_is_not_a_part_of_its_stream() -> None:
    assert frames.goaway_of(bytes.fromhex("80000005 00000002 6162")) == (5, 2)


def test_a_code_has_the_name_of_the_registry_or_its_number() -> None:
    assert frames.code_name(frames.ENHANCE_YOUR_CALM) == "ENHANCE_YOUR_CALM"
    assert frames.code_name(frames.HTTP_1_1_REQUIRED) == "HTTP_1_1_REQUIRED"
    assert frames.code_name(14) == "0xe"
