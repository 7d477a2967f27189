"""Sizes in bytes as operators write them: ``64KiB``, ``512MiB``, ``1.5GiB``."""

import re

RULE = "a number with a unit: 64KiB, 512MiB, 2GiB"

PATTERN = r"[0-9]{1,9}(\.[0-9]{1,3})?(KiB|MiB|GiB)"
"""For editors as well."""

_SIZE = re.compile(PATTERN)
_BYTES = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


class InvalidSize(ValueError):
    """What is wrong with the text, in words for the operator; ``RULE`` says what is right."""


def parse(text: object) -> int:
    """Bytes. Takes what a YAML scalar may hold; raises InvalidSize for anything but ``RULE``.

    Powers of 1000 are refused rather than guessed at: ``512MB`` is meant as 512MiB by most.
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise InvalidSize(f"{text} has no unit")
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        shown = repr(text)
        raise InvalidSize(f"{shown if len(shown) <= 60 else f'{shown[:57]}...'} is not a size")
    unit = match[2]
    return round(float(match[0].removesuffix(unit)) * _BYTES[unit])


def show(size_bytes: int) -> str:
    """The shortest text that ``parse`` reads back as the same number, for whole KiB."""
    for unit in ("GiB", "MiB"):
        if size_bytes and size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit}"
    return f"{size_bytes / 1024:g}KiB"
