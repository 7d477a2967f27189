"""HPACK (RFC 7541): header blocks to encoded fields and (name, value) pairs.

We advertise a dynamic table of no bytes. As soon as a peer has acknowledged that, its blocks have
no state: each field is encoded by itself, equal bytes mean equal fields, and whoever reads them
can remember what it made of them (``proxy.http.h2.heads``). Until then a peer may use a table of
4,096 bytes, and ``Decoder`` keeps one.

Refused (HpackError, a connection error COMPRESSION_ERROR): an index beyond the tables, strings
longer than the block, integers longer than any length can be, a padding of Huffman codes that is
not the end of EOS, a change of the table's size where none may be or above what we allow.

The Huffman code is jh2's, in Rust. Its decoder reads single fields here and not whole blocks: it
panics on a string that ends too early, and takes padding and changes of size that RFC 7541
forbids.
"""

from collections import deque
from typing import Final

from jh2._hazmat import Decoder as RustDecoder
from jh2._hazmat import Encoder as RustEncoder
from jh2._hazmat import HPACKError, OversizedHeaderListError

from proxy.http.h2.representation import STATIC, Pair, pack_integer

TABLE_BYTES: Final = 4096
"""Of the dynamic table that a peer may use until it knows our settings (RFC 9113, 6.5.2)."""
MAX_LIST_BYTES: Final = 64 * 1024
"""Of a header list, as RFC 9113 section 6.5.2 counts it: names, values, and 32 for each field."""
FIELD_OVERHEAD: Final = 32
_MOST_RESIZES: Final = 3
"""In front of a block: two are all that a change can need (RFC 7541, section 4.2)."""
_STATIC_FIELDS: Final = len(STATIC)


class HpackError(Exception):
    """A header block that cannot be decoded: COMPRESSION_ERROR for the connection."""


def split(block: bytes, most: int = 1 << 30) -> list[bytes]:
    """HOT. The encoded fields of a block, each by itself; what is in them is not looked at, nor is
    what comes behind ``most`` of them: 64 KiB of indexes would take 10 ms.

    Changes of the table's size are among them, and are no fields: whoever decodes the fields
    allows them at the beginning only (RFC 7541, section 4.2).
    """
    fields: list[bytes] = []
    append = fields.append
    at = 0
    end = len(block)
    try:
        for _ in range(most):
            if at >= end:
                break
            start = at
            first = block[at]
            at += 1
            if first >= 0x80:
                if first == 0xFF:
                    _, at = _integer(block, start, 0x7F)
            elif 0x20 <= first < 0x40:
                if first == 0x3F:
                    _, at = _integer(block, start, 0x1F)
            else:
                bits = 0x3F if first >= 0x40 else 0x0F
                index = first & bits
                if index == bits:
                    if block[at] < 0x80:
                        at += 1
                    else:
                        _, at = _integer(block, start, bits)
                elif index == 0:
                    length = block[at] & 0x7F
                    if length == 0x7F:
                        length, at = _integer(block, at, 0x7F)
                        at += length
                    else:
                        at += length + 1
                length = block[at] & 0x7F
                if length == 0x7F:
                    length, at = _integer(block, at, 0x7F)
                    at += length
                else:
                    at += length + 1
            append(block[start:at])
    except IndexError:
        raise HpackError("a header block ends within a field") from None
    if at > end:
        raise HpackError("a header block ends within a field")
    return fields


def decode_field(field: bytes) -> Pair:
    """Of a field as ``split`` gives it, where there is no dynamic table."""
    return _decode(field, None)


def _decode(field: bytes, table: "_Table | None") -> Pair:
    first = field[0]
    if first >= 0x80:
        return _entry(_integer(field, 0, 0x7F)[0], table)
    if 0x20 <= first < 0x40:
        raise HpackError("the table's size changes where it may not")
    index, at = _integer(field, 0, 0x3F if first >= 0x40 else 0x0F)
    if index:
        name = _entry(index, table)[0]
    else:
        name, at = _string(field, at)
    value, _ = _string(field, at)
    pair = (name, value)
    if first >= 0x40 and table is not None:
        table.add(pair)
    return pair


def _entry(index: int, table: "_Table | None") -> Pair:
    if 0 < index < _STATIC_FIELDS:
        return STATIC[index]
    if table is None or index == 0 or index - _STATIC_FIELDS >= len(table.entries):
        raise HpackError("an index is beyond the tables")
    return table.entries[index - _STATIC_FIELDS]


def _integer(data: bytes, at: int, most: int) -> tuple[int, int]:
    """RFC 7541, section 5.1: the integer in the low bits (``most``), and what comes after."""
    number = data[at] & most
    at += 1
    if number < most:
        return number, at
    for shift in (0, 7, 14, 21):  # a quarter of a gigabyte: more than any block
        octet = data[at]
        at += 1
        number += (octet & 0x7F) << shift
        if octet < 0x80:
            return number, at
    raise HpackError("an integer is too long")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    is_coded = data[at] >= 0x80
    length, at = _integer(data, at, 0x7F)
    raw = data[at : at + length]
    return _uncode(raw) if is_coded else raw, at + length


