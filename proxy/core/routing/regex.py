"""Regular expressions from a policy, in time linear in the text: RE2, loaded when first needed.

Python's ``re`` backtracks, so that a caller who knows an unlucky pattern could hold up every
request of a proxy. Refused (InvalidRegex): what RE2 refuses, and what is too large for it to be
fast. See docs/decisions/0006.
"""

from collections.abc import Callable
from typing import Any, Final

MAX_PATTERN_CHARS: Final = 1024
MAX_PROGRAM: Final = 1000
"""Of RE2's instructions, ten times what Envoy allows by default."""


class InvalidRegex(ValueError):
    """The operator's fault; the message says what is wrong with the pattern."""


def any_case(pattern: str) -> str:
    """The same in any case of its letters. It may be larger than the pattern was."""
    return f"(?i){pattern}"


def compile_regex(pattern: str) -> Callable[[bytes], Any]:
    """A function that is true of what the pattern matches as a whole. Raises InvalidRegex.

    Bytes are matched one by one, so that no byte sequence escapes a ``.``.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidRegex(f"a regular expression has at most {MAX_PATTERN_CHARS} characters")
    if not pattern.isascii():
        raise InvalidRegex("a regular expression is ASCII: write other bytes as \\xHH")
    import re2  # noqa: PLC0415 - 2.5 MB that most policies do not need

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.dot_nl = True
    options.log_errors = False
    try:
        compiled = re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not understood"
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidRegex(f"not a regular expression of RE2: {text}") from error
    if compiled.programsize > MAX_PROGRAM:
        raise InvalidRegex(
            f"the regular expression takes {compiled.programsize} steps; {MAX_PROGRAM} are allowed"
        )
    fullmatch: Callable[[bytes], Any] = compiled.fullmatch
    return fullmatch
