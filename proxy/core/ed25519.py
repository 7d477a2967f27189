"""Verification of Ed25519 signatures (RFC 8032, section 5.1.7), and nothing else of it.

A policy snapshot is signed by the operator and verified here, by every proxy. It is written out
because the usual library would cost each proxy more memory than the rest of the control side
(decision 11), and it may be because it only ever touches public data: there is no secret whose
bits the time taken could tell. Nothing here can sign.

The equation is the cofactorless one: ``[S]B - [h]A``, encoded, must be the very bytes of ``R``. It
is what OpenSSL checks; it needs no decoding of ``R``, and leaves no second encoding of it. Besides,
as strictly as is sound for signatures that only one program of ours ever makes:

* ``S`` below the order of the base point, or a second valid signature follows from each valid one;
* ``A`` in its one canonical encoding, ``y`` below ``p`` and no negative zero;
* neither ``A`` nor ``R`` of small order: such a key is valid for nearly every message.

Two verifiers may differ over keys with a part of small order ("Taming the many EdDSAs", 2020).
Here nothing depends on that: a key comes over SSH from the operator, and all verifiers are this
one.
"""

import hashlib
from collections.abc import Generator
from typing import Final, TypeAlias

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
"""The order of the base point."""
_D: Final = -121665 * pow(121666, -1, _P) % _P
_2D: Final = 2 * _D % _P
_ROOT_OF_MINUS_1: Final = pow(2, (_P - 1) // 4, _P)
_SIGN: Final = 1 << 255

_WINDOW_BITS: Final = 4
_WINDOWS: Final = 64
"""Of four bits, of scalars below 2^253."""
_WINDOWS_AT_ONCE: Final = 5
"""Some 0.15 ms: less than requests notice."""

_Point: TypeAlias = tuple[int, int, int, int]
"""Extended coordinates (RFC 8032, section 5.1.4): x = X/Z, y = Y/Z, xy = T/Z."""

_NEUTRAL: Final[_Point] = (0, 1, 1, 0)


def is_valid(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """``verifying``, all at once."""
    work = verifying(public_key, message, signature)
    while True:
        try:
            next(work)
        except StopIteration as done:
            verdict: bool = done.value
            return verdict


def verifying(public_key: bytes, message: bytes, signature: bytes) -> Generator[None, None, bool]:
    """Whether ``signature`` over ``message`` is by the holder of ``public_key``; total, for bytes
    of any length. In pieces below 0.3 ms, some 3 ms in all; ``message`` is meant to be short."""
    if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    scalar = int.from_bytes(signature[32:], "little")
    if scalar >= _L:
        return False
    key = _decoded(public_key)
    if key is None or _is_of_small_order(key):
        return False
    yield
    hashed = hashlib.sha512(signature[:32] + public_key + message).digest()
    challenge = int.from_bytes(hashed, "little") % _L
    x, y, z, t = key
    of_key = _multiples((-x % _P, y, z, -t % _P))
    yield
    # Straus: both products in one run of doublings, four bits of each scalar at a time.
    point = _NEUTRAL
    for done, shift in enumerate(range(_WINDOW_BITS * (_WINDOWS - 1), -1, -_WINDOW_BITS), start=1):
        for _ in range(_WINDOW_BITS):
            point = _doubled(point)
        point = _sum(point, _OF_BASE[scalar >> shift & 15])
        point = _sum(point, of_key[challenge >> shift & 15])
        if done % _WINDOWS_AT_ONCE == 0:
            yield
    return _encoded(point) == signature[:32] and not _is_of_small_order(point)


def _decoded(data: bytes) -> _Point | None:
    """None: not the canonical encoding of a point (RFC 8032, section 5.1.3)."""
    number = int.from_bytes(data, "little")
    y = number & (_SIGN - 1)
    if y >= _P:
        return None
    y2 = y * y % _P
    u, v = y2 - 1, (_D * y2 + 1) % _P
    v3 = v * v * v % _P
    x = u * v3 * pow(u * v3 * v3 * v, (_P - 5) // 8, _P) % _P
    vx2 = v * x * x % _P
    if vx2 != u % _P:
        if vx2 != -u % _P:
            return None
        x = x * _ROOT_OF_MINUS_1 % _P
    is_odd = bool(number & _SIGN)
    if x == 0 and is_odd:
        return None
    if x & 1 != is_odd:
        x = _P - x
    return (x, y, 1, x * y % _P)


def _encoded(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _is_of_small_order(point: _Point) -> bool:
    """Whether its order divides the cofactor, 8."""
    x, y, z, _ = _doubled(_doubled(_doubled(point)))
    return x == 0 and y == z


def _sum(one: _Point, other: _Point) -> _Point:
    """Complete on this curve: also for equal, opposite and neutral points."""
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a = (y1 - x1) * (y2 - x2) % _P
    b = (y1 + x1) * (y2 + x2) % _P
    c = t1 * _2D * t2 % _P
    d = 2 * z1 * z2 % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _doubled(point: _Point) -> _Point:
    x, y, z, _ = point
    a, b = x * x, y * y
    h = a + b
    e = h - (x + y) ** 2
    g = a - b
    f = (2 * z * z + g) % _P
    e, g, h = e % _P, g % _P, h % _P
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _multiples(point: _Point) -> tuple[_Point, ...]:
    """0 to 15 times ``point``."""
    found = [_NEUTRAL, point]
    while len(found) < 1 << _WINDOW_BITS:
        found.append(_sum(found[-1], point))
    return tuple(found)


def _base() -> _Point:
    """``y`` is 4/5, ``x`` even."""
    found = _decoded((4 * pow(5, -1, _P) % _P).to_bytes(32, "little"))
    assert found is not None, "a constant of the curve"
    return found


_OF_BASE: Final = _multiples(_base())
