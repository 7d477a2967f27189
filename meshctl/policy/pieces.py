"""The scalar values of ``mesh.yaml``: how each is read, shown again, and told to editors.

Bounds are those of ``proxy.core.soundness``. What a text may say is left to it as well: here it
is only seen that it is one.
"""

import re
from abc import abstractmethod
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from meshctl import durations, sizes
from meshctl.inventory.shape import Choice, Entry, Findings, Schema, Shape, clip, described
from meshctl.yamltree import Node, ScalarNode, SequenceNode, join
from proxy.core.soundness.numbers import Range


class Piece(Shape):
    @property
    @abstractmethod
    def kind(self) -> str:
        """For the reference: what to write."""

    separator = ", "
    """Between several of them."""
    empty = ""
    """The word for an empty value, where one can be chosen; it is shown like any other."""

    def show(self, value: Any) -> str:
        """As it would be written, on one line."""
        return str(value).replace("\r", "\\r").replace("\n", "\\n")


@dataclass(frozen=True)
class Time(Piece):
    """Seconds as float."""

    range: Range

    @property
    def kind(self) -> str:
        return "duration"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        rule = durations.RULE if self.range.or_zero else durations.RULE.removesuffix("; or 0")
        if not isinstance(node, ScalarNode):
            findings.add(path, node.line, "it is not a duration", f"use {rule}")
            return None
        try:
            seconds = durations.parse(node.value)
        except durations.InvalidDuration as error:
            findings.add(path, node.line, str(error), f"use {rule}")
            return None
        if seconds == 0 and not self.range.or_zero:
            findings.add(path, node.line, "0 is not possible here", "use a time above 0")
            return None
        if seconds not in self.range:
            least, most = durations.show(self.range.least), durations.show(self.range.most)
            zero = ", or 0" if self.range.or_zero else ""
            hint = f"use {least} to {most}{zero}"
            findings.add(path, node.line, f"{node.text} is out of range", hint)
            return None
        return Entry(seconds, path, node.line)

    def show(self, value: Any) -> str:
        return durations.show(value)

    def schema(self) -> Schema:
        unit = "(ms|s|m|h)"
        number = r"[0-9]{1,12}(\.[0-9]{1,6})?"
        if not self.range.or_zero:
            return {"type": "string", "pattern": rf"^(?=[0-9.]*[1-9]){number}{unit}$"}
        return {"anyOf": [{"type": "string", "pattern": rf"^({number}{unit}|0)$"}, {"const": 0}]}


@dataclass(frozen=True)
class Milliseconds(Time):
    """The same as milliseconds; ``range`` is in these."""

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        least, most = self.range.least / 1000, self.range.most / 1000
        in_seconds = Time(Range(least, most, self.range.key, self.range.or_zero))
        entry = in_seconds.read(node, path, findings)
        return entry and Entry(round(entry.value * 1000, 6), path, node.line)

    def show(self, value: Any) -> str:
        return durations.show(value / 1000)


@dataclass(frozen=True)
class Percent(Piece):
    """0 to 100 as float, written ``20%`` or ``20``."""

    range: Range

    _TEXT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?)%")

    @property
    def kind(self) -> str:
        return "percentage"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, str) and (match := self._TEXT.fullmatch(value)):
            value = float(match[1])
        if isinstance(value, int | float) and not isinstance(value, bool) and value in self.range:
            return Entry(float(value), path, node.line)
        findings.add(path, node.line, f"{described(node)}, not a percentage", "use 0% to 100%")
        return None

    def show(self, value: Any) -> str:
        return f"{value:g}%"

    def schema(self) -> Schema:
        text = r"^(100(\.0{1,4})?|[0-9]{1,2}(\.[0-9]{1,4})?)%$"
        bounds = {"type": "number", "minimum": 0, "maximum": 100}
        return {"anyOf": [{"type": "string", "pattern": text}, bounds]}


