"""Downloads wheels with pip, which knows the operator's package index, its mirror, its proxy and
its credentials. pip is told the target's platform and never resolves dependencies.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from meshctl.bundle.closure import Candidate, read
from meshctl.bundle.model import Target
from meshctl.errors import MeshError, Unreachable

DOWNLOAD_S = 600.0
_FREE_BYTES = 128 * 2**20
"""Asked for before a download: a bundle is about 12 MB, pip's temporary files as much again."""
_SHOWN_LINES = 4


class NoWheel(MeshError):
    """The index was reached and has nothing that fits the target."""


def fetch(requirements: Iterable[Requirement], target: Target, into: Path) -> tuple[Candidate, ...]:
    """The best wheel for each requirement, in ``into``. Raises NoWheel, Unreachable, MeshError."""
    wanted = tuple(requirements)
    _check_space(into)
    done = _download(wanted, target, into)
    if done.returncode != 0:
        raise _explained(wanted, target, into, done.stderr)
    found = [read(path) for path in into.glob("*.whl")]
    return tuple(
        max((one for one in found if one.name == name), key=lambda one: one.version)
        for name in {canonicalize_name(requirement.name) for requirement in wanted}
    )


def _explained(wanted: Sequence[Requirement], target: Target, into: Path, stderr: str) -> MeshError:
    """pip has one exit code for everything, so ask again: which distribution it is, and whether
    the index knows it at all.
    """
    _check_space(into)
    guilty = wanted[0]
    if len(wanted) > 1:
        for guilty in wanted:
            alone = _download([guilty], target, into)
            if alone.returncode != 0:
                stderr = alone.stderr
                break
    said = "\n".join(stderr.strip().splitlines()[-_SHOWN_LINES:])
    if _pip(["index", "versions", guilty.name, "--retries=0"]).returncode != 0:
        return Unreachable(
            f"the package index cannot be reached, or does not have {guilty.name};"
            f" pip says:\n{said}",
            hint="run `meshctl bundle fetch` once with network access, or point pip at a mirror"
            " (PIP_INDEX_URL); later deploys need no network",
        )
    return NoWheel(
        f"no wheel of {guilty} fits {target}; pip says:\n{said}",
        hint="use a Python on the host for which wheels are published",
    )


def _download(
    wanted: Sequence[Requirement], target: Target, into: Path
) -> subprocess.CompletedProcess[str]:
    return _pip(
        [
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--implementation=cp",
            f"--python-version={target.python}",
            *(f"--abi={abi}" for abi in target.abis()),
            *(f"--platform={platform}" for platform in target.platforms()),
            "--retries=2",
            "--progress-bar=off",
            f"--dest={into}",
            *map(str, wanted),
        ]
    )


def _pip(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "--disable-pip-version-check",
                "--no-input",
                "--no-color",
                *arguments,
            ],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=DOWNLOAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"pip did not finish within {DOWNLOAD_S:g} s") from error
    except OSError as error:
        raise MeshError(f"pip cannot be started: {error.strerror or error}") from error


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        raise MeshError(
            f"{folder} has {free // 2**20} MiB free, {_FREE_BYTES // 2**20} are needed",
            hint="make room, or set another cache directory",
        )
