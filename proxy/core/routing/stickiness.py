"""What makes two requests belong together, as a number that is the same in every process."""

import hashlib
import math
from random import Random
from typing import Final, Protocol

from proxy.core.routing.conditions import Head, header_value
from proxy.model.routing import HashOn

HASH_BITS: Final = 64
_COOKIE: Final = b"cookie: "


class Hasher(Protocol):
    def __call__(self, head: Head, client: bytes, rng: Random) -> tuple[int, bytes | None]:
        """64 bits, and the ``set-cookie`` line that the answer needs, if any."""


def compile_hash(on: HashOn) -> Hasher:
    if on.cookie:
        return _by_cookie(on.cookie.encode(), on.ttl_s)
    if on.header:
        return _by_header(on.header.lower().encode())
    return _by_source


def hash_value(on: HashOn, head: Head, client: bytes, rng: Random) -> tuple[int, bytes | None]:
    """Once; whoever does it per request keeps what ``compile_hash`` makes."""
    return compile_hash(on)(head, client, rng)


def stable_hash(value: bytes) -> int:
    """Python's own differs from process to process. 0.3 us."""
    return int.from_bytes(hashlib.blake2b(value, digest_size=HASH_BITS // 8).digest())


def _by_source(head: Head, client: bytes, rng: Random) -> tuple[int, bytes | None]:
    return stable_hash(client), None


def _by_header(name: bytes) -> Hasher:
    start = name + b": "

    def by_header(head: Head, client: bytes, rng: Random) -> tuple[int, bytes | None]:
        value = head.authority if name == b"host" else header_value(head.lines, start)
        if value is None:  # nothing belongs together: spread, rather than all on one endpoint
            return rng.getrandbits(HASH_BITS), None
        return stable_hash(value), None

    return by_header


def _by_cookie(name: bytes, ttl_s: float) -> Hasher:
    start = name + b"="
    attributes = b"; Path=/; HttpOnly"
    if ttl_s > 0:
        attributes += b"; Max-Age=%d" % math.ceil(ttl_s)

    def by_cookie(head: Head, client: bytes, rng: Random) -> tuple[int, bytes | None]:
        for line in head.lines:
            if line.startswith(_COOKIE) and start in line:
                for pair in line[len(_COOKIE) :].split(b";"):
                    bare = pair.strip()
                    if bare.startswith(start) and len(bare) > len(start):
                        return stable_hash(bare[len(start) :]), None
        value = b"%016x" % rng.getrandbits(HASH_BITS)
        return stable_hash(value), b"set-cookie: " + start + value + attributes

    return by_cookie
