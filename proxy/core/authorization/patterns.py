"""A request's path as a pattern: what tells one object of many apart becomes ``*``. Pure."""

import re
from typing import Final

from proxy.core.authorization.paths import forwarded_target
from proxy.model.observed import AMBIGUOUS

_ID = re.compile(rb"[0-9]+|[0-9A-Fa-f]{16,}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
MAX_SEGMENTS: Final = 16
"""What is below becomes ``**``."""
MAX_BYTES: Final = 512
"""Of a pattern; a longer one ends in ``**`` too."""


def pattern_of(target: bytes) -> str:
    """As a path template has it, with ``*`` for any one segment and a final ``**`` for the
    rest; ``AMBIGUOUS`` for what no intention that looks at paths would let through."""
    normal = forwarded_target(target)
    if normal is None:
        return AMBIGUOUS
    path = normal.partition(b"?")[0]
    made: list[bytes] = []
    size = 0
    for segment in path[1:].split(b"/"):
        size += len(segment) + 1
        if len(made) == MAX_SEGMENTS or size > MAX_BYTES:
            made.append(b"**")
            break
        made.append(b"*" if _ID.fullmatch(segment) else segment)
    return (b"/" + b"/".join(made)).decode("ascii", "replace") if path != b"*" else "*"
