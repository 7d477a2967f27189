"""Which log lines are wanted: a small language over their fields. Pure.

    status >= 500 and (caller = web or caller = shop)
    total_ms > 1.5s and not path = /health*
    reason ~ "timed? out"

A value stands bare or in quotes. ``=`` and ``!=`` take a bare value with ``*`` in it as a pattern
(``5xx`` too, for a status), ``~`` and ``!~`` take a regular expression of RE2 that is to be found
anywhere in the text. The order of two values is asked of numbers, and of durations where the
field's name ends in ``_ms`` or ``_s``. What a line does not have equals nothing.
"""

import fnmatch
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from meshctl.durations import InvalidDuration
from meshctl.durations import parse as parse_duration
from meshctl.errors import InvalidInput
from proxy.core.routing.regex import InvalidRegex, compile_regex
from proxy.model.violation import Violation

MAX_CHARS: Final = 2000
MAX_DEPTH: Final = 50
"""Of parentheses and ``not``."""
MAX_REGEXES: Final = 20

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<op>!=|<=|>=|!~|==|=|<|>|~)
    | (?P<paren>[()])
    | (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<bare>[^\s()"'=<>!~]+)
    )""",
    re.X,
)
# After an operator a bare value may hold what is an operator elsewhere: ^/a(b|c)=d is quoted.
_VALUE = re.compile(r"\s*(?:(?P<quoted>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')|(?P<bare>[^\s()]+))")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")
_CLASS = re.compile(r"[1-5]xx", re.I)
_WORDS = frozenset(("and", "or", "not"))

Line = Mapping[str, Any]
Test = Callable[[Line], bool]


@dataclass(frozen=True, slots=True)
class Where:
    text: str
    fields: frozenset[str]
    """That it asks for."""
    _test: Test

    def __call__(self, line: Line) -> bool:
        return self._test(line)


class _Wrong(Exception):
    def __init__(self, at: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.at, self.hint = at, hint


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int
    """Where it begins."""


def parse(text: str) -> Where:
    """Raises InvalidInput, which points at the place."""
    reader = _Reader(text)
    try:
        if len(text) > MAX_CHARS:
            raise _Wrong(MAX_CHARS, f"it has more than {MAX_CHARS} characters")
        test = reader.whole()
    except _Wrong as error:
        message = f"{error}, at character {error.at + 1}: {_pointed(text, error.at)}"
        hint = error.hint or "for example: 'status >= 500 and caller = web'"
        violation = Violation(path="--where", message=message, hint=hint)
        raise InvalidInput("the command line", [violation]) from None
    return Where(text, frozenset(reader.fields), test)


def _pointed(text: str, at: int) -> str:
    before, after = text[max(0, at - 20) : at], text[at : at + 20]
    return ascii(f"{before}[here]{after}")[1:-1]


class _Reader:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._depth = self._regexes = 0
        self.fields: set[str] = set()

    def whole(self) -> Test:
        test = self._either()
        if (token := self._peek()) is not None:
            if token.text == ")":
                raise _Wrong(token.at, "nothing is open that this could close")
            raise _Wrong(token.at, "`and` or `or` is missing here")
        return test

    def _either(self) -> Test:
        tests = [self._both()]
        while self._take_word("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else partial(_any, tuple(tests))

    def _both(self) -> Test:
        tests = [self._one()]
        while self._take_word("and"):
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else partial(_all, tuple(tests))

    def _one(self) -> Test:
        token = self._peek()
        if token is None:
            raise _Wrong(len(self._text), "a comparison is missing")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Wrong(token.at, f"more than {MAX_DEPTH} deep")
        try:
            if self._take_word("not"):
                return partial(_not, self._one())
            if token.kind == "paren" and token.text == "(":
                self._next()
                test = self._either()
                closing = self._peek()
                if closing is None or closing.text != ")" or closing.kind != "paren":
                    at = closing.at if closing else len(self._text)
                    raise _Wrong(at, f"the ( at character {token.at + 1} is not closed")
                self._next()
                return test
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Test:
        name = self._next()
        if name.kind != "bare" or name.text.lower() in _WORDS or not _FIELD.fullmatch(name.text):
            raise _Wrong(name.at, "the name of a field is missing")
        operator = self._peek()
        if operator is None or operator.kind != "op":
            at = operator.at if operator else len(self._text)
            raise _Wrong(at, f"{name.text} is compared with nothing", "use = != < <= > >= ~ !~")
        self._next()
        value = self._value(operator)
        self.fields.add(name.text)
        match operator.text:
            case "=" | "==":
                return partial(_holds, name.text, _equal(name.text, value))
            case "!=":
                return partial(_not, partial(_holds, name.text, _equal(name.text, value)))
            case "~":
                return partial(_holds, name.text, self._found(value))
            case "!~":
                return partial(_not, partial(_holds, name.text, self._found(value)))
            case _:
                return partial(_holds, name.text, _ordered(name.text, operator.text, value))

    def _found(self, value: _Token) -> Callable[[Any], bool]:
        self._regexes += 1
        if self._regexes > MAX_REGEXES:
            raise _Wrong(value.at, f"more than {MAX_REGEXES} regular expressions")
        try:
            match = compile_regex(f".*(?:{value.text}).*")
        except InvalidRegex as error:
            raise _Wrong(value.at, str(error)) from None
        return lambda found: bool(match(_text(found).encode("utf-8", "replace")))

    # Tokens

    def _peek(self) -> _Token | None:
        at = self._at
        try:
            return self._read()
        finally:
            self._at = at

    def _next(self) -> _Token:
        token = self._read()
        if token is None:
            raise _Wrong(len(self._text), "it ends too early")
        return token

    def _take_word(self, word: str) -> bool:
        token = self._peek()
        if token is None or token.kind != "bare" or token.text.lower() != word:
            return False
        self._next()
        return True

    def _read(self) -> _Token | None:
        if not self._text[self._at :].strip():
            return None
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._unreadable()
        return self._made(match)

    def _value(self, operator: _Token) -> _Token:
        match = _VALUE.match(self._text, self._at)
        if match is None or (
            match["bare"] is not None
            and (match["bare"][0] in "\"'=<>~" or match["bare"].lower() in _WORDS)
        ):
            if match is not None and match["bare"][0] in "\"'":
                raise self._unreadable()
            at = match.start("bare") if match is not None else len(self._text)
            raise _Wrong(at, f"a value is missing after {operator.text}")
        return self._made(match)

    def _made(self, match: "re.Match[str]") -> _Token:
        kind = match.lastgroup
        assert kind is not None
        text, at = match[kind], match.start(kind)
        self._at = match.end()
        if kind == "quoted":
            text = re.sub(r"\\([\"'\\])", r"\1", text[1:-1])
        return _Token(kind, text, at)

    def _unreadable(self) -> _Wrong:
        rest = self._text[self._at :]
        at = self._at + len(rest) - len(rest.lstrip())
        if self._text[at] in "\"'":
            return _Wrong(at, "the quote is not closed")
        return _Wrong(at, "this is not understood")


def _any(tests: tuple[Test, ...], line: Line) -> bool:
    return any(test(line) for test in tests)


def _all(tests: tuple[Test, ...], line: Line) -> bool:
    return all(test(line) for test in tests)


def _not(test: Test, line: Line) -> bool:
    return not test(line)


def _holds(name: str, is_so: Callable[[Any], bool], line: Line) -> bool:
    found: Any = line.get(name)
    if found is None and "." in name:
        found = line
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    return found is not None and is_so(found)


def _text(found: Any) -> str:
    if isinstance(found, bool):
        return "true" if found else "false"
    return found if isinstance(found, str) else str(found)


def _equal(name: str, value: _Token) -> Callable[[Any], bool]:
    wanted = value.text
    if value.kind == "bare":
        if name == "status" and _CLASS.fullmatch(wanted):
            return lambda found: _number(found) // 100 == int(wanted[0])
        if "*" in wanted:
            # Only the star: brackets and question marks stand in many paths.
            pattern = re.compile(fnmatch.translate(re.sub(r"[][?]", r"[\g<0>]", wanted)))
            return lambda found: pattern.match(_text(found)) is not None
        try:
            number = _amount(name, wanted)
        except InvalidDuration:
            return lambda found: _text(found) == wanted
        return lambda found: _text(found) == wanted or _number(found) == number
    return lambda found: _text(found) == wanted


def _ordered(name: str, operator: str, value: _Token) -> Callable[[Any], bool]:
    try:
        limit = _amount(name, value.text)
    except InvalidDuration:
        raise _Wrong(
            value.at,
            f"{operator} needs a number",
            "12, 0.5; with a unit where the field is a time: total_ms > 1.5s",
        ) from None
    match operator:
        case "<":
            return lambda found: _number(found) < limit
        case "<=":
            return lambda found: _number(found) <= limit
        case ">":
            return lambda found: _number(found) > limit
        case _:
            return lambda found: _number(found) >= limit


def _amount(name: str, text: str) -> float:
    """In the unit of the field; raises InvalidDuration."""
    try:
        number = float(text)
    except ValueError:
        if not name.endswith(("_ms", "_s")):
            raise InvalidDuration(text) from None
        return parse_duration(text) * (1000 if name.endswith("_ms") else 1)
    if math.isnan(number):
        raise InvalidDuration(text)
    return number


def _number(found: Any) -> float:
    """Not a number, which is in no order with any, for what is none."""
    if isinstance(found, int | float) and not isinstance(found, bool):
        return float(found) if abs(found) < 1e300 else float("nan")
    if isinstance(found, str):
        try:
            return float(found)
        except ValueError:
            pass
    return float("nan")
