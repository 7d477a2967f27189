"""The shapes a value in the inventory can have: how it is read, and how editors are told.

Each shape has both sides, ``read`` (a YAML node in, a checked value or violations out) and
``schema`` (JSON Schema), so that parser and schema cannot drift apart. What is read keeps its
path and line, for the checks that look at several values together.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshctl import durations, sizes
from meshctl.yamltree import MappingNode, Node, ScalarNode, SequenceNode, join
from proxy.model.violation import Violation

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as it was read: scalars as their type, lists as tuples and records as mappings of
    Entries."""

    value: Any
    path: str
    line: int
    unread: frozenset[str] = frozenset()
    """Keys of a record that are there with a wrong value: neither readable nor missing."""

    def __getitem__(self, key: str) -> "Entry":
        found: Entry = self.value[key]
        return found

    def get(self, key: str) -> "Entry | None":
        return self.value.get(key)  # type: ignore[no-any-return]  # a record's values are Entries

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def lacks(self, key: str) -> bool:
        """Whether a record does not have ``key`` at all."""
        return key not in self.value and key not in self.unread

    def parts(self) -> tuple["Entry", ...]:
        """The parts of a list."""
        return self.value  # type: ignore[no-any-return]  # a list's parts are Entries

    def plain(self, key: str, default: Any = None) -> Any:
        """The value under ``key``, or ``default``."""
        found = self.get(key)
        return default if found is None else found.value


@dataclass(slots=True)
class Findings:
    """Collects violations; reading goes on after each."""

    violations: list[Violation] = field(default_factory=list)

    def add(self, path: str, line: int, message: str, hint: str = "") -> None:
        self.violations.append(
            Violation(path=path or "(file)", message=message, hint=hint, line=line)
        )


