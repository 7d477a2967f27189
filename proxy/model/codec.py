"""The one wire codec: typed structs to canonical JSON and back, strict in both directions.

msgspec was chosen because it decodes straight into validated, frozen structs, refuses unknown
fields, and costs 2 MB of resident memory; pydantic would cost ten times that.
"""

import hashlib
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Malformed(ValueError):
    """Bytes that are not a valid encoding of the expected type; the message has the path."""


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that crosses the wire: immutable, strict, all fields by name."""


def decode(data: bytes | bytearray, into: type[T]) -> T:
    """Raises Malformed, whose text names the JSON path of the first fault."""
    try:
        return msgspec.json.decode(data, type=into)
    except msgspec.MsgspecError as error:
        raise Malformed(str(error)) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error


def encode(value: object) -> bytes:
    """Canonical: equal values give equal bytes, whatever order their mappings were built in."""
    return msgspec.json.encode(value, order="deterministic")


def encode_readable(value: object) -> bytes:
    """Canonical too, but indented: for files that people open."""
    return msgspec.json.format(encode(value), indent=2) + b"\n"


def digest(data: bytes) -> str:
    """The content address used for releases, configurations and snapshots: 16 hex digits."""
    return digest_of(hashlib.sha256(data))


def digest_of(hashed: "hashlib._Hash") -> str:
    """The same of what was hashed in pieces, by SHA-256."""
    return hashed.hexdigest()[:16]
