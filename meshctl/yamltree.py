"""YAML text to a tree that remembers its lines: what the parsers of the operator's files share.

Text enters, ``ScalarNode | SequenceNode | MappingNode`` leave. Only what JSON could say is
accepted, in YAML's 1.2 core schema (``yes`` and ``12:30`` are strings): anchors, aliases, merge
keys, tags of one's own, several documents, duplicate and non-string keys are refused, as is
anything too large or too deep to have been written by hand. PyYAML is used for its events only;
its constructors keep no lines and let the last of two equal keys win.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from meshctl.errors import InvalidInput
from proxy.model.violation import Violation

MAX_BYTES = 1024 * 1024
"""An inventory of several thousand hosts; more is a mistake or an attack."""
MAX_DEPTH = 50
_MAX_VIOLATIONS = 50
"""What a person can read; the rest of a hostile file is not worth the memory."""
_MAX_DIGITS = 40
"""No setting needs more, and CPython refuses to convert numbers of over 4300 digits."""

Value: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A single value."""

    value: Value
    line: int
    """1-based, as in all nodes."""
    text: str
    """As it was written, without its quotes."""


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    items: tuple["Node", ...]
    line: int


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys, which are strings and unique, and their nodes, in the order of the text."""

    items: tuple[tuple[ScalarNode, "Node"], ...]
    line: int

    def get(self, key: str) -> "Node | None":
        """The node under ``key``; None when the key is absent (an empty value is a node)."""
        return next((node for name, node in self.items if name.text == key), None)


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode
Plain: TypeAlias = Value | list["Plain"] | dict[str, "Plain"]


def load(text: str, source: str, max_bytes: int = MAX_BYTES) -> Node:
    """The tree of the one document in ``text``; an empty text is a null scalar on line 1.

    Raises InvalidInput that names ``source``: the first syntax error, or every duplicate key and
    refused construct.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise _invalid(
            source,
            Violation(
                path="(file)",
                message=f"it has {size} bytes, the limit is {max_bytes}",
                hint="split it",
            ),
        )
    events = _events(text.removeprefix("\N{BYTE ORDER MARK}"), source)
    return _Builder(source).document(events)


def plain(node: Node) -> Plain:
    """The same data as dicts, lists and scalars: for JSON Schema and for messages."""
    match node:
        case ScalarNode():
            return node.value
        case SequenceNode():
            return [plain(item) for item in node.items]
        case MappingNode():
            return {key.text: plain(item) for key, item in node.items}


def join(path: str, step: str | int) -> str:
    """The path of a child, as an operator would write it: ``hosts[2].services``."""
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else step


def _clip(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def _invalid(source: str, *violations: Violation) -> InvalidInput:
    return InvalidInput(source, violations, hint=f"edit {source}; nothing was done")


def _events(text: str, source: str) -> Iterator[Any]:
    # libyaml is some 20 times faster and part of every PyYAML wheel; a distribution may lack it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from yaml.parse(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise _invalid(
            source,
            Violation(
                path="(file)",
                message=f"not valid YAML: {what}",
                hint="look at the indentation, colons and quotes on this line and the one above",
                line=mark.line + 1 if mark is not None else None,
            ),
        ) from None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        position = getattr(error, "position", getattr(error, "start", None))
        raise _invalid(
            source,
            Violation(
                path="(file)",
                message="not valid YAML: it has a character that text files do not have",
                hint="save it as UTF-8 without control characters",
                line=text.count("\n", 0, position) + 1 if isinstance(position, int) else None,
            ),
        ) from None


