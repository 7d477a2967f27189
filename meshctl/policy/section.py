"""A mapping in ``mesh.yaml`` that becomes one struct of the model, key by key.

The tables made of these are all there is to know of a key: reader, JSON Schema, reference and
the display of differences follow from them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import msgspec

from meshctl.inventory.shape import Entry, Findings, Schema, closest
from meshctl.policy.pieces import Piece
from meshctl.yamltree import MappingNode, Node, ScalarNode, join


@dataclass(frozen=True, kw_only=True)
class Field:
    """One key."""

    key: str
    shape: Piece
    about: str
    """One or two sentences."""
    field: str = ""
    """Of the struct; empty: called as the key is."""
    source: str = ""
    """Where its default comes from."""
    is_required: bool = False

    @property
    def name(self) -> str:
        return self.field or self.key


Given = dict[str, Any]
"""Field of the struct to value: what was written, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Section(Piece):
    """Read to ``Given``, to be laid over other values later."""

    separator = "; "
    title: str
    struct: type[msgspec.Struct]
    about: str
    fields: tuple[Field, ...]
    short: str = ""
    """Key that a value means which is not a mapping."""
    one_of: tuple[str, ...] = ()
    """Keys of which exactly one has to be there."""
    at_most_one_of: tuple[str, ...] = ()
    may_be_empty: bool = False
    off: str = ""
    """A word that stands for None."""
    adapt: Callable[[Given], Given] = lambda given: given
    hidden: Callable[[Any], Collection[str]] = lambda value: ()
    """Keys that say nothing of a value."""

    @property
    def kind(self) -> str:
        alone = f", or {self[self.short].shape.kind}" if self.short else ""
        return f"[{self.title}](#{self.title.replace('_', '_')}){alone}" + (
            f", or `{self.off}`" if self.off else ""
        )

    @property
    def is_named(self) -> bool:
        """Whether its values go by their names, rather than by their place in a list."""
        return any(field.key == "name" for field in self.fields)

    def __getitem__(self, key: str) -> Field:
        return next(field for field in self.fields if field.key == key)

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        if isinstance(node, ScalarNode):
            if self.off and node.value == self.off:
                return Entry(None, path, node.line)
            if self.may_be_empty and node.value is None:
                return Entry({}, path, node.line)
            if self.short and node.value is not None:
                alone = self[self.short]
                entry = alone.shape.read(node, path, findings)
                return entry and Entry(self.adapt({alone.name: entry.value}), path, node.line)
        before = len(findings.violations)
        given: Given = {}
        nodes = children(node, path, [field.key for field in self.fields], findings)
        for field in self.fields:
            child = nodes.get(field.key)
            if child is not None:
                entry = field.shape.read(child, join(path, field.key), findings)
                if entry is not None:
                    given[field.name] = entry.value
            elif field.is_required and isinstance(node, MappingNode):
                hint = f"add '{field.key}: ...': {field.about}"
                findings.add(join(path, field.key), node.line, "it is missing", hint)
        self._count(nodes, node, path, findings)
        if len(findings.violations) > before:
            return None
        return Entry(self.adapt(given), path, node.line)

    def _count(self, nodes: Collection[str], node: Node, path: str, findings: Findings) -> None:
        there = [key for key in (self.one_of or self.at_most_one_of) if key in nodes]
        if len(there) > 1:
            keep = f"keep one of: {', '.join(there)}"
            findings.add(path, node.line, f"it has {' and '.join(there)}", keep)
        elif self.one_of and not there and isinstance(node, MappingNode):
            wanted = f"use exactly one of: {', '.join(self.one_of)}"
            findings.add(path, node.line, "it says nothing to go by", wanted)

    def show(self, value: Any) -> str:
        return ", ".join(f"{name} {text}" for name, text in self.leaves(value)) or "{}"

    def leaves(self, value: Any) -> Iterator[tuple[str, str]]:
        """Keys and values as they would be written, without those at their default."""
        defaults = {f.name: f.default for f in msgspec.structs.fields(self.struct)}
        for field, found in self.values(value):
            if found != defaults[field.name]:
                yield field.key, field.shape.show(found)

    def values(self, value: Any) -> Iterator[tuple[Field, Any]]:
        """All that ``value`` says."""
        hidden = self.hidden(value)
        for field in self.fields:
            found = getattr(value, field.name)
            says = found not in ((), {}, "", None) or (found == "" and field.shape.empty)
            if says and field.key not in hidden:
                yield field, found

    def default(self, field: Field) -> str:
        """As it would be written; empty: there is none."""
        if self.may_be_empty and field.key in self.hidden(self.struct()):
            return ""
        default = next(
            f.default for f in msgspec.structs.fields(self.struct) if f.name == field.name
        )
        if default in (msgspec.NODEFAULT, None, "", (), {}):
            return field.shape.empty
        if isinstance(default, msgspec.Struct):
            return ""
        return field.shape.show(default)

    def schema(self) -> Schema:
        return {"$ref": f"#/$defs/{self.title}"}

    def definition(self) -> Schema:
        """What ``schema`` refers to."""
        properties: Schema = {}
        for field in self.fields:
            about, default = field.about, self.default(field)
            if default:
                about += f" Default: {default}."
            properties[field.key] = {**field.shape.schema(), "description": about}
        made: Schema = {
            "type": "object",
            "description": self.about,
            "additionalProperties": False,
            "properties": properties,
        }
        required = [field.key for field in self.fields if field.is_required]
        if required:
            made["required"] = required
        if self.one_of:
            made["oneOf"] = [{"required": [key]} for key in self.one_of]
        elif self.at_most_one_of:
            pairs = [{"required": list(pair)} for pair in combinations(self.at_most_one_of, 2)]
            made["not"] = pairs[0] if len(pairs) == 1 else {"anyOf": pairs}
        others: list[Schema] = []
        if self.short:
            others.append(self[self.short].shape.schema())
        if self.off:
            others.append({"const": self.off})
        if self.may_be_empty:
            others.append({"type": "null"})
        return {"anyOf": [made, *others]} if others else made


