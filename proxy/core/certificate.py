"""What a certificate says, read from its DER by the book: X.690 and RFC 5280, nothing lenient.

OpenSSL has verified chain, time and signature before. What is read here decides who somebody is,
and is therefore read by position: a name or a usage that stands anywhere else in the certificate
says nothing. Encodings that two readers could take differently are refused, above all BER that
is not DER (X.690, section 10), and an extension that occurs twice.
"""

from typing import Final, NamedTuple

_SEQUENCE: Final = 0x30
_BOOLEAN: Final = 0x01
_INTEGER: Final = 0x02
_BIT_STRING: Final = 0x03
_OCTET_STRING: Final = 0x04
_OID: Final = 0x06
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_ISSUER_ID: Final = 0x81
_SUBJECT_ID: Final = 0x82
_URI: Final = 0x86
"""GeneralName's uniformResourceIdentifier."""

_TRUE: Final = b"\xff"
_V3: Final = b"\x02"

_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_KEY_USAGE: Final = bytes.fromhex("551d0f")
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_SUBJECT_ALT_NAME: Final = bytes.fromhex("551d11")

SERVER_AUTH: Final = bytes.fromhex("2b06010505070301")
CLIENT_AUTH: Final = bytes.fromhex("2b06010505070302")
P256: Final = bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107")
"""AlgorithmIdentifier of an EC key on P-256, without its outer tag: OIDs of kind and curve."""

DIGITAL_SIGNATURE: Final = 0x80
KEY_CERT_SIGN: Final = 0x04
CRL_SIGN: Final = 0x02
"""Bits of the first octet of KeyUsage."""


class NotStrict(ValueError):
    """The certificate is not DER of the shape that RFC 5280 gives; the text says where."""


class Certificate(NamedTuple):
    is_ca: bool
    key_algorithm: bytes
    """Contents of the AlgorithmIdentifier; compare with P256."""
    key_usage: int | None
    """First octet; None: the extension is missing."""
    uses: frozenset[bytes]
    """OIDs of the extended key usage; empty: the extension is missing."""
    names: tuple[tuple[int, bytes], ...]
    """Of the subject alternative name: context tag and contents, of every kind."""

    @property
    def uris(self) -> tuple[bytes, ...]:
        return tuple(value for tag, value in self.names if tag == _URI)


class _Reader:
    """The elements of one constructed value, in order."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._end = data, 0, len(data)

    @property
    def is_done(self) -> bool:
        return self._at == self._end

    def peek(self) -> int:
        """The next element's tag; -1 at the end."""
        return self._data[self._at] if self._at < self._end else -1

    def any(self, what: str) -> tuple[int, bytes]:
        data, at = self._data, self._at
        if at + 2 > self._end:
            raise NotStrict(f"{what} is missing or cut off")
        tag, size = data[at], data[at + 1]
        at += 2
        if tag & 0x1F == 0x1F:
            raise NotStrict(f"{what} has a tag of several octets")
        if size >= 0x80:
            # X.690, section 10.1: definite, and in as few octets as possible.
            octets = size & 0x7F
            if octets not in (1, 2, 3) or at + octets > self._end:
                raise NotStrict(f"{what} has a length that is not DER")
            size = int.from_bytes(data[at : at + octets])
            if size < 0x80 or size >> (8 * (octets - 1)) == 0:
                raise NotStrict(f"{what} has a length that is not DER")
            at += octets
        end = at + size
        if end > self._end:
            raise NotStrict(f"{what} is longer than what it stands in")
        self._at = end
        return tag, data[at:end]

    def one(self, tag: int, what: str) -> bytes:
        found, value = self.any(what)
        if found != tag:
            raise NotStrict(f"{what} is not what stands there")
        return value

    def end(self, what: str) -> None:
        if self._at != self._end:
            raise NotStrict(f"{what} has something behind its end")


