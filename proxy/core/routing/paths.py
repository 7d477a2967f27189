"""The one form in which paths are compared, and nothing else.

A path that is not in normal form matches exactly what its normal form matches: it can neither
reach a route nor dodge one by its spelling. What is forwarded stays as it came, unless the route
rewrites it.

The normal form, in this order:

1. an escaped printable ASCII character is decoded, once, except ``/ \\ ; ? # %``; other escapes
   get upper-case digits; a ``%`` that begins no escape, and what may not stand in a URI, is
   escaped. An escaped slash is so part of a segment, as in RFC 3986, section 6.2.2, and in the
   applications that put identifiers there; ``@`` and ``%40``, equal to each application, are one.
2. ``\\`` is a slash: browsers and some applications see it so, and it is not legal in a URI.
3. ``;`` and what follows it in a segment is dropped: servlet containers do it before they
   resolve dots, which makes ``/public/..;/admin`` their ``/admin``.
4. empty segments are dropped and ``.`` and ``..`` resolved, never above the root; a last segment
   that goes this way leaves the slash before it.

Letters keep their case. Not everything has one reading: some applications decode an escaped slash,
do not resolve dots, or keep parameters. For the choice of a route that is harmless; who grants
access by path must also refuse, or forward in normal form, a path that is not its own normal form,
and refuse an escaped slash or backslash.
"""

import re
from typing import Final

_ODD = re.compile(rb"[^!-$&-:<-\[\]-~]|/[/.]").search
_TO_ESCAPE = re.compile(rb"%(?:[0-9A-Fa-f]{2})?|[^!-~]")
_ESCAPED = re.compile(rb"%[0-9A-Fa-f]{2}")
_NOT_IN_A_PATH = re.compile(rb"[^!-~]|[?#]")

_STRUCTURE: Final = b"/\\;?#%"
_BYTES: Final = {b"%%%02X" % code: bytes((code,)) for code in range(256)}
_NORMAL: Final = {
    escape: char if b"!" <= char <= b"~" and char not in _STRUCTURE else escape
    for escape, char in _BYTES.items()
}

_PATHS_KEPT = 2048
_TARGET_BYTES = 256
_paths: dict[bytes, bytes] = {}
known_path = _paths.get
"""For the hot path: ``known_path(target) or path_of(target)``."""


def path_of(target: bytes) -> bytes:
    """The normal form of a request target's path. Remembered, as most targets come again."""
    path = normalise_path(target.partition(b"?")[0])
    if len(target) <= _TARGET_BYTES:
        if len(_paths) >= _PATHS_KEPT:
            _paths.clear()
        _paths[target] = path
    return path


def normalise_path(path: bytes) -> bytes:
    """Total and idempotent. What does not begin with a slash (``*``) is its own normal form."""
    if _ODD(path) is None or not path.startswith(b"/"):
        return path
    plain = _TO_ESCAPE.sub(_normal_escape, path).replace(b"\\", b"/")
    kept: list[bytes] = []
    segment = b""
    for raw in plain.split(b"/"):
        segment = raw.partition(b";")[0]
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    if kept and segment in (b"", b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)


def normalise_segment(segment: bytes) -> bytes:
    """Of a template: a literal that stands between two slashes."""
    return normalise_path(b"/" + segment)[1:]


def encode_path(text: str) -> bytes:
    """A path from a policy as it may stand in a request target."""
    return _NOT_IN_A_PATH.sub(_escape, text.encode())


def decode(text: bytes) -> bytes:
    """All escapes, once; what is no escape stays."""
    return _ESCAPED.sub(_unescape, text)


def _normal_escape(found: re.Match[bytes]) -> bytes:
    text = found[0]
    if len(text) == 3:
        return _NORMAL[text.upper()]
    return b"%%%02X" % ord(text)


def _escape(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(found[0])


def _unescape(found: re.Match[bytes]) -> bytes:
    return _BYTES[found[0].upper()]
