"""Text from the network, made fit for a terminal."""

from typing import Any, Final

_KEPT: Final = " "
MAX_CHARS: Final = 2000


def plain(value: Any, most: int = MAX_CHARS) -> str:
    r"""One line that cannot steer a terminal: control characters, line ends and what reorders text
    become ``\x1b`` and the like; a long text is cut, and says so."""
    text = value if isinstance(value, str) else str(value)
    is_cut = len(text) > most
    text = text[:most]
    if not text.isprintable():
        text = "".join(
            each if each.isprintable() or each in _KEPT else _named(each) for each in text
        )
    return f"{text}..." if is_cut else text


def _named(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
