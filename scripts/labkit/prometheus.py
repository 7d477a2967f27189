"""A real Prometheus that can ask Consul, and its promtool.

Debian's package cannot since bookworm (2.33.5+ds1-4: "Disable Consul SD"), so the one of bullseye
is taken, unpacked and not installed (``package``); a release archive's binary on PATH comes first.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.command import LabError, Unavailable, run, say
from labkit.fetching import command
from labkit.package import unpacked
from labkit.record import locked

SUITE = "bullseye"
PROGRAMS = ("prometheus", "promtool")
_CONSUL_JOB = """\
scrape_configs:
  - job_name: proof
    consul_sd_configs: [{server: "127.0.0.1:8500"}]
"""


def fetch(directory: Path, env: Mapping[str, str]) -> Path:
    """The folder with both programs; downloads at most once."""
    directory.mkdir(parents=True, exist_ok=True)
    present = shutil.which("prometheus", path=env.get("PATH"))
    if present and _asks_consul(Path(present).resolve().parent, directory):
        return Path(present).resolve().parent
    with locked(directory / "prometheus.lock", what="another command is fetching Prometheus"):
        return _from_debian(directory)


def _from_debian(directory: Path) -> Path:
    folder = directory / f"prometheus-{SUITE}"
    if folder.is_dir():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable("no prometheus on PATH that can ask Consul, and no apt-get")
    say(f"downloading Debian's prometheus package ({SUITE}), once")
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        files = unpacked("prometheus", SUITE, Path(scratch) / "apt")
        for name in PROGRAMS:
            (files / "usr/bin" / name).rename(new / name)
        if not _asks_consul(new, directory):
            raise LabError(f"Debian's prometheus ({SUITE}) does not know consul_sd_configs")
        new.rename(folder)
    return folder


def _asks_consul(folder: Path, directory: Path) -> bool:
    if not all((folder / name).is_file() for name in PROGRAMS):
        return False
    with tempfile.NamedTemporaryFile("w", suffix=".yml", dir=directory) as file:
        file.write(_CONSUL_JOB)
        file.flush()
        try:
            run([folder / "promtool", "check", "config", file.name], timeout_s=60)
        except LabError:
            return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """As ``fetching.command``."""
    return command(
        "fetch-prometheus",
        "Print a folder with a prometheus and a promtool that can ask Consul.",
        "Tried in turn: PATH; Debian's package of an older suite, unpacked.",
        fetch,
        arguments,
    )