@dataclass(frozen=True)
class Bytes(Piece):
    range: Range

    @property
    def kind(self) -> str:
        return "size"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        least = sizes.show(int(self.range.least)) if self.range.least else "0"
        rule = f"use a size such as 64KiB, from {least} to {sizes.show(int(self.range.most))}"
        if value == 0 and not isinstance(value, bool) and 0 in self.range:
            return Entry(0, path, node.line)
        try:
            size = sizes.parse(value)
        except sizes.InvalidSize as error:
            findings.add(path, node.line, str(error), rule)
            return None
        if size not in self.range:
            findings.add(path, node.line, f"{clip(str(value))} is out of range", rule)
            return None
        return Entry(size, path, node.line)

    def show(self, value: Any) -> str:
        return sizes.show(value)

    def schema(self) -> Schema:
        made: Schema = {"type": "string", "pattern": f"^{sizes.PATTERN}$"}
        return {"anyOf": [made, {"const": 0}]} if 0 in self.range else made


@dataclass(frozen=True)
class Number(Piece):
    range: Range
    is_whole: bool = True

    @property
    def kind(self) -> str:
        return "whole number" if self.is_whole else "number"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        least, most = self.range.least, self.range.most
        rule = f"use {least:.15g} to {most:.15g}" + (", or 0" if self.range.or_zero else "")
        right = int if self.is_whole else (int, float)
        if not isinstance(value, right) or isinstance(value, bool):
            findings.add(path, node.line, f"{described(node)}, not a {self.kind}", rule)
            return None
        if value not in self.range:
            findings.add(path, node.line, f"{clip(str(value))} is out of range", rule)
            return None
        return Entry(value if self.is_whole else float(value), path, node.line)

    def show(self, value: Any) -> str:
        return f"{value:.15g}"

    def schema(self) -> Schema:
        made: Schema = {"type": "integer" if self.is_whole else "number"}
        made |= {"minimum": self.range.least, "maximum": self.range.most}
        return {"anyOf": [made, {"const": 0}]} if self.range.or_zero else made


@dataclass(frozen=True)
class Word(Choice, Piece):
    """One of a closed set."""

    @property
    def kind(self) -> str:
        return "one of " + ", ".join(f"`{word}`" for word in self.words)


@dataclass(frozen=True)
class Status(Piece):
    """A status code out of a closed set."""

    codes: tuple[int, ...]

    @property
    def kind(self) -> str:
        return "one of " + ", ".join(f"`{code}`" for code in self.codes)

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, int) and value in self.codes and not isinstance(value, bool):
            return Entry(value, path, node.line)
        hint = f"use one of: {', '.join(map(str, self.codes))}"
        findings.add(path, node.line, f"{described(node)}, which is not known here", hint)
        return None

    def schema(self) -> Schema:
        return {"type": "integer", "enum": list(self.codes)}


@dataclass(frozen=True)
class Text(Piece):
    what: str = "text"
    pattern: str = ""
    """For editors; may be wider than what is accepted."""
    may_be_empty: bool = False

    @property
    def kind(self) -> str:
        return self.what

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if not isinstance(value, str):
            hint = ""
            if isinstance(node, ScalarNode) and node.value is not None:
                hint = f'write it in quotes: "{clip(node.text)}"'
            findings.add(path, node.line, f"{described(node)}, a text was expected", hint)
            return None
        if not value and not self.may_be_empty:
            findings.add(path, node.line, "it is empty", f"give a {self.what}, or remove it")
            return None
        return Entry(value, path, node.line)

    def schema(self) -> Schema:
        made: Schema = {"type": "string"}
        if self.pattern:
            made["pattern"] = self.pattern
        elif not self.may_be_empty:
            made["minLength"] = 1
        return made


@dataclass(frozen=True)
class TextOr(Text):
    """Or a word for none, by which a service undoes what the defaults say."""

    empty: str = field(kw_only=True)

    @property
    def kind(self) -> str:
        return f"{self.what}, or `{self.empty}`"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        entry = super().read(node, path, findings)
        if entry is not None and entry.value == self.empty:
            return Entry("", path, node.line)
        return entry

    def show(self, value: Any) -> str:
        return super().show(value) if value else self.empty