class Invalid(ValueError):
    """A scalar that breaks its rule. The message has the value, ``hint`` what would be right."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Shape(ABC):
    @abstractmethod
    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        """None after adding at least one violation."""

    @abstractmethod
    def schema(self) -> Schema:
        """JSON Schema that accepts all that ``read`` accepts."""


@dataclass(frozen=True)
class Text(Shape):
    """A string, checked and turned into a value by ``convert``, which raises Invalid."""

    convert: Callable[[str], Any]
    pattern: str | None = None
    """For editors; may be wider than ``convert``."""

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
            hint = ""
            if isinstance(node, ScalarNode) and node.value is not None:
                hint = f'write it in quotes: "{clip(node.text)}"'
            findings.add(path, node.line, f"{described(node)}, a text was expected", hint)
            return None
        return _converted(self.convert, node.value, node, path, findings)

    def schema(self) -> Schema:
        return {"type": "string"} | (
            {"pattern": self.pattern} if self.pattern else {"minLength": 1}
        )


@dataclass(frozen=True)
class Integer(Shape):
    least: int
    most: int
    name: str = "a number"
    hint: str = ""

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        rule = self.hint or f"use a whole number from {self.least} to {self.most}"
        value = node.value if isinstance(node, ScalarNode) else None
        if not isinstance(value, int) or isinstance(value, bool):
            findings.add(path, node.line, f"{described(node)}, not {self.name}", rule)
            return None
        if not self.least <= value <= self.most:
            findings.add(path, node.line, f"{value} is out of range for {self.name}", rule)
            return None
        return Entry(value, path, node.line)

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Duration(Shape):
    """Seconds as float."""

    least_s: float
    most_s: float

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        if not isinstance(node, ScalarNode) or node.value is None:
            findings.add(path, node.line, f"{described(node)}, not a duration", f"use {RULE}")
            return None
        return _converted(self._convert, node.value, node, path, findings)

    def _convert(self, value: object) -> float:
        try:
            seconds = durations.parse(value)
        except durations.InvalidDuration as error:
            raise Invalid(str(error), f"use {RULE}") from error
        if not self.least_s <= seconds <= self.most_s:
            least, most = durations.show(self.least_s), durations.show(self.most_s)
            raise Invalid(f"{value!r} is out of range", f"use a duration from {least} to {most}")
        return seconds

    def schema(self) -> Schema:
        text = {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?(ms|s|m|h)$|^-?0$"}
        return {"anyOf": [text, {"const": 0}]} if self.least_s == 0 else text


RULE = durations.RULE


@dataclass(frozen=True)
class Size(Shape):
    """Bytes as int."""

    least_bytes: int
    most_bytes: int

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        if not isinstance(node, ScalarNode) or node.value is None:
            hint = f"use {sizes.RULE}"
            findings.add(path, node.line, f"{described(node)}, not a size", hint)
            return None
        return _converted(self._convert, node.value, node, path, findings)

    def _convert(self, value: object) -> int:
        try:
            size_bytes = sizes.parse(value)
        except sizes.InvalidSize as error:
            raise Invalid(str(error), f"use {sizes.RULE}") from error
        if not self.least_bytes <= size_bytes <= self.most_bytes:
            least, most = sizes.show(self.least_bytes), sizes.show(self.most_bytes)
            raise Invalid(f"{value!r} is out of range", f"use a size from {least} to {most}")
        return size_bytes

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{sizes.PATTERN}$"}


@dataclass(frozen=True)
class NumberOr(Shape):
    """A number, or one word, which is read as 0: ``auto``, ``none``."""

    number: Integer
    word: str

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if value == self.word:
            return Entry(0, path, node.line)
        if isinstance(value, int):
            return self.number.read(node, path, findings)
        low, high = self.number.least, self.number.most
        hint = f"use a whole number from {low} to {high}, or '{self.word}'"
        findings.add(path, node.line, f"{described(node)}, not {self.number.name}", hint)
        return None

    def schema(self) -> Schema:
        return {"anyOf": [self.number.schema(), {"const": self.word}]}


@dataclass(frozen=True)
class Choice(Shape):
    """One of a closed set of words."""

    words: tuple[str, ...]

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and value in self.words:
            return Entry(value, path, node.line)
        guess = closest(value, self.words) if isinstance(value, str) else None
        rule = f"use one of: {', '.join(self.words)}"
        hint = f"did you mean '{guess}'? {rule}" if guess else rule
        findings.add(path, node.line, f"{described(node)}, which is not known here", hint)
        return None

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True)
class Exactly(Shape):
    """One fixed scalar: ``version: 1``, ``tcp: true``."""

    value: int | bool
    hint: str

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if value == self.value and type(value) is type(self.value):
            return Entry(self.value, path, node.line)
        findings.add(path, node.line, f"{described(node)}, which is not supported", self.hint)
        return None

    def schema(self) -> Schema:
        return {"const": self.value}


@dataclass(frozen=True)
class TrueOr(Shape):
    """``true``, which is read as an empty text, or a text."""

    text: Text

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if value is True:
            return Entry("", path, node.line)
        return self.text.read(node, path, findings)

    def schema(self) -> Schema:
        return {"anyOf": [{"const": True}, self.text.schema()]}


@dataclass(frozen=True)
class ListOf(Shape):
    item: Shape
    least: int = 0
    is_set: bool = False

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        if not isinstance(node, SequenceNode):
            findings.add(
                path, node.line, f"{described(node)}, a list was expected", "begin each item with -"
            )
            return None
        if len(node.items) < self.least:
            findings.add(path, node.line, "the list is empty", f"give at least {self.least}")
        read = [
            self.item.read(item, join(path, number), findings)
            for number, item in enumerate(node.items)
        ]
        items = tuple(entry for entry in read if entry is not None)
        if self.is_set:
            for number, entry in enumerate(items):
                if any(other.value == entry.value for other in items[:number]):
                    findings.add(
                        entry.path, entry.line, f"{entry.value!r} is there twice", "keep one"
                    )
        return Entry(items, path, node.line)

    def schema(self) -> Schema:
        made: Schema = {"type": "array", "items": self.item.schema()}
        if self.least:
            made["minItems"] = self.least
        if self.is_set:
            made["uniqueItems"] = True
        return made


@dataclass(frozen=True)
class MapOf(Shape):
    """Keys of the operator's choice."""

    key: Text
    value: Shape

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        if not isinstance(node, MappingNode):
            findings.add(path, node.line, f"{described(node)}, 'key: value' pairs were expected")
            return None
        read: dict[str, Entry] = {}
        for name, child in node.items:
            at = join(path, name.text)
            key = self.key.read(name, at, findings)
            entry = self.value.read(child, at, findings)
            if key is not None and entry is not None:
                read[key.value] = entry
        return Entry(read, path, node.line)

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": self.key.schema(),
            "additionalProperties": self.value.schema(),
        }


