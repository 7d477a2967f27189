"""The real Prometheus and its promtool: a test skips without, or fails where they are required."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parent.parent
FETCH_S = 300.0


def found(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``: what is on PATH, which may be the newer one."""
    path = shutil.which(name)
    return path if path is not None else found_with_consul(name)


def found_with_consul(name: str) -> str:
    """The same of one that can ask Consul, which Debian's newer packages cannot."""
    folder, reason = _fetched()
    if folder is None:
        _do_without(reason)
    return str(folder / name)


def promtool(*words: str | Path, cwd: Path | None = None, asks_consul: bool = False) -> str:
    """What it says; fails the test with that if it finds a fault."""
    done = subprocess.run(
        [(found_with_consul if asks_consul else found)("promtool"), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    return said


@functools.cache
def _fetched() -> tuple[Path | None, str]:
    try:
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / "fetch-prometheus"],
            capture_output=True,
            text=True,
            timeout=FETCH_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"fetch-prometheus did not end within {FETCH_S:g} s"
    if done.returncode != 0:
        return None, done.stderr.strip()[-300:]
    return Path(done.stdout.splitlines()[-1]), ""


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("MESHCTL_REQUIRE_PROMETHEUS") == "1":
        pytest.fail(f"a real Prometheus is required: {reason}")
    pytest.skip(f"no real Prometheus: {reason}")