class _Builder:
    """Turns parser events into nodes and collects what it refuses."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._violations: list[Violation] = []

    def document(self, events: Iterator[Any]) -> Node:
        root: Node = ScalarNode(None, 1, "")
        seen = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                seen += 1
                if seen > 1:
                    self._refuse(event, "(file)", "it has more than one document", "remove '---'")
                    break
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, events, "", 1)
        if self._violations:
            raise _invalid(self._source, *self._violations)
        return root

    def _node(self, event: Any, events: Iterator[Any], path: str, depth: int) -> Node:
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            self._refuse(event, path, f"it is nested more than {MAX_DEPTH} levels deep", "")
            raise _invalid(self._source, *self._violations)
        if event.anchor is not None:
            kind = "alias" if isinstance(event, yaml.AliasEvent) else "anchor"
            self._refuse(
                event, path, f"{kind} {_clip(event.anchor)!r}", "write the value out in full"
            )
        if isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, path, _SEQ_TAGS)
            return self._sequence(events, path, line, depth)
        if isinstance(event, yaml.MappingStartEvent):
            self._check_tag(event, path, _MAP_TAGS)
            return self._mapping(events, path, line, depth)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path, line)
        return ScalarNode(None, line, "")

    def _sequence(self, events: Iterator[Any], path: str, line: int, depth: int) -> Node:
        items: list[Node] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, events, join(path, len(items)), depth + 1))
        return SequenceNode(tuple(items), line)

    def _mapping(self, events: Iterator[Any], path: str, line: int, depth: int) -> Node:
        items: dict[str, tuple[ScalarNode, Node]] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, events, path, depth)
            value = self._node(next(events), events, join(path, key.text), depth + 1)
            first = items.get(key.text)
            if first is not None:
                self._refuse(
                    event,
                    join(path, key.text),
                    f"the key {_clip(key.text)!r} is there already, on line {first[0].line}",
                    "keep one of the two",
                )
                continue
            items[key.text] = (key, value)
        return MappingNode(tuple(items.values()), line)

    def _key(self, event: Any, events: Iterator[Any], path: str, depth: int) -> ScalarNode:
        key = self._node(event, events, path, depth + 1)
        if not isinstance(key, ScalarNode):
            self._refuse(event, path, "a key is a list or a mapping", "use a plain word as key")
            return ScalarNode("?", key.line, "?")
        if key.text == "<<":
            self._refuse(event, path, "a merge key ('<<')", "write the keys out in full")
        elif not isinstance(key.value, str) and event.anchor is None:
            self._refuse(
                event,
                path,
                f"the key {_clip(key.text)!r} is not a string",
                f'write it as "{_clip(key.text)}"',
            )
        return key

    def _scalar(self, event: Any, path: str, line: int) -> ScalarNode:
        text = event.value
        is_plain, _ = event.implicit
        if event.tag not in (None, *_STR_TAGS, *_SCALAR_TAGS):
            self._check_tag(event, path, _STR_TAGS)
        if event.tag in _STR_TAGS or not (is_plain or event.tag in _SCALAR_TAGS):
            return ScalarNode(text, line, text)
        if _INT.fullmatch(text) is not None and len(text) > _MAX_DIGITS:
            self._refuse(event, path, f"a number of {len(text)} digits", "quote it if it is a name")
            return ScalarNode(text, line, text)
        value = _resolve(text)
        if event.tag is not None and not isinstance(value, _SCALAR_TAGS[event.tag]):
            self._refuse(event, path, f"{_clip(text)!r} is not a {event.tag[18:]}", "")
        return ScalarNode(value, line, text)

    def _check_tag(self, event: Any, path: str, allowed: tuple[str, ...]) -> None:
        if event.tag is not None and event.tag not in allowed:
            self._refuse(event, path, f"the tag {_clip(event.tag)!r}", "remove it")

    def _refuse(self, event: Any, path: str, message: str, hint: str) -> None:
        self._violations.append(
            Violation(
                path=_clip(path) or "(file)",
                message=message,
                hint=hint,
                line=event.start_mark.line + 1,
            )
        )
        if len(self._violations) >= _MAX_VIOLATIONS:
            raise _invalid(self._source, *self._violations)


# "!" is what a quoted scalar or an explicit "this is a string" carries.
_STR_TAGS = ("!", "tag:yaml.org,2002:str")
_SEQ_TAGS = ("!", "tag:yaml.org,2002:seq")
_MAP_TAGS = ("!", "tag:yaml.org,2002:map")
_SCALAR_TAGS: dict[str, type] = {
    "tag:yaml.org,2002:null": type(None),
    "tag:yaml.org,2002:bool": bool,
    "tag:yaml.org,2002:int": int,
    "tag:yaml.org,2002:float": float,
}

# YAML 1.2.2, section 10.3.2 (core schema).
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _resolve(text: str) -> Value:
    """The value of a plain (unquoted) scalar."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text) is not None:
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)
    if _FLOAT.fullmatch(text) is not None:
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text) is not None:
        return float(text.lower().replace(".", "", 1))
    return text
