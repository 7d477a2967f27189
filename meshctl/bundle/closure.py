"""Which distributions a target needs: the roots and, through their metadata, everything below.

pip cannot say this for another machine: it picks wheels for the platform it is told, but follows
dependencies by the markers of the interpreter it runs in. So pip only fetches, one layer at a
time and without dependencies, and the markers are evaluated here, for the target.
"""

import email
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from meshctl.bundle.model import Target
from meshctl.errors import MeshError

_MAX_LAYERS = 20
"""Of dependencies below dependencies; the real tree has four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A downloaded wheel and what it says it needs."""

    path: Path
    name: NormalizedName
    version: Version
    requires: tuple[Requirement, ...]


@dataclass(slots=True)
class _Wanted:
    specifier: SpecifierSet = field(default_factory=SpecifierSet)
    extras: set[str] = field(default_factory=set)


Fetch = Callable[[Iterable[Requirement]], Iterable[Candidate]]
"""Gets the best wheel for each requirement, without dependencies."""


def applicable(lines: Iterable[str], target: Target, extra: str = "") -> tuple[Requirement, ...]:
    """The ``Requires-Dist`` lines that hold for ``target`` and ``extra``, without their markers."""
    environment = target.marker_environment() | {"extra": extra}
    chosen = []
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            chosen.append(requirement)
    return tuple(chosen)


def of_extra(lines: Iterable[str], target: Target, extra: str) -> tuple[Requirement, ...]:
    """Those that hold because of ``extra``, and would not without it."""
    return tuple(
        requirement
        for line in lines
        if not applicable([line], target)
        for requirement in applicable([line], target, extra)
    )


def resolve(roots: Iterable[Requirement], target: Target, fetch: Fetch) -> tuple[Candidate, ...]:
    """The wheels for ``roots`` and all they need, sorted by name.

    No backtracking: each is the newest that fits what is asked of it; when a later layer narrows
    the choice, it is fetched again. Raises MeshError when demands contradict each other.
    """
    roots = tuple(roots)
    chosen: dict[NormalizedName, Candidate] = {}
    for _ in range(_MAX_LAYERS):
        wanted = _walk(roots, chosen, target)
        missing = [
            Requirement(f"{name}{want.specifier}")
            for name, want in sorted(wanted.items())
            if name not in chosen
            or not want.specifier.contains(chosen[name].version, prereleases=True)
        ]
        if not missing:
            return tuple(chosen[name] for name in sorted(wanted))
        for candidate in fetch(missing):
            chosen[candidate.name] = candidate
    raise MeshError(
        f"the dependencies of the proxy for {target} do not settle: "
        + ", ".join(str(requirement) for requirement in missing)
    )


def read(path: Path) -> Candidate:
    """Raises MeshError for a file that is not a wheel."""
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            (member,) = (
                entry
                for entry in archive.namelist()
                if entry.endswith(".dist-info/METADATA") and entry.count("/") == 1
            )
            metadata = email.message_from_bytes(archive.read(member))
        requires = tuple(map(Requirement, metadata.get_all("Requires-Dist", [])))
    except (ValueError, InvalidRequirement, zipfile.BadZipFile) as error:
        raise MeshError(f"{path.name} is not a wheel that can be read: {error}") from error
    return Candidate(path=path, name=name, version=version, requires=requires)


def _walk(
    roots: tuple[Requirement, ...], chosen: Mapping[NormalizedName, Candidate], target: Target
) -> dict[NormalizedName, _Wanted]:
    """All that is reachable through what is already chosen, with the sum of what is asked."""
    wanted: dict[NormalizedName, _Wanted] = {}
    seen: set[tuple[NormalizedName, str]] = set()
    queue = list(roots)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        want = wanted.setdefault(name, _Wanted())
        want.specifier &= requirement.specifier
        want.extras |= requirement.extras
        if name not in chosen:
            continue
        for extra in ("", *sorted(want.extras)):
            if (name, extra) not in seen:
                seen.add((name, extra))
                lines = map(str, chosen[name].requires)
                queue.extend(applicable(lines, target, extra))
    return wanted
