"""DER by hand, and X.509 certificates with every field open to abuse.

cryptography refuses to build most of what a hostile certificate is made of, which is to its credit.
Each function returns the bytes of one whole element.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def tlv(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + value


def seq(*parts: bytes) -> bytes:
    return tlv(0x30, *parts)


def integer(number: int) -> bytes:
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, signed=True))


def oid(dotted: str) -> bytes:
    first, second, *rest = (int(each) for each in dotted.split("."))
    out = bytearray([first * 40 + second])
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(0x80 | number & 0x7F)
        out += bytes(reversed(digits))
    return tlv(0x06, bytes(out))


def boolean(octet: int) -> bytes:
    return tlv(0x01, bytes((octet,)))


def octets(value: bytes) -> bytes:
    return tlv(0x04, value)


def bits(value: bytes, unused: int = 0) -> bytes:
    return tlv(0x03, bytes((unused,)), value)


def time(at: datetime) -> bytes:
    """As RFC 5280, section 4.1.2.5 has it: two digits of the year until 2049."""
    if at.year < 2050:
        return tlv(0x17, at.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(0x18, at.strftime("%Y%m%d%H%M%SZ").encode())


def name(common_name: str | bytes) -> bytes:
    text = common_name.encode() if isinstance(common_name, str) else common_name
    return seq(tlv(0x31, seq(oid("2.5.4.3"), tlv(0x0C, text))))


# General names


def uri(text: str | bytes) -> bytes:
    return tlv(0x86, text.encode() if isinstance(text, str) else text)


def dns(text: str | bytes) -> bytes:
    return tlv(0x82, text.encode() if isinstance(text, str) else text)


def email(text: str) -> bytes:
    return tlv(0x81, text.encode())


def ip(address: bytes) -> bytes:
    return tlv(0x87, address)


def other_name(text: str) -> bytes:
    return tlv(0xA0, oid("1.3.6.1.4.1.311.20.2.3"), tlv(0xA0, tlv(0x0C, text.encode())))


# Extensions

SERVER, CLIENT, ANY, CODE = (
    "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "2.5.29.37.0", "1.3.6.1.5.5.7.3.3",
)  # fmt: skip


def extension(kind: str, value: bytes, critical: int | None = None) -> bytes:
    """``critical``: the octet of its BOOLEAN; None: left out."""
    mark = b"" if critical is None else boolean(critical)
    return seq(oid(kind), mark, octets(value))


def constraints(*parts: bytes, critical: int | None = 0xFF) -> bytes:
    return extension("2.5.29.19", seq(*parts), critical)


def key_usage(octet: int, unused: int, critical: int | None = 0xFF) -> bytes:
    return extension("2.5.29.15", bits(bytes((octet,)), unused), critical)


def uses(*oids: str, critical: int | None = None) -> bytes:
    return extension("2.5.29.37", seq(*(oid(each) for each in oids)), critical)


def san(*names: bytes, critical: int | None = 0xFF) -> bytes:
    return extension("2.5.29.17", seq(*names), critical)


NOT_CA = constraints()
CA = constraints(boolean(0xFF))
SIGNS_DATA = key_usage(0x80, 7)
SIGNS_CERTIFICATES = key_usage(0x06, 1)
BOTH = uses(SERVER, CLIENT)

ECDSA_SHA256 = seq(oid("1.2.840.10045.4.3.2"))
ECDSA_SHA1 = seq(oid("1.2.840.10045.4.1"))
ED25519 = seq(oid("1.3.101.112"))
_NULL = tlv(0x05)
RSA_SHA256 = seq(oid("1.2.840.113549.1.1.11"), _NULL)
RSA_SHA1 = seq(oid("1.2.840.113549.1.1.5"), _NULL)
RSA_MD5 = seq(oid("1.2.840.113549.1.1.4"), _NULL)

_MD5_PREFIX = bytes.fromhex("3020300c06082a864886f70d020505000410")  # RFC 8017, section 9.2


def sign(key: Any, algorithm: bytes, data: bytes) -> bytes:
    if algorithm == ECDSA_SHA256:
        return bytes(key.sign(data, ec.ECDSA(hashes.SHA256())))
    if algorithm == ECDSA_SHA1:
        digest = hashlib.sha1(data).digest()
        return bytes(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA1()))))
    if algorithm == ED25519:
        return bytes(key.sign(data))
    if algorithm == RSA_MD5:
        # No library of today makes one any more: the textbook does.
        numbers = key.private_numbers()
        modulus = numbers.public_numbers.n
        size = (modulus.bit_length() + 7) // 8
        info = _MD5_PREFIX + hashlib.md5(data).digest()
        block = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
        return pow(int.from_bytes(block), numbers.d, modulus).to_bytes(size)
    digest_type = hashes.SHA1() if algorithm == RSA_SHA1 else hashes.SHA256()
    return bytes(key.sign(data, padding.PKCS1v15(), digest_type))


def algorithm_of(key: Any) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return RSA_SHA256
    return ED25519 if isinstance(key, ed25519.Ed25519PrivateKey) else ECDSA_SHA256


def public(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    subject: bytes
    key: Any
    der: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A certificate before it is signed; ``replace`` what is to be wrong with it."""

    key: Any
    subject: bytes = field(default_factory=seq)
    starts_in: timedelta = timedelta(minutes=-1)
    ends_in: timedelta = timedelta(hours=1)
    extensions: Sequence[bytes] | None = ()
    """None: the field itself is missing."""
    version: bytes = tlv(0xA0, integer(2))
    serial: bytes = integer(4711)
    algorithm: bytes = b""
    """Empty: what fits the issuer's key."""
    outer_algorithm: bytes = b""
    """Outside of the signed part; empty: the same."""
    tail: bytes = b""
    """Behind the certificate's end."""
    flip: bool = False
    """One bit of the signature."""

    def signed(self, issuer: Issuer) -> bytes:
        algorithm = self.algorithm or algorithm_of(issuer.key)
        now = datetime.now(UTC)
        fields = [
            self.version,
            self.serial,
            algorithm,
            issuer.subject,
            seq(time(now + self.starts_in), time(now + self.ends_in)),
            self.subject,
            public(self.key),
        ]
        if self.extensions is not None:
            fields.append(tlv(0xA3, seq(*self.extensions)))
        body = seq(*fields)
        signature = bytearray(sign(issuer.key, algorithm, body))
        if self.flip:
            signature[-1] ^= 1
        return seq(body, self.outer_algorithm or algorithm, bits(bytes(signature))) + self.tail

    def but(self, **changes: Any) -> "Draft":
        return replace(self, **changes)
