"""Targets and content addresses."""

from dataclasses import replace
from pathlib import Path

import pytest

from meshctl.bundle import Bundle, Target, Wheel
from meshctl.errors import Refused

DEBIAN = Target(python="3.11", machine="x86_64", glibc="2.36")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("python", "3.10", "Python 3.10"),
        ("python", "2.7", "Python 2.7"),
        ("python", "3.11; rm", "Python"),
        ("machine", "armv7l", "armv7l"),
        ("glibc", "", "unknown"),
        ("glibc", "musl 1.2", "musl"),
    ],
)
def test_a_host_that_no_wheels_exist_for_is_refused(field: str, value: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        replace(DEBIAN, **{field: value})


def test_platforms_go_from_the_hosts_own_glibc_down_to_the_oldest() -> None:
    platforms = list(DEBIAN.platforms())

    assert platforms[0] == "manylinux_2_36_x86_64"
    assert platforms[-2:] == ["manylinux_2_5_x86_64", "manylinux1_x86_64"]
    assert platforms.index("manylinux2014_x86_64") == platforms.index("manylinux_2_17_x86_64") + 1


def test_platforms_of_an_old_glibc_leave_out_what_it_cannot_load() -> None:
    platforms = list(Target(python="3.11", machine="aarch64", glibc="2.17").platforms())

    assert platforms == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


def test_this_machine_is_a_target() -> None:
    assert Target.of_this_machine().machine in {"x86_64", "aarch64"}


def wheel(name: str, sha256: str) -> Wheel:
    return Wheel(name=name, sha256=sha256, size=10, path=Path("/anywhere"))


def test_the_digest_follows_from_target_names_and_hashes_alone() -> None:
    one = Bundle(target=DEBIAN, wheels=(wheel("a-1.whl", "00"), wheel("pip-1.whl", "11")))
    moved = Bundle(
        target=DEBIAN,
        wheels=tuple(replace(each, path=Path("/elsewhere")) for each in one.wheels),
    )
    changed = Bundle(target=DEBIAN, wheels=(wheel("a-1.whl", "01"), wheel("pip-1.whl", "11")))
    other = Bundle(target=replace(DEBIAN, python="3.12"), wheels=one.wheels)

    assert len(one.digest) == 16
    assert one.digest == moved.digest
    assert len({one.digest, changed.digest, other.digest}) == 3


def test_pip_is_pushed_but_not_installed() -> None:
    bundle = Bundle(target=DEBIAN, wheels=(wheel("a-1.whl", "00"), wheel("pip-1.whl", "11")))

    assert bundle.pip.name == "pip-1.whl"
    assert [each.name for each in bundle.installed] == ["a-1.whl"]
    assert bundle.size == 20
