"""The one path that both policy and application see.

Whoever grants access by path must not let the application read another path than policy read.
What has one reading only is forwarded in normal form, so that dots, doubled slashes and needless
escapes are gone before the application sees them. What has several readings is refused:

* ``\\`` and ``%5C``, ``%2F``: a slash to some applications, a part of a name to others;
* ``;`` and ``%3B``: the end of a segment to servlet containers;
* ``%25`` before two hex digits: an escape to those who decode twice;
* ``%3F``: the end of the path to some rewriting rules (CVE-2024-38474);
* escaped control characters, and bytes that are not UTF-8, overlong forms among them;
* what does not begin with a slash, but for ``*`` of OPTIONS.
"""

import re

from proxy.core.routing.paths import decode, normalise_path

_TWO_READINGS = re.compile(
    rb"[\\;#]|%(?:2[fF]|5[cC]|3[bBfF]|25[0-9A-Fa-f]{2}|[01][0-9A-Fa-f]|7[fF])"
)
_HALF_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def forwarded_target(target: bytes) -> bytes | None:
    """The target with its path in normal form; None: it is ambiguous, and must be refused."""
    path, mark, query = target.partition(b"?")
    if not path.startswith(b"/"):
        return target if target == b"*" else None
    if _TWO_READINGS.search(path) or _HALF_ESCAPE.search(path):
        return None
    normal = normalise_path(path)
    try:
        decode(normal).decode("utf-8")
    except UnicodeDecodeError:
        return None
    # Normalising decodes: what came out of it is looked at once more.
    if _TWO_READINGS.search(normal):
        return None
    return target if normal == path else normal + mark + query