@dataclass(frozen=True, kw_only=True)
class Whole(Piece):
    """A section that is complete in itself: read to its struct."""

    separator = "; "
    section: Section

    @property
    def kind(self) -> str:
        return self.section.kind

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        entry = self.section.read(node, path, findings)
        return entry and Entry(self.section.struct(**entry.value), path, node.line)

    def show(self, value: Any) -> str:
        return self.section.show(value)

    def schema(self) -> Schema:
        return self.section.schema()


@dataclass(frozen=True, kw_only=True)
class Table(Piece):
    """Keys of the operator's choice."""

    value: Piece
    what: str
    keys: str = ""
    """A pattern, for editors."""

    @property
    def kind(self) -> str:
        return f"{self.what}: {self.value.kind}"

    def read(self, node: Node, path: str, findings: Findings) -> Entry | None:
        before = len(findings.violations)
        read: dict[str, Any] = {}
        for key, child in children(node, path, None, findings, self.what).items():
            entry = self.value.read(child, join(path, key), findings)
            if entry is not None:
                read[key] = entry.value
        if len(findings.violations) > before:
            return None
        return Entry(read, path, node.line)

    def show(self, value: Any) -> str:
        return ", ".join(f"{key}: {self.value.show(inner)}" for key, inner in value.items())

    def schema(self) -> Schema:
        made: Schema = {"type": "object", "additionalProperties": self.value.schema()}
        if self.keys:
            made["propertyNames"] = {"pattern": self.keys}
        return made


def children(
    node: Node, path: str, known: list[str] | None, findings: Findings, what: str = ""
) -> Mapping[str, Node]:
    """The entries under known keys; with ``known`` None, all of them."""
    if not isinstance(node, MappingNode):
        hint = f"use keys: {', '.join(known)}" if known else f"use {what}: ..."
        findings.add(path, node.line, f"{shown(node)} is not a mapping", hint)
        return {}
    found: dict[str, Node] = {}
    for key, value in node.items:
        if known is None or key.text in known:
            found[key.text] = value
            continue
        guess = closest(key.text, known)
        hint = f"did you mean {guess!r}?" if guess else f"known here: {', '.join(known)}"
        findings.add(join(path, key.text[:60]), key.line, f"unknown key {key.text[:60]!r}", hint)
    return found


def shown(node: Node) -> str:
    if not isinstance(node, ScalarNode):
        return "a list" if not isinstance(node, MappingNode) else "a mapping"
    return repr(node.text if len(node.text) <= 60 else f"{node.text[:57]}...")
