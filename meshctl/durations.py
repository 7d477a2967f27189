"""Durations as operators write them: ``250ms``, ``15s``, ``5m``, ``1h``, ``0``."""

import re

MAX_S = 24 * 3600.0
"""Longer than a day is a unit mixed up, not a timeout."""

RULE = "a number with a unit: 250ms, 15s, 5m, 1h; or 0"

_DURATION = re.compile(r"(-?)([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class InvalidDuration(ValueError):
    """What is wrong with the text, in words for the operator; ``RULE`` says what is right."""


def parse(text: object) -> float:
    """Seconds, from 0 to ``MAX_S``. Takes what a YAML scalar may hold: text or the number 0.

    Raises InvalidDuration for a number without a unit, a negative or an absurd one, other text.
    """
    if text in ("0", 0) and not isinstance(text, bool):
        return 0.0
    if isinstance(text, int | float) and not isinstance(text, bool):
        raise InvalidDuration(f"{text} has no unit")
    if not isinstance(text, str):
        raise InvalidDuration(f"{_shown(text)} is not a duration")
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidDuration(f"{_shown(text)} is not a duration")
    sign, number, unit = match.groups()
    seconds = float(number) * _SECONDS[unit]
    if sign and seconds:
        raise InvalidDuration(f"{text!r} is negative")
    if seconds > MAX_S:
        raise InvalidDuration(f"{text!r} is longer than 24h")
    return seconds


def show(seconds: float) -> str:
    """The shortest text that ``parse`` reads back as the same number of seconds."""
    if seconds == 0:
        return "0"
    for unit in ("h", "m", "s"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    milliseconds = round(seconds * 1000, 6)
    return f"{milliseconds:.15g}ms"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