def read(der: bytes) -> Certificate:
    """Raises NotStrict."""
    outer = _Reader(der)
    whole = _Reader(outer.one(_SEQUENCE, "the certificate"))
    outer.end("the certificate")
    signed = _Reader(whole.one(_SEQUENCE, "the signed part"))
    algorithm = whole.one(_SEQUENCE, "the signature's algorithm")
    whole.one(_BIT_STRING, "the signature")
    whole.end("the certificate")

    version = _Reader(signed.one(_VERSION, "the version"))
    if version.one(_INTEGER, "the version") != _V3:
        raise NotStrict("the certificate is not of version 3")
    version.end("the version")
    signed.one(_INTEGER, "the serial number")
    if signed.one(_SEQUENCE, "the signature's algorithm") != algorithm:
        raise NotStrict("the certificate names two algorithms of its signature")
    signed.one(_SEQUENCE, "the issuer")
    signed.one(_SEQUENCE, "the validity")
    signed.one(_SEQUENCE, "the subject")
    key = _Reader(signed.one(_SEQUENCE, "the public key"))
    key_algorithm = key.one(_SEQUENCE, "the public key's algorithm")
    for tag in (_ISSUER_ID, _SUBJECT_ID):
        if signed.peek() == tag:
            signed.any("a unique identifier")
    found: dict[bytes, bytes] = {}
    if not signed.is_done:
        found = _extensions(signed.one(_EXTENSIONS, "the list of extensions"))
    signed.end("the signed part")
    return Certificate(
        is_ca=_is_ca(found.get(_BASIC_CONSTRAINTS)),
        key_algorithm=key_algorithm,
        key_usage=_key_usage(found.get(_KEY_USAGE)),
        uses=_uses(found.get(_EXTENDED_KEY_USAGE)),
        names=_names(found.get(_SUBJECT_ALT_NAME)),
    )


def _extensions(value: bytes) -> dict[bytes, bytes]:
    wrapper = _Reader(value)
    each = _Reader(wrapper.one(_SEQUENCE, "the list of extensions"))
    wrapper.end("the list of extensions")
    found: dict[bytes, bytes] = {}
    while not each.is_done:
        extension = _Reader(each.one(_SEQUENCE, "an extension"))
        oid = extension.one(_OID, "an extension's kind")
        if extension.peek() == _BOOLEAN and extension.any("a mark")[1] != _TRUE:
            raise NotStrict("an extension's mark as critical is not DER")
        if oid in found:
            raise NotStrict("an extension occurs twice")  # RFC 5280, section 4.2
        found[oid] = extension.one(_OCTET_STRING, "an extension's value")
        extension.end("an extension")
    return found


def _is_ca(value: bytes | None) -> bool:
    if value is None:
        return False
    outer = _Reader(value)
    inner = _Reader(outer.one(_SEQUENCE, "the basic constraints"))
    outer.end("the basic constraints")
    is_ca = False
    if inner.peek() == _BOOLEAN:
        # FALSE is the default and so not written in DER, but so harmless that OpenSSL's own tools
        # have written it; anything but it is a CA.
        is_ca = inner.any("the mark of a CA")[1] != b"\x00"
    if inner.peek() == _INTEGER:
        inner.any("the path length")
        is_ca = True  # RFC 5280, section 4.2.1.9: only with a CA
    inner.end("the basic constraints")
    return is_ca


def _key_usage(value: bytes | None) -> int | None:
    if value is None:
        return None
    outer = _Reader(value)
    bits = outer.one(_BIT_STRING, "the key usage")
    outer.end("the key usage")
    if not 2 <= len(bits) <= 3 or bits[0] > 7:
        raise NotStrict("the key usage is not DER")
    return bits[1]


def _uses(value: bytes | None) -> frozenset[bytes]:
    if value is None:
        return frozenset()
    outer = _Reader(value)
    each = _Reader(outer.one(_SEQUENCE, "the extended key usage"))
    outer.end("the extended key usage")
    found = set()
    while not each.is_done:
        found.add(each.one(_OID, "an extended key usage"))
    return frozenset(found)


def _names(value: bytes | None) -> tuple[tuple[int, bytes], ...]:
    if value is None:
        return ()
    outer = _Reader(value)
    each = _Reader(outer.one(_SEQUENCE, "the alternative name"))
    outer.end("the alternative name")
    found = []
    while not each.is_done:
        found.append(each.any("an alternative name"))
    return tuple(found)
