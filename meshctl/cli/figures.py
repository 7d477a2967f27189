"""Figures of traffic as cells of a table; colour says nothing that the word does not."""

from rich.text import Text

from meshctl.telemetry import words
from meshctl.telemetry.plain import plain
from meshctl.telemetry.view import Security, Signals

_NAME_MAX = 200


def name(text: str) -> Text:
    """What a host said: neither markup, nor able to steer the terminal."""
    return Text(plain(text, _NAME_MAX))


def share(signals: Signals | None) -> Text:
    """Success, in percent."""
    if signals is None or signals.success is None:
        return Text(words.NOTHING)
    style = "red" if signals.success < words.FAILING else "yellow" if signals.failures else ""
    return Text(words.success(signals), style=style)


def rate(signals: Signals | None) -> str:
    return words.NOTHING if signals is None else words.number(signals.per_s)


def security(word: Security) -> Text:
    colours = {"mutual_tls": "green", "none": "red", "unknown": "yellow"}
    return Text(words.SECURITY[word], style=colours[word])


def retried(actual_per_s: float, signals: Signals | None) -> Text:
    told = words.retries(actual_per_s, signals)
    return Text(told, style="yellow" if told.startswith("+") else "")


def count(number: int) -> Text:
    """Of what should not happen."""
    return Text(str(number), style="red" if number else "")
