"""The envelope around what the operator signs: one line of text, then the bytes as they are.

    meshctl-policy-1 <key id> <signature in base64>
    <what snapshot.pack made>

so that ``consul kv get meshctl/snapshot | tail -n +2 | zcat`` still shows a policy. Signed is the
SHA-256 of those bytes after a line that says what they are: a snapshot cannot be passed off as an
entry of the history, nor either as anything that the same key may sign one day.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Generator
from enum import StrEnum
from typing import Final, NamedTuple

from proxy.model.codec import Malformed

SIGNATURE_BYTES: Final = 64
KEY_ID_DIGITS: Final = 16

_HEADER: Final = re.compile(rb"meshctl-([a-z]+)-1 ([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)\n")
_PIECE: Final = 64 * 1024
"""Hashed in some 0.15 ms."""


class Kind(StrEnum):
    """What is in the envelope."""

    POLICY = "policy"
    HISTORY = "history"


class Envelope(NamedTuple):
    """Opened, and nothing of it believed yet."""

    key_id: str
    signature: bytes
    content: bytes


def key_id(public_key: bytes) -> str:
    """The name of a key in envelopes and messages: 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:KEY_ID_DIGITS]


def statement(kind: Kind, content: bytes) -> bytes:
    """What the signature is over."""
    return _statement(kind, hashlib.sha256(content).digest())


def stating(kind: Kind, content: bytes) -> Generator[None, None, bytes]:
    """``statement``, in pieces below 0.3 ms."""
    hashed = hashlib.sha256()
    whole = memoryview(content)
    for at in range(0, len(whole), _PIECE):
        hashed.update(whole[at : at + _PIECE])
        yield
    return _statement(kind, hashed.digest())


def seal(kind: Kind, signer: str, signature: bytes, content: bytes) -> bytes:
    """``signer`` is the ``key_id`` of the key that made ``signature``, 64 bytes."""
    if len(signature) != SIGNATURE_BYTES:
        raise ValueError(f"a signature of {len(signature)} bytes")
    header = f"meshctl-{kind}-1 {signer} {base64.b64encode(signature).decode()}\n"
    return header.encode() + content


def open_envelope(kind: Kind, data: bytes) -> Envelope:
    """Raises Malformed: it is not signed, or not of this kind."""
    found = _HEADER.match(data)
    if found is None:
        raise Malformed("it is not signed")
    if found[1] != kind.encode():
        raise Malformed(f"it is signed as {found[1].decode()!r}, not as {kind.value!r}")
    try:
        signature = base64.b64decode(found[3], validate=True)
    except binascii.Error as error:  # pragma: no cover - the expression lets nothing else through
        raise Malformed("its signature is not base64") from error
    return Envelope(key_id=found[2].decode(), signature=signature, content=data[found.end() :])


def _statement(kind: Kind, digest: bytes) -> bytes:
    return b"meshctl %s 1\n" % kind.encode() + digest
