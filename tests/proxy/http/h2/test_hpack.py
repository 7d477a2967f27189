"""The decoder against the examples of RFC 7541 and the encoders of others; and ours by theirs."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jh2._hazmat import Decoder as RustDecoder
from jh2._hazmat import Encoder as RustEncoder

from proxy.http.h2.hpack import Decoder, HpackError, decode_field, split
from proxy.http.h2.representation import STATIC, encode_field, pack_integer

EXAMPLE = [
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    [
        *((":method", "GET"), (":scheme", "http"), (":path", "/")),
        *((":authority", "www.example.com"), ("cache-control", "no-cache")),
    ],
    [
        *((":method", "GET"), (":scheme", "https"), (":path", "/index.html")),
        *((":authority", "www.example.com"), ("custom-key", "custom-value")),
    ],
]
COOKIE = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
ANSWERS = [
    [
        *((":status", "302"), ("cache-control", "private")),
        *(("date", "Mon, 21 Oct 2013 20:13:21 GMT"), ("location", "https://www.example.com")),
    ],
    [
        *((":status", "307"), ("cache-control", "private")),
        *(("date", "Mon, 21 Oct 2013 20:13:21 GMT"), ("location", "https://www.example.com")),
    ],
    [
        *((":status", "200"), ("cache-control", "private")),
        *(("date", "Mon, 21 Oct 2013 20:13:22 GMT"), ("location", "https://www.example.com")),
        *(("content-encoding", "gzip"), ("set-cookie", COOKIE)),
    ],
]
TABLE_OF_256 = "3fe101"
"""The answers' examples are of a smaller table than the default one."""

