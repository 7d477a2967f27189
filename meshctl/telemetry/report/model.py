"""A report as a value: sections, tables, cells, already in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Tone = Literal["", "bad", "warn", "good"]
_WORDS: Mapping[Tone, str] = {"bad": "problem", "warn": "warning", "good": "well", "": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    text: str
    tone: Tone = ""
    """Colour only repeats what the text says."""
    share: float | None = None
    """0 to 1: of the largest in its column, drawn as a bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    is_number: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_out: int = 0
    """Rows beyond the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    id: str
    title: str
    said: str
    """A paragraph before its tables; of a section without one, what there is to say."""
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    name: str
    value: str
    note: str
    tone: Tone = ""

    @property
    def word(self) -> str:
        return _WORDS[self.tone]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    mesh: str
    """Its trust domain."""
    begins: str
    ends: str
    """RFC 3339, UTC."""
    span: str
    figures: tuple[Figure, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A certificate that ends."""

    subject: str
    """``root``, ``issuing CA``, ``signer on c1``, ``api on b1``."""
    not_after: str
    """RFC 3339; empty: it is not known, or there is none."""
    renewed: str
    """By whom, in words."""
    is_renewed: bool
    """Nobody has to do anything."""
