"""Takes secrets out of bytes, whatever they are part of: JSON, YAML, log lines, plain text. Pure.

The second line of defence: what is collected is a list on which no secret stands. So it errs on
the side of taking out too much; each removal leaves a mark, and is counted.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_from_bytes

from proxy.model.codec import Malformed, decode, encode

MARK: Final = b"[removed]"
MIN_KNOWN_BYTES: Final = 6
"""A shorter value would be found everywhere."""

# A quote may be escaped, once or more, where text stands within JSON. Whatever repeats is bounded
# or cannot match in two ways: the text may be chosen to make this slow.
_QUOTE = rb"""(?:\\*["'])"""
_NAMES = (
    rb"pass(?:word|wd|phrase)?|pwd|secret(?:[_-]?(?:key|id))?|(?:x-[a-z]{1,20}-)?token|"
    rb"(?:api|private|access|gossip|encrypt(?:ion)?)[_-]?key|gossip|encrypt|credentials?"
)
_VALUE = (
    rb"(\"(?:[^\"\\\r\n]|\\.)*\"|\\+\"(?:[^\"\\\r\n]|\\+[^\"\\\r\n])*\\+\"|'[^'\r\n]*'|"
    rb"\\*[\"'][^\r\n]*|[^\s,;&\"'{}\[\]]+)"
)
_PEM = re.compile(
    rb"-----BEGIN [A-Z0-9 ]{0,40}?(?:PRIVATE KEY|SECRET)[A-Z0-9 ]{0,40}-----"
    rb".*?(?:-----END [A-Z0-9 ]{0,80}-----|\Z)",
    re.S,
)
_HEADER = re.compile(
    rb"(?i)((?:proxy-)?authorization|(?:set-)?cookie)(" + _QUOTE + rb"?[ \t]*[:=,][ \t]*)("
    rb"\"(?:[^\"\\\r\n]|\\.)*\"|[^\r\n\"'\\}\]]+)"
)
_SCHEME = re.compile(rb"(?i)\b(bearer|basic)([ \t]{1,8})([A-Za-z0-9._~+/=-]{8,})")
_JWT = re.compile(
    rb"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{4,8000}\.[A-Za-z0-9_-]*"
)
_URL = re.compile(
    rb"([A-Za-z][A-Za-z0-9+.-]{1,20}:(?:\\?/){2}[^\s/@:\"'\\]{0,100}:)([^\s/@\"']{1,500})(@)"
)
_NAMED = re.compile(rb"(?i)(" + _NAMES + rb")(" + _QUOTE + rb"?[ \t]*(?:[:=]|=>)[ \t]*)" + _VALUE)
_YAML_NAME = rb"(?:- +)?[a-z0-9_.-]{0,60}?(?:" + _NAMES + rb")"
_YAML = re.compile(
    rb"(?mi)^([ \t]*" + _YAML_NAME + rb")(:[ \t]+)([^\s\"'\[{|>&*][^\r\n]*)$",
)
_BLOCK = re.compile(
    rb"(?mi)^(([ \t]*)" + _YAML_NAME + rb":[ \t]+[|>][^\r\n]*\n)((?:\2[ \t]+[^\n]*(?:\n|\Z))+)"
)
_KEY = re.compile(
    rf"(?i)[a-z0-9_.-]{{0,60}}?(?:{_NAMES.decode()}|authorization|(?:set-)?cookie)",
)
_ARGUMENT = re.compile(rb"(?i)(--?(?:" + _NAMES + rb"))([ \t]+)([^\s\"'-][^\s\"']*)")
_SHAPES = re.compile(
    rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}"
    rb"|\bglpat-[A-Za-z0-9_-]{16,}|\bhv[sbr]\.[A-Za-z0-9_-]{16,}|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    rb"|\bAGE-SECRET-KEY-[A-Z0-9]{10,}|\bsk-[A-Za-z0-9_-]{20,}"
)
_PLAIN_VALUES = frozenset(
    (b"null", b"true", b"false", b"none", b"~", b'""', b"''", b"-", b"|", b">")
)


@dataclass(frozen=True, slots=True)
class Scrubbed:
    data: bytes
    removed: int


class Scrubber:
    """``known``: secrets that are known to be ones, taken out wherever and however they stand."""

    __slots__ = ("_known",)

    def __init__(self, known: Iterable[bytes] = ()) -> None:
        forms = {form for each in known if len(each) >= MIN_KNOWN_BYTES for form in _forms(each)}
        ordered = sorted(forms, key=len, reverse=True)
        self._known = re.compile(b"|".join(map(re.escape, ordered))) if ordered else None

    def __repr__(self) -> str:
        return "Scrubber(***)"

    def __call__(self, data: bytes) -> Scrubbed:
        """JSON, and lines of it, by their structure too; they may be laid out anew."""
        whole = self._document(data)
        if whole is not None:
            return whole
        if b'{"' not in data:
            return self._text(data)
        pieces: list[bytes] = []
        removed = 0
        text: list[bytes] = []
        for line in [*data.splitlines(keepends=True), None]:
            at = line.find(b'{"') if line is not None else -1
            found = self._document(line[at:]) if line is not None and at >= 0 else None
            if line is not None:
                text.append(line if found is None else line[:at])
                if found is None:
                    continue
            if text:  # a key goes over several lines
                plain = self._text(b"".join(text))
                pieces.append(plain.data)
                removed += plain.removed
                text = []
            if found is not None:
                pieces.append(found.data + b"\n")
                removed += found.removed
        return Scrubbed(b"".join(pieces), removed)

    def _document(self, data: bytes) -> Scrubbed | None:
        """None: it is none."""
        if data.lstrip()[:1] not in (b"{", b"["):
            return None
        try:
            document = decode(data, Any)
        except Malformed:
            return None
        counted = [0]
        try:
            cleaned = encode(self._value(document, counted))
        except RecursionError:
            return None
        # Once more as text: what was known to be secret may stand in the name of a field.
        checked = self._text(cleaned)
        return Scrubbed(checked.data, counted[0] + checked.removed)

    def _value(self, value: Any, counted: list[int]) -> Any:
        match value:
            case dict():
                return {
                    key: self._secret(found, counted)
                    if isinstance(key, str) and _KEY.fullmatch(key)
                    else self._value(found, counted)
                    for key, found in value.items()
                }
            case list():
                return [self._value(each, counted) for each in value]
            case str():
                nested = self._document(value.encode()) if value[:1] in ("{", "[") else None
                found = nested if nested is not None else self._text(value.encode())
                counted[0] += found.removed
                return found.data.decode("utf-8", "replace")
            case _:
                return value

    def _secret(self, value: Any, counted: list[int]) -> Any:
        """Of a field that is named like one; what is no text may be settings of that name."""
        if isinstance(value, str) and value:
            counted[0] += 1
            return MARK.decode()
        if isinstance(value, list):
            return [self._secret(each, counted) for each in value]
        return self._value(value, counted)

    def _text(self, data: bytes) -> Scrubbed:
        removed = 0

        def whole(_: "re.Match[bytes]") -> bytes:
            nonlocal removed
            removed += 1
            return MARK

        def value(match: "re.Match[bytes]") -> bytes:
            nonlocal removed
            found = match[3]
            if found.lower() in _PLAIN_VALUES or MARK in found or found.isdigit():
                return match[0]
            removed += 1
            quote = _opening(found)
            return match[1] + match[2] + quote + MARK + quote

        def password(match: "re.Match[bytes]") -> bytes:
            nonlocal removed
            removed += 1
            return match[1] + MARK + match[3]

        def block(match: "re.Match[bytes]") -> bytes:
            nonlocal removed
            removed += 1
            return match[1] + match[2] + b"  " + MARK + b"\n"

        if self._known is not None:
            data = self._known.sub(whole, data)
        for pattern in (_PEM, _JWT, _SHAPES):
            data = pattern.sub(whole, data)
        data = _URL.sub(password, data)
        data = _BLOCK.sub(block, data)
        for pattern in (_HEADER, _SCHEME, _YAML, _NAMED, _ARGUMENT):
            data = pattern.sub(value, data)
        return Scrubbed(data, removed)


def _opening(value: bytes) -> bytes:
    match = re.match(rb"\\*[\"']", value)
    return match[0] if match and value.endswith(match[0]) else b""


def _forms(secret: bytes) -> Iterator[bytes]:
    """As it stands in text, in base64, percent-encoded, or in JSON with its line ends escaped."""

    yield secret
    yield quote_from_bytes(secret, safe="").encode()
    yield base64.b64encode(secret)
    yield secret.replace(b"\n", b"\\n")