CONVERSATIONS = {
    "C.2.1": (["400a637573746f6d2d6b65790d637573746f6d2d686561646572"], None),
    "C.3": (
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        EXAMPLE,
    ),
    "C.4": (
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
        EXAMPLE,
    ),
    "C.5": (
        [
            TABLE_OF_256
            + "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a"
            "323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a6970"
            "7738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d61"
            "67653d333630303b2076657273696f6e3d31",
        ],
        ANSWERS,
    ),
    "C.6": (
        [
            TABLE_OF_256 + "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a6"
            "2d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2"
            "e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ],
        ANSWERS,
    ),
}


def encoded(pairs: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in pairs]


@pytest.mark.parametrize(("blocks", "lists"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_examples_of_the_rfc_are_read(
    blocks: list[str], lists: list[list[tuple[str, str]]] | None
) -> None:
    decoder = Decoder()
    for block, pairs in zip(blocks, lists or [[("custom-key", "custom-header")]], strict=True):
        assert decoder.decode(bytes.fromhex(block)) == encoded(pairs)


def test_the_static_table_is_the_one_of_others() -> None:
    table = hpack.table.HeaderTable.STATIC_TABLE
    assert list(table) == list(STATIC[1:])


MALFORMED = {
    "an index of zero": "80",
    "an index beyond the static table": "be",
    "an index beyond any": "ff8001",
    "an integer that goes on": "ffffffffffffffffffffff01",
    "an integer of many zeros": "ff80808080808000",
    "an integer that ends early": "ff",
    "an index of a name that ends early": "0f",
    "a literal of nothing": "00",
    "a name that ends early": "000561",
    "no value": "000161",
    "a value that ends early": "00016105",
    "a long value that ends early": "0001617f80",
    "a length beyond the block": "0001617fffffff7f",
    "a name index beyond the tables": "7f80017f",
    "a padding of zeros": "00016181" + "18",
    "a padding of eight bits": "00016182" + "1fff",
    "the end of string": "00016184" + "ffffffff",
    "half a code": "00016182" + "ffff",
    "a table larger than allowed": "3fe21f",
    "a change of size after a field": "8220",
}


@pytest.mark.parametrize("block", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_block_is_refused(block: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex(block))
    stateless = _stateless()
    with pytest.raises(HpackError):
        [decode_field(field) for field in stateless.split(bytes.fromhex(block))]
    assert capfd.readouterr() == ("", "")  # a panic writes to standard error


def _stateless() -> Decoder:
    decoder = Decoder()
    decoder.decode(b"\x20")
    decoder.acknowledged()
    assert decoder.is_stateless
    return decoder


def test_the_table_must_be_gone_in_the_block_after_the_acknowledgement() -> None:
    decoder = Decoder()
    assert decoder.decode(b"\x40\x01a\x01b") == [(b"a", b"b")]
    assert decoder.decode(b"\xbe") == [(b"a", b"b")]
    decoder.acknowledged()
    assert not decoder.is_stateless
    assert decoder.decode(b"\x3f\x01\x20\x82") == [(b":method", b"GET")]
    assert decoder.is_stateless
    decoder = Decoder()
    decoder.acknowledged()
    with pytest.raises(HpackError):
        decoder.decode(b"\x82")


def test_who_has_emptied_the_table_before_need_not_say_it_again() -> None:
    decoder = Decoder()
    decoder.decode(b"\x20\x82")
    assert not decoder.is_stateless
    decoder.acknowledged()
    assert decoder.is_stateless
    assert decoder.split(b"\x20\x20\x82\x40\x01a\x01b") == [b"\x82", b"\x40\x01a\x01b"]
    assert decode_field(b"\x40\x01a\x01b") == (b"a", b"b")
    with pytest.raises(HpackError):
        decoder.split(b"\x21\x82")


def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    decoder = Decoder()
    value = b"x" * 4000
    decoder.decode(b"\x40\x01a" + pack_integer(len(value), 0x7F, 0) + value)
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe" * 17)
    assert len(decoder.decode(b"\xbe" * 16)) == 16


def test_the_table_forgets_the_oldest() -> None:
    decoder = Decoder()
    decoder.decode(b"\x3f\x31\x40\x01a\x01b\x40\x01c\x01d")  # 80 bytes: two entries of 34
    assert decoder.decode(b"\xbe\xbf") == [(b"c", b"d"), (b"a", b"b")]
    decoder.decode(b"\x40\x01e\x01f")
    assert decoder.decode(b"\xbe\xbf") == [(b"e", b"f"), (b"c", b"d")]
    with pytest.raises(HpackError):
        decoder.decode(b"\xc0")
    # RFC 7541, section 4.4: an entry larger than the table empties it.
    decoder.decode(b"\x40\x01g\x31" + b"x" * 49)
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe")


NAMES = st.sampled_from([name for name, _ in STATIC[1:]]) | st.binary(min_size=1, max_size=40)
VALUES = (
    st.sampled_from([b"", b"GET", b"200", b"/"])
    | st.binary(max_size=40)
    | st.binary(min_size=120, max_size=300)
)
LISTS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=12)


@given(
    st.lists(st.tuples(LISTS, st.booleans(), st.sampled_from((0, 0, 64, 200, 4096))), max_size=6)
)
def test_what_others_encode_is_read(
    conversation: list[tuple[list[tuple[bytes, bytes, bool]], bool, int]],
) -> None:
    python, rust = hpack.Encoder(), RustEncoder()
    of_python, of_rust = Decoder(), Decoder()
    for pairs, is_huffman, size in conversation:
        expected = [(name, value) for name, value, _ in pairs]
        if size:
            python.header_table_size = size
        fields = [
            hpack.NeverIndexedHeaderTuple(name, value)
            if is_secret
            else hpack.HeaderTuple(name, value)
            for name, value, is_secret in pairs
        ]
        assert of_python.decode(python.encode(fields, huffman=is_huffman)) == expected
        assert of_rust.decode(rust.encode(pairs, is_huffman)) == expected


@given(LISTS, st.booleans())
def test_without_a_table_every_field_is_read_by_itself(
    pairs: list[tuple[bytes, bytes, bool]], is_huffman: bool
) -> None:
    rust = RustEncoder()
    rust.header_table_size = 0
    fields = _stateless().split(rust.encode(pairs, is_huffman))
    assert [decode_field(field) for field in fields] == [pair[:2] for pair in pairs]


@given(LISTS)
def test_what_is_encoded_others_read(pairs: list[tuple[bytes, bytes, bool]]) -> None:
    expected = [(name, value) for name, value, _ in pairs]
    block = b"".join(encode_field(name, value) for name, value in expected)
    assert [pair[:2] for pair in RustDecoder().decode(block, True)] == expected
    assert [tuple(pair) for pair in hpack.Decoder().decode(block, raw=True)] == expected
    assert Decoder().decode(block) == expected
    fields = split(block)
    assert b"".join(fields) == block
    assert [decode_field(field) for field in fields] == expected


@pytest.mark.parametrize(
    ("name", "is_secret"), [(b"cookie", True), (b"authorization", True), (b"accept", False)]
)
def test_a_secret_is_marked_as_never_to_be_indexed(name: bytes, is_secret: bool) -> None:
    (pair,) = hpack.Decoder().decode(encode_field(name, b"x"), raw=True)
    assert isinstance(pair, hpack.NeverIndexedHeaderTuple) is is_secret


def test_no_more_is_read_of_a_block_than_it_may_have() -> None:
    assert len(split(b"\x82" * 60_000, 5)) == 5
    stateless = _stateless()
    for resizes in (0, 1, 3):
        block = b"\x20" * resizes + b"\x82" * 6
        assert len(stateless.split(block, 5)) > 5
        assert len(stateless.split(block[:-1], 5)) == 5
    for resizes in (4, 60_000):
        with pytest.raises(HpackError):
            stateless.split(b"\x20" * resizes + b"\x82" * 5, 5)


@given(st.binary(max_size=80))
def test_whatever_comes_is_read_or_refused(block: bytes) -> None:
    def read(read_block: object) -> object:
        try:
            return read_block()  # type: ignore[operator]
        except HpackError:
            return None

    pairs = read(lambda: Decoder().decode(block))
    if pairs is not None:
        try:
            theirs = [tuple(each) for each in hpack.Decoder().decode(block, raw=True)]
        except hpack.HPACKError:
            theirs = None
        assert pairs == theirs
    read(lambda: [decode_field(field) for field in _stateless().split(block)])


def test_a_block_without_any_use_for_a_table_need_not_say_that_there_is_none() -> None:
    """As gRPC's C core writes one by hand where a call ends before it was answered."""
    decoder = Decoder()
    decoder.acknowledged()
    plain = b"\x00\x07:status\x03200" + b"\x10\x0bgrpc-status\x014"
    assert decoder.decode(plain) == [(b":status", b"200"), (b"grpc-status", b"4")]
    assert not decoder.is_stateless
    for other in (b"\x88", b"\x40\x01a\x01b", b"\x0f\x00\x01b", b"\x3f\xe1\x1f" + plain):
        with pytest.raises(HpackError, match="not emptied"):
            decoder.decode(plain + other if other[0] != 0x3F else other)
    assert decoder.decode(b"\x20" + plain) == decoder.decode(plain)
    assert decoder.is_stateless