@dataclass(frozen=True)
class Key:
    """One key of a record."""

    name: str
    shape: Shape
    about: str
    """One sentence, shown by editors."""
    is_required: bool = False
    default: Any = None
    """For editors; the parser's defaults are those of ``meshctl.inventory.model``."""


@dataclass(frozen=True)
class Record(Shape):
    """A mapping with no other keys than these. Keys that are missing or wrong are absent from what
    is read, so that the rest is still checked."""

    keys: tuple[Key, ...]
    rules: tuple[Schema, ...] = ()
    """For editors: what is required only together with something else."""

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        if not isinstance(node, MappingNode):
            findings.add(
                path,
                node.line,
                f"{described(node)}, 'key: value' pairs were expected",
                f"the keys are: {', '.join(key.name for key in self.keys)}",
            )
            return None
        known = {key.name: key for key in self.keys}
        read: dict[str, Entry] = {}
        unread: set[str] = set()
        for name, child in node.items:
            at = join(path, clip(name.text))
            key = known.get(name.text)
            if key is None:
                message = f"the key {clip(name.text)!r} is not known here"
                findings.add(at, name.line, message, self._suggest(name.text))
                continue
            entry = key.shape.read(child, at, findings)
            if entry is not None:
                read[key.name] = entry
            else:
                unread.add(key.name)
        for key in self.keys:
            if key.is_required and node.get(key.name) is None:
                at = join(path, key.name)
                findings.add(at, node.line, "it is missing", f"add '{key.name}: ...': {key.about}")
        return Entry(read, path, node.line, frozenset(unread))

    def _suggest(self, name: str) -> str:
        names = [key.name for key in self.keys]
        guess = closest(name, names)
        return f"did you mean {guess!r}?" if guess else f"the keys are: {', '.join(names)}"

    def schema(self) -> Schema:
        properties: Schema = {}
        for key in self.keys:
            described_key = key.shape.schema() | {"description": key.about}
            if key.default is not None:
                described_key["default"] = key.default
            properties[key.name] = described_key
        made: Schema = {
            "type": "object",
            "additionalProperties": False,
            "properties": properties,
        }
        required = [key.name for key in self.keys if key.is_required]
        if required:
            made["required"] = required
        if self.rules:
            made["allOf"] = list(self.rules)
        return made


def closest(text: str, known: Sequence[str] | Mapping[str, object]) -> str | None:
    """What was probably meant."""
    if len(text) > 60:
        return None
    found = difflib.get_close_matches(text.lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def clip(text: str) -> str:
    """Short enough for a line of a terminal."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def described(node: Node) -> str:
    """What is there instead, in an operator's words."""
    match node:
        case SequenceNode():
            return "this is a list"
        case MappingNode():
            return "these are 'key: value' pairs"
        case ScalarNode(value=None):
            return "it has no value"
        case ScalarNode(value=str()):
            return f"it is {clip(node.text)!r}"
        case ScalarNode():
            return f"it is {clip(node.text)}"


def _converted(
    convert: Callable[[Any], Any], value: Any, node: Node, path: str, findings: Findings
) -> Entry | None:
    try:
        return Entry(convert(value), path, node.line)
    except Invalid as error:
        findings.add(path, node.line, str(error), error.hint)
        return None
