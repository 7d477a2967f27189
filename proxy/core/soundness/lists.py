"""Rules for several values of one kind."""

from collections.abc import Callable, Collection
from typing import TypeVar

from proxy.core.soundness.finding import Finding, Findings, Wrong, at, judged, shown

T = TypeVar("T")


def at_most(path: str, values: Collection[T], most: int) -> Findings:
    if len(values) > most:
        yield at(path, f"it has {len(values)} entries", f"use at most {most}")


def unique(path: str, names: list[str]) -> Findings:
    if len(set(names)) == len(names):
        return
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        first = seen.setdefault(name, number)
        if first != number:
            message = f"the name {shown(name)} is taken by {path}[{first}]"
            yield Finding(
                paths=(f"{path}[{number}].name",), message=message, hint="give each its own"
            )


def each_of(
    path: str, values: tuple[T, ...], rule: Callable[[T], Wrong | None], most: int
) -> Findings:
    """A set of words, written as a list."""
    yield from at_most(path, values, most)
    seen: set[T] = set()
    for number, value in enumerate(values[:most]):
        yield from judged(f"{path}[{number}]", rule(value))
        if value in seen:
            yield at(f"{path}[{number}]", f"{shown(str(value))} is there twice", "keep one")
        seen.add(value)
