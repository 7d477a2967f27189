"""Dependencies are followed by the markers of the target, not of this machine."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from meshctl.bundle import Target
from meshctl.bundle.closure import Candidate, applicable, of_extra, read, resolve
from meshctl.errors import MeshError

OLD = Target(python="3.11", machine="x86_64", glibc="2.36")
NEW = Target(python="3.13", machine="aarch64", glibc="2.36")


class Shelf:
    """An index of distributions that were never packed."""

    def __init__(self, **distributions: dict[str, tuple[str, ...]]) -> None:
        self._distributions = distributions
        self.layers: list[list[str]] = []

    def fetch(self, wanted: Iterable[Requirement]) -> list[Candidate]:
        wanted = list(wanted)
        self.layers.append([str(requirement) for requirement in wanted])
        return [self._best(requirement) for requirement in wanted]

    def _best(self, requirement: Requirement) -> Candidate:
        versions = self._distributions[requirement.name]
        fitting = [text for text in versions if requirement.specifier.contains(text)]
        if not fitting:
            raise MeshError(f"no {requirement}")
        text = max(fitting, key=Version)
        return Candidate(
            path=Path(f"{requirement.name}-{text}"),
            name=canonicalize_name(requirement.name),
            version=Version(text),
            requires=tuple(map(Requirement, versions[text])),
        )


def paths(found: Iterable[Candidate]) -> list[str]:
    return [str(candidate.path) for candidate in found]


def roots(*lines: str) -> list[Requirement]:
    return list(map(Requirement, lines))


@pytest.mark.parametrize(
    ("target", "expected"),
    [(OLD, ["a-1", "backport-1"]), (NEW, ["a-1", "arm-1"])],
)
def test_markers_are_the_targets(target: Target, expected: list[str]) -> None:
    shelf = Shelf(
        a={"1": ("backport; python_version < '3.12'", "arm; platform_machine == 'aarch64'",
                 "wincon; sys_platform == 'win32'")},
        backport={"1": ()},
        arm={"1": ()},
    )  # fmt: skip

    assert paths(resolve(roots("a"), target, shelf.fetch)) == expected


def test_one_layer_of_dependencies_is_fetched_at_a_time() -> None:
    shelf = Shelf(a={"1": ("b", "c")}, b={"1": ("d>=2",)}, c={"1": ()}, d={"1": (), "2": ()})

    found = resolve(roots("a"), OLD, shelf.fetch)

    assert paths(found) == ["a-1", "b-1", "c-1", "d-2"]
    assert shelf.layers == [["a"], ["b", "c"], ["d>=2"]]


def test_a_later_layer_may_narrow_an_earlier_choice() -> None:
    shelf = Shelf(a={"1": ()}, b={"1": ("c<2",)}, c={"1": (), "2": ("lonely",)}, lonely={"1": ()})

    assert paths(resolve(roots("a", "b", "c"), OLD, shelf.fetch)) == ["a-1", "b-1", "c-1"]


def test_extras_of_dependencies_count() -> None:
    shelf = Shelf(a={"1": ("b[fast]",)}, b={"1": ("c; extra == 'fast'", "d; extra == 'slow'")},
                  c={"1": ()})  # fmt: skip

    assert paths(resolve(roots("a"), OLD, shelf.fetch)) == ["a-1", "b-1", "c-1"]


def test_a_circle_of_dependencies_ends() -> None:
    shelf = Shelf(a={"1": ("b",)}, b={"1": ("a",)})

    assert paths(resolve(roots("a"), OLD, shelf.fetch)) == ["a-1", "b-1"]


def test_demands_that_contradict_each_other_end_in_an_error() -> None:
    shelf = Shelf(a={"1": ("c<2",)}, b={"1": ("c>=2",)}, c={"1": (), "2": ()})

    with pytest.raises(MeshError, match="no c"):
        resolve(roots("a", "b"), OLD, shelf.fetch)


def test_an_extra_is_what_holds_because_of_it() -> None:
    lines = ["always", "x; extra == 'host'", "y; extra == 'host' and python_version < '3.12'",
             "z; extra == 'dev'", "w; python_version >= '3.11'"]  # fmt: skip

    assert [str(one) for one in of_extra(lines, OLD, "host")] == ["x", "y"]
    assert [str(one) for one in of_extra(lines, NEW, "host")] == ["x"]
    assert [str(one) for one in applicable(lines, OLD)] == ["always", "w"]


def test_a_wheel_says_what_it_needs(tmp_path: Path, make_wheel) -> None:
    path = make_wheel(tmp_path, "some_name", "1.2", requires=("b>=1; python_version < '3.12'",))

    candidate = read(path)

    assert (candidate.name, str(candidate.version)) == ("some-name", "1.2")
    assert [one.name for one in candidate.requires] == ["b"]


def test_a_damaged_wheel_is_an_error_with_its_name(tmp_path: Path, make_wheel) -> None:
    path = make_wheel(tmp_path, "alpha")
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(MeshError, match=r"alpha-1\.0-py3-none-any\.whl is not a wheel"):
        read(path)
