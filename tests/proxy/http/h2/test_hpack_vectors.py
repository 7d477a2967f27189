"""Header blocks that others have encoded: each story is one connection, read by one decoder."""

import json
from pathlib import Path
from typing import Any

import hpack
import pytest
from jh2._hazmat import Decoder as RustDecoder

from proxy.http.h2.encoding import request_block
from proxy.http.h2.hpack import TABLE_BYTES, Decoder, HpackError, decode_field, split
from proxy.http.h2.representation import Pair, encode_field
from proxy.http.h2.request import parse_request

VECTORS: Any = json.loads(
    (Path(__file__).resolve().parents[3] / "cases/http2/hpack.json").read_text()
)
LISTS: list[list[Pair]] = [
    [(name.encode(), value.encode()) for name, value in pairs] for pairs in VECTORS["lists"]
]
STORIES: dict[str, list[tuple[int | None, str, int]]] = VECTORS["stories"]
TABLELESS = [
    name
    for name in STORIES
    if name.startswith(("go-hpack", "haskell-http2-naive", "haskell-http2-static"))
]
"""Their encoders use no dynamic table, though they may."""
PLAIN = {"go-hpack/01", "haskell-http2-naive/00", "haskell-http2-naive-huffman/01"}
"""Their first blocks are literals with literal names throughout, and so have no use for a table."""
REQUESTS = [pairs for pairs in LISTS if "connection" not in {name.decode() for name, _ in pairs}]
"""What may be said in HTTP/2 (RFC 9113, section 8.2.2)."""


@pytest.mark.parametrize("story", STORIES)
def test_what_others_encode_is_read_as_what_they_meant(story: str) -> None:
    decoder = Decoder()
    for _, octets, index in STORIES[story]:
        assert decoder.decode(bytes.fromhex(octets)) == LISTS[index]


@pytest.mark.parametrize("story", TABLELESS)
def test_blocks_without_a_table_are_read_a_field_at_a_time(story: str) -> None:
    for _, octets, index in STORIES[story]:
        fields = split(bytes.fromhex(octets))
        assert [decode_field(field) for field in fields] == LISTS[index]


@pytest.mark.parametrize("story", sorted(set(STORIES) - set(TABLELESS)))
def test_a_block_is_nothing_without_those_before_it(story: str) -> None:
    """None of these stories would be a test of the table if it could be read without one."""
    read: list[object] = []
    for _, octets, index in STORIES[story]:
        try:
            read.append(Decoder().decode(bytes.fromhex(octets)) == LISTS[index])
        except HpackError:
            read.append(False)
    # The first lists have nothing in common but entries of the static table.
    assert all(read) == story.endswith("/00")


@pytest.mark.parametrize("story", sorted(set(STORIES) - PLAIN))
def test_a_table_that_was_to_be_none_takes_no_blocks_that_need_one(story: str) -> None:
    decoder = Decoder()
    decoder.acknowledged()
    _, octets, _ = STORIES[story][0]
    with pytest.raises(HpackError):
        decoder.decode(bytes.fromhex(octets))


def test_an_encoder_that_was_told_of_a_larger_table_than_ours_is_refused() -> None:
    _, octets, index = STORIES["nghttp2-16384-4096/01"][0]
    block = bytes.fromhex(octets)
    assert block.startswith(bytes.fromhex("3fe11f"))  # 4096
    assert Decoder().decode(block) == LISTS[index]
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex("3fe21f") + block[3:])
    assert TABLE_BYTES == 4096


def others_read(block: bytes) -> list[list[Pair]]:
    said = hpack.Decoder().decode(block, raw=True)
    rust = RustDecoder(1 << 20).decode(block, True)
    return [[(bytes(name), bytes(value)) for name, value, *_ in each] for each in (said, rust)]


@pytest.mark.parametrize("pairs", LISTS)
def test_what_we_encode_of_the_same_lists_is_read_by_others(pairs: list[Pair]) -> None:
    block = b"".join(encode_field(name, value) for name, value in pairs)
    assert others_read(block) == [pairs, pairs]


@pytest.mark.parametrize("pairs", REQUESTS)
def test_a_request_that_is_passed_on_is_read_by_others_as_it_came(pairs: list[Pair]) -> None:
    block = b"".join(encode_field(name, value) for name, value in pairs)
    head = parse_request(Decoder(), block, True)
    scheme = dict(pairs)[b":scheme"]
    for said in others_read(request_block(head, b"unused.example", scheme)):
        assert sorted(said) == sorted(pairs)
