"""A real Consul binary on this machine, from the first place that has one.

Order: on PATH; a release archive the caller names, with its published SHA-256; Debian's own
package, which exists in the bullseye suite only (``package``).
"""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from labkit.command import LabError, Unavailable, run, say
from labkit.fetching import command
from labkit.package import unpacked
from labkit.record import locked

SUITE = "bullseye"
ARCHIVE = "MESHCTL_CONSUL_ARCHIVE"
CHECKSUM = "MESHCTL_CONSUL_ARCHIVE_SHA256"
_ARCHIVE_LIMIT_BYTES = 1 << 30


def fetch(directory: Path, env: Mapping[str, str]) -> Path:
    """The path of a binary that answers ``consul version``; downloads at most once."""
    present = shutil.which("consul", path=env.get("PATH"))
    if present:
        return _proved(Path(present).resolve())
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / "consul.lock", what="another command is fetching Consul"):
        archive = env.get(ARCHIVE, "")
        if archive:
            return _from_archive(Path(archive), env.get(CHECKSUM, ""), directory)
        return _from_debian(directory)


def _from_archive(archive: Path, expected: str, directory: Path) -> Path:
    if not expected:
        raise LabError(f"{ARCHIVE} is set but {CHECKSUM} is not; set both")
    if not archive.is_file():
        raise LabError(f"{ARCHIVE}: {archive} is no file")
    with archive.open("rb") as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if found != expected.strip().lower():
        raise LabError(f"{archive} has SHA-256 {found}, not {expected}")
    binary = directory / f"consul-{found[:16]}" / "consul"
    if binary.is_file():
        return _proved(binary)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        try:
            with zipfile.ZipFile(archive) as opened:
                if opened.getinfo("consul").file_size > _ARCHIVE_LIMIT_BYTES:
                    raise LabError(f"{archive}: consul is larger than {_ARCHIVE_LIMIT_BYTES} bytes")
                opened.extract("consul", new)
        except (zipfile.BadZipFile, KeyError) as error:
            raise LabError(f"{archive} is no release archive of Consul: {error}") from error
        (new / "consul").chmod(0o755)
        _proved(new / "consul")
        new.rename(binary.parent)
    return binary


def _from_debian(directory: Path) -> Path:
    binary = directory / f"consul-{SUITE}" / "consul"
    if binary.is_file():
        return _proved(binary)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable(f"no consul on PATH and no apt-get; set {ARCHIVE} and {CHECKSUM}")
    say(f"downloading Debian's consul package ({SUITE}), once")
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        (unpacked("consul", SUITE, Path(scratch) / "apt") / "usr/bin/consul").rename(new / "consul")
        _proved(new / "consul")
        new.rename(binary.parent)
    return binary


def _proved(binary: Path) -> Path:
    """The binary, after it has said that it is Consul."""
    said = run([binary, "version"], timeout_s=30).stdout
    if not said.startswith("Consul v"):
        raise LabError(f"{binary} does not answer like Consul: {said[:80]!r}")
    return binary


def main(arguments: Sequence[str] | None = None) -> int:
    """As ``fetching.command``."""
    return command(
        "fetch-consul",
        "Print the path of a real consul binary, fetching one if need be.",
        f"Tried in turn: PATH; {ARCHIVE} with {CHECKSUM}; Debian's package.",
        fetch,
        arguments,
    )
