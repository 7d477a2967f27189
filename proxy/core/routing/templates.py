"""Paths from a policy, taken apart: what a segment of a template stands for."""

import re
from typing import Final

from proxy.core.routing.paths import encode_path, normalise_path, normalise_segment
from proxy.model.routing import PathMatch

ANY: Final = None
"""In place of a segment: any one that is not empty."""

Segments = tuple[bytes | None, ...]

_VARIABLE = re.compile(r"\{([^{}/]*)\}")


def template_segments(template: str) -> tuple[Segments, bool]:
    """What each segment must be, and whether anything may follow (a final ``**``)."""
    raw = _pieces(template)
    is_open = raw[-1:] == ["**"]
    if is_open:
        raw.pop()
    return tuple(ANY if _is_any(one) else _literal(one) for one in raw), is_open


def prefix_segments(prefix: str) -> Segments:
    """A final slash says nothing: ``/v1/`` is ``/v1``, as in the Kubernetes Gateway API."""
    path = literal_path(prefix).rstrip(b"/")
    return tuple(path.split(b"/")[1:])


def literal_path(text: str) -> bytes:
    """In the form that requests' paths are compared in."""
    return normalise_path(text.encode())


def rewrite_parts(text: str, match: PathMatch | None) -> tuple[bytes | int, ...]:
    """Literal pieces and the positions (in a path split at its slashes) of what is filled in."""
    places: dict[str, int] = {}
    if match is not None and match.template is not None:
        for place, segment in enumerate(_pieces(match.template), start=1):
            if variable := _VARIABLE.fullmatch(segment):
                places[variable[1]] = place
    parts: list[bytes | int] = []
    end = 0
    for found in _VARIABLE.finditer(text):
        if found[1] in places:
            parts += (encode_path(text[end : found.start()]), places[found[1]])
            end = found.end()
    parts.append(encode_path(text[end:]))
    return tuple(part for part in parts if part != b"")


def _pieces(template: str) -> list[str]:
    """Without empty ones, as no path in normal form has any but the last."""
    raw = template.split("/")[1:]
    return [one for one in raw[:-1] if one] + raw[-1:]


def _is_any(segment: str) -> bool:
    return segment == "*" or _VARIABLE.fullmatch(segment) is not None


def _literal(segment: str) -> bytes:
    return normalise_segment(segment.encode())