@dataclass(frozen=True)
class Truth(Piece):
    """``true`` or ``false``; with ``only_true`` nothing but ``true`` makes sense."""

    only_true: bool = False

    @property
    def kind(self) -> str:
        return "`true`" if self.only_true else "`true` or `false`"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if isinstance(value, bool) and (value or not self.only_true):
            return Entry(value, path, node.line)
        hint = "write true, or remove it" if self.only_true else "write true or false"
        findings.add(path, node.line, f"{described(node)}, not {self.kind.replace('`', '')}", hint)
        return None

    def show(self, value: Any) -> str:
        return "true" if value else "false"

    def schema(self) -> Schema:
        return {"const": True} if self.only_true else {"type": "boolean"}


@dataclass(frozen=True)
class TrueOr(Piece):
    """``true``, which is read as an empty text, or a text."""

    what: str
    empty = "true"

    @property
    def kind(self) -> str:
        return f"`true`, or {self.what}"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        value = node.value if isinstance(node, ScalarNode) else None
        if value is True:
            return Entry("", path, node.line)
        if isinstance(value, str) and value:
            return Entry(value, path, node.line)
        hint = f"write true, or a {self.what}"
        findings.add(path, node.line, f"{described(node)}, neither true nor a {self.what}", hint)
        return None

    def show(self, value: Any) -> str:
        return super().show(value) if value else self.empty

    def schema(self) -> Schema:
        return {"anyOf": [{"const": True}, {"type": "string", "minLength": 1}]}


@dataclass(frozen=True)
class Moment(Piece):
    """A point in time with its zone, as datetime in UTC."""

    @property
    def kind(self) -> str:
        return "time (RFC 3339)"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        rule = "write it with Z for UTC: 2026-12-01T12:00:00Z"
        value = node.value if isinstance(node, ScalarNode) else None
        try:
            found = datetime.fromisoformat(value if isinstance(value, str) else "")
            if found.utcoffset() is not None and re.match(self._PATTERN, str(value)):
                return Entry(found.astimezone(UTC), path, node.line)
        except (ValueError, OverflowError):
            pass
        findings.add(path, node.line, f"{described(node)}, not a time with a zone", rule)
        return None

    _PATTERN = (
        r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
        r"([Zz]|[+-][0-9]{2}:[0-9]{2})$"
    )

    def show(self, value: Any) -> str:
        return str(value.isoformat()).replace("+00:00", "Z")

    def schema(self) -> Schema:
        return {"type": "string", "pattern": self._PATTERN}


@dataclass(frozen=True)
class Many(Piece):
    """A list as tuple; one item may be written without its list, if it may stand ``alone``."""

    item: Piece
    may_be_empty: bool = False
    alone: bool = True

    @property
    def kind(self) -> str:
        return f"{self.item.kind}, or a list" if self.alone else f"list of {self.item.kind}"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        if not isinstance(node, SequenceNode):
            if not self.alone:
                hint = "begin each item with -"
                findings.add(path, node.line, f"{described(node)}, not a list", hint)
                return None
            alone = self.item.read(node, path, findings)
            return None if alone is None else Entry((alone.value,), path, node.line)
        if not node.items and not self.may_be_empty:
            findings.add(path, node.line, "the list is empty", "name one at least, or remove it")
            return None
        read = [self.item.read(item, join(path, i), findings) for i, item in enumerate(node.items)]
        if None in read:
            return None
        return Entry(tuple(entry.value for entry in read if entry), path, node.line)

    def show(self, value: Any) -> str:
        return self.item.separator.join(map(self.item.show, value)) if value else "none"

    def schema(self) -> Schema:
        item = self.item.schema()
        made: Schema = {"type": "array", "items": item}
        if not self.may_be_empty:
            made["minItems"] = 1
        return {"anyOf": [item, made]} if self.alone else made
