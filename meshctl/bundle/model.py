"""A bundle as a value: for which kind of host, which wheels, under which content address."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meshctl.errors import Refused
from proxy.model import codec

LAYOUT = 1
"""Part of every digest: raised when a release is laid out differently from the same wheels."""

Kind = Literal["proxy", "signer"]
"""Which program a bundle is for."""

MACHINES = ("x86_64", "aarch64")
MIN_PYTHON = (3, 11)

_PYTHON = re.compile(r"3\.[0-9]{1,2}")
_GLIBC = re.compile(r"2\.[0-9]{1,3}")
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}  # PEP 600: the first with a manylinux platform tag
_LEGACY = {
    "x86_64": {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"},
    "aarch64": {17: "manylinux2014"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of host: CPython on Linux with glibc. Raises Refused for any other."""

    python: str
    """``3.11``"""
    machine: str
    """As ``uname -m`` says."""
    glibc: str
    """``2.36``"""

    def __post_init__(self) -> None:
        if _PYTHON.fullmatch(self.python) is None or self._version < MIN_PYTHON:
            raise Refused(
                f"Python {self.python} is not supported on a host",
                hint=f"install Python {'.'.join(map(str, MIN_PYTHON))} or newer there",
            )
        if self.machine not in MACHINES:
            raise Refused(f"a host's machine is {self.machine}; use {' or '.join(MACHINES)}")
        if _GLIBC.fullmatch(self.glibc) is None:
            raise Refused(f"a host's C library is {self.glibc or 'unknown'}; glibc is needed")

    @classmethod
    def of_this_machine(cls) -> "Target":
        try:
            glibc = (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")
        except (ValueError, OSError):
            glibc = ""
        return cls(
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            machine=platform.machine(),
            glibc=glibc,
        )

    def __str__(self) -> str:
        return f"cp{self.python.replace('.', '')}-{self.machine}-glibc{self.glibc}"

    @property
    def _version(self) -> tuple[int, int]:
        major, minor = self.python.split(".")
        return int(major), int(minor)

    def platforms(self) -> Iterator[str]:
        """Platform tags, the most specific first: pip prefers in this order."""
        newest = int(self.glibc.split(".")[1])
        for minor in range(newest, _OLDEST_GLIBC[self.machine] - 1, -1):
            yield f"manylinux_2_{minor}_{self.machine}"
            if legacy := _LEGACY[self.machine].get(minor):
                yield f"{legacy}_{self.machine}"

    def abis(self) -> tuple[str, ...]:
        return (f"cp{self.python.replace('.', '')}", "abi3", "none")

    def marker_environment(self) -> dict[str, str]:
        """PEP 508: on which a host's dependencies turn; not those of the machine that asks."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A file of the bundle, present and verified in the operator's cache."""

    name: str
    """File name."""
    sha256: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Everything that a release of one program on such a host is made of."""

    target: Target
    kind: Kind = "proxy"
    wheels: tuple[Wheel, ...]
    """Sorted by name. Includes pip's own, which installs the others and is not installed."""

    @property
    def digest(self) -> str:
        """Content address of the release: equal for equal wheels and target, wherever it is
        computed.
        """
        content = [LAYOUT, str(self.target), [[one.name, one.sha256] for one in self.wheels]]
        return codec.digest(codec.encode(content))

    @property
    def size(self) -> int:
        """In bytes, as pushed to a host that has none of it."""
        return sum(one.size for one in self.wheels)

    @property
    def pip(self) -> Wheel:
        return next(one for one in self.wheels if one.name.startswith("pip-"))

    @property
    def installed(self) -> tuple[Wheel, ...]:
        return tuple(one for one in self.wheels if one is not self.pip)
