"""What HPACK makes of one field (RFC 7541): the static table, integers, and our literals.

What we send are entries of the static table and literals without indexing (section 6.2.2): none
of our blocks has state, whatever table the peer would keep for us.
"""

from typing import Final

Pair = tuple[bytes, bytes]

STATIC: Final[tuple[Pair, ...]] = tuple(
    (name, value)
    for name, *values in (
        (b"", b""),
        (b":authority", b""),
        (b":method", b"GET", b"POST"),
        (b":path", b"/", b"/index.html"),
        (b":scheme", b"http", b"https"),
        (b":status", b"200", b"204", b"206", b"304", b"400", b"404", b"500"),
        (b"accept-charset", b""),
        (b"accept-encoding", b"gzip, deflate"),
        *(
            (name, b"")
            for name in (
                b"accept-language accept-ranges accept access-control-allow-origin age allow "
                b"authorization cache-control content-disposition content-encoding "
                b"content-language content-length content-location content-range content-type "
                b"cookie date etag expect expires from host if-match if-modified-since "
                b"if-none-match if-range if-unmodified-since last-modified link location "
                b"max-forwards proxy-authenticate proxy-authorization range referer refresh "
                b"retry-after server set-cookie strict-transport-security transfer-encoding "
                b"user-agent vary via www-authenticate"
            ).split()
        ),
    )
    for value in values
)
"""RFC 7541, appendix A; the first is at index 1."""
_STATIC_FIELDS: Final = len(STATIC)

_INDEX_OF: dict[bytes, int] = {}
for _index in range(_STATIC_FIELDS - 1, 0, -1):
    _INDEX_OF[STATIC[_index][0]] = _index


_SECRET: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))
"""Never indexed (section 6.2.3), by whoever passes it on either, and never remembered."""


def pack_integer(number: int, most: int, flags: int) -> bytes:
    """An integer (section 5.1), beside the bits ``flags``."""
    if number < most:
        return bytes((flags | number,))
    packed = bytearray((flags | most,))
    number -= most
    while number >= 0x80:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def _pack_name(name: bytes) -> bytes:
    flags = 0x10 if name in _SECRET else 0
    index = _INDEX_OF.get(name, 0)
    packed = pack_integer(index, 0x0F, flags)
    return packed if index else packed + pack_integer(len(name), 0x7F, 0) + name


_NAMES_KEPT: Final = 1024
_NAME_BYTES: Final = 64
_names: dict[bytes, bytes] = {}
_LENGTHS: Final = tuple(pack_integer(length, 0x7F, 0) for length in range(512))


def encode_field(name: bytes, value: bytes) -> bytes:
    """One field, by itself."""
    prefix = _names.get(name)
    if prefix is None:
        prefix = _pack_name(name)
        if len(name) <= _NAME_BYTES:
            if len(_names) >= _NAMES_KEPT:
                _names.clear()
            _names[name] = prefix
    length = len(value)
    return prefix + (_LENGTHS[length] if length < 512 else pack_integer(length, 0x7F, 0)) + value


def encode_static(index: int) -> bytes:
    """A whole field of the static table."""
    assert 0 < index < _STATIC_FIELDS
    return bytes((0x80 | index,))