_rust_decoder = RustDecoder(1 << 30)  # as much as a block may hold: the halves limit that
_rust_encoder = RustEncoder()


def _uncode(coded: bytes) -> bytes:
    """Huffman's code, strictly: what is written again must be the same bytes (section 5.2)."""
    if not coded:
        return b""
    prefix = b"\x00\x01x" + pack_integer(len(coded), 0x7F, 0x80)
    try:
        value = _rust_decoder.decode(prefix + coded, True)[0][1]
    except (HPACKError, OversizedHeaderListError):
        raise HpackError("a string is not in Huffman's code") from None
    assert isinstance(value, bytes)
    again = _rust_encoder.encode([(b"x", value, True)], True)
    if not again.endswith(coded) or len(again) != len(prefix) + len(coded):
        raise HpackError("a string in Huffman's code does not end as it must")
    return value


def _is_plain(fields: list[bytes]) -> bool:
    """Whether all are literals with literal names that no table is to remember (RFC 7541, sections
    6.2.2 and 6.2.3)."""
    return all(field[0] in (0x00, 0x10) for field in fields)


class _Table:
    """The dynamic table (RFC 7541, section 4), newest first."""

    __slots__ = ("entries", "limit", "size")

    def __init__(self) -> None:
        self.entries: deque[Pair] = deque()
        self.limit = TABLE_BYTES
        self.size = 0

    def add(self, pair: Pair) -> None:
        self.entries.appendleft(pair)
        self.size += FIELD_OVERHEAD + len(pair[0]) + len(pair[1])
        self._evict()

    def resize(self, limit: int) -> None:
        self.limit = limit
        self._evict()

    def _evict(self) -> None:
        while self.size > self.limit:
            name, value = self.entries.pop()
            self.size -= FIELD_OVERHEAD + len(name) + len(value)


class Decoder:
    """What one peer's blocks depend on; one for each connection."""

    __slots__ = ("_is_acknowledged", "_table", "cuts", "is_stateless")

    def __init__(self) -> None:
        self._table = _Table()
        self._is_acknowledged = False
        self.is_stateless = False
        """There is no table any more: ``split`` and ``decode_field`` say all."""
        self.cuts: tuple[int, ...] = ()
        """Where in its blocks this peer has what differs in each of them (``heads``)."""

    def acknowledged(self) -> None:
        """The peer has acknowledged our settings, and so that there is no table."""
        self._is_acknowledged = True
        if self._table.limit == 0:
            self.is_stateless = True

    def split(self, block: bytes, most: int = 1 << 30) -> list[bytes]:
        """HOT. ``split`` for a peer without a table, which may still say that it has none; more
        than ``most`` fields, if there are more."""
        fields = split(block, most + _MOST_RESIZES + 1)
        if fields and fields[0][0] & 0xE0 == 0x20:
            for _ in range(_MOST_RESIZES):
                if fields[0] != b"\x20":
                    raise HpackError("the table becomes larger than it may be")
                del fields[0]
                if not fields or fields[0][0] & 0xE0 != 0x20:
                    return fields
            raise HpackError("the table's size changes too often")
        return fields

    def decode(self, block: bytes) -> list[Pair]:
        """Every field of a block, in order; at most ``MAX_LIST_BYTES`` of them.

        A list beyond the limit is an HpackError while there is a table, as what is left of the
        block could change it.
        """
        table = self._table
        pairs: list[Pair] = []
        total = 0
        fields = split(block)
        at = self._resize(fields)
        for field in fields[at:] if at else fields:
            pair = _decode(field, table)
            total += FIELD_OVERHEAD + len(pair[0]) + len(pair[1])
            if total > MAX_LIST_BYTES:
                raise HpackError("the header list exceeds 64 KiB")
            pairs.append(pair)
        return pairs

    def _resize(self, fields: list[bytes]) -> int:
        """Applies the changes of size in front; how many there are."""
        count = 0
        for field in fields:
            if field[0] & 0xE0 != 0x20:
                break
            limit, _ = _integer(field, 0, 0x1F)
            # A peer that has acknowledged may change it on the way: only the last one counts.
            if limit > TABLE_BYTES:
                raise HpackError("the table becomes larger than it may be")
            self._table.resize(limit)
            count += 1
        if self._is_acknowledged:
            if not self._table.limit:
                self.is_stateless = True
            elif count or not _is_plain(fields):
                # RFC 9113, section 4.3.1.
                raise HpackError("the table is not emptied after the settings said so")
            # Else the block is one that gRPC's C core writes by hand, past its own encoder, where
            # a call ends before it was answered. Nothing in it has to do with the table, and what
            # the encoder writes will say that there is none: all calls of a connection are worth
            # more than the rule.
        return count
