import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.chunked import ChunkedDecoder, encode_chunk, encode_end
from proxy.http.fields import ProtocolError


def decode(pieces: list[bytes]) -> tuple[bytes, bool, bytes, list[bytes]]:
    decoder = ChunkedDecoder()
    body, rest, is_done = b"", b"", False
    for piece in pieces:
        if is_done:
            rest += piece
            continue
        payload, is_done, rest = decoder.feed(piece)
        body += payload
    return body, is_done, rest, decoder.trailers


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted({each % (len(data) + 1) for each in at}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.booleans(),
    st.binary(max_size=10),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_decoding_does_not_depend_on_how_the_bytes_arrive(
    chunks: list[bytes], has_trailers: bool, after: bytes, at: list[int]
) -> None:
    trailers = [b"x-sum: 1", b"x-b: 2"] if has_trailers else []
    wire = b"".join(map(encode_chunk, chunks)) + encode_end(trailers) + after
    expected = (b"".join(chunks), True, after, trailers)
    assert decode(cut(wire, at)) == expected
    assert decode([wire[i : i + 1] for i in range(len(wire))]) == expected


@given(st.binary(max_size=60), st.lists(st.integers(0, 10_000), max_size=10))
def test_garbage_is_refused_or_not_independently_of_how_it_arrives(
    wire: bytes, at: list[int]
) -> None:
    results: list[object] = []
    for pieces in ([wire], cut(wire, at)):
        try:
            results.append(decode(pieces))
        except ProtocolError as error:
            results.append(error.reason)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "wire",
    [
        b"5\r\nhelloX",
        b"5\r\nhello\rX",
        b"5\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5_0\r\n",
        b"-1\r\n",
        b"\r\n",
        b"g\r\n",
        b"1" * 16 + b"\r\n",
        b"5;ext=\x00\r\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;" + b"x" * 600,
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\nX: 1\nY: 2\r\n\r\n",
        b"0\r\n" + b"X: 1\r\n" * 101 + b"\r\n",
        b"0\r\nX: " + b"a" * 70_000,
    ],
)
def test_a_malformed_coding_is_refused(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode([wire])


def test_extensions_are_dropped_and_case_does_not_matter() -> None:
    wire = b'A;name="x"\r\n0123456789\r\na ; y\r\n0123456789\r\n000\r\n\r\n'
    assert decode([wire]) == (b"0123456789" * 2, True, b"", [])
