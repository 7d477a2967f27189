"""A Debian package of another suite, unpacked and not installed.

Through the mirror and the keys this machine's apt uses already, without adding a source to the
machine: apt gets a state directory of its own.
"""

from pathlib import Path

from labkit import sources
from labkit.command import LabError, run

_APT_DEADLINE_S = 300
_UNPACK_S = 120


def unpacked(package: str, suite: str, top: Path) -> Path:
    """The folder with the package's files, below ``top``, which is empty and the caller's own."""
    archive = sources.main_archive()
    for name in ("parts", "state/lists/partial", "cache/archives/partial", "unpacked"):
        (top / name).mkdir(parents=True)
    (top / "status").touch()
    (top / "parts" / f"{package}.sources").write_text(archive.deb822(suite), encoding="utf-8")
    apt = ["apt-get", "-q", *_private_apt(top)]
    run([*apt, "update"], timeout_s=_APT_DEADLINE_S)
    # Where apt puts a download is the current directory, so the command changes it first.
    run(["env", "-C", top, *apt, "download", package], timeout_s=_APT_DEADLINE_S)
    found = next(top.glob(f"{package}_*.deb"), None)
    if found is None:
        raise LabError(f"apt-get download {package} ({suite}) brought no package")
    run(["dpkg-deb", "-x", found, top / "unpacked"], timeout_s=_UNPACK_S)
    return top / "unpacked"


def _private_apt(top: Path) -> list[str]:
    """Options that keep apt's sources, lists and downloads in ``top``.

    The rest of the machine's configuration holds: proxies, credentials, trusted keys.
    """
    settings = {
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": top / "parts",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": top / "state",
        "Dir::State::Lists": top / "state/lists",
        "Dir::State::Status": top / "status",
        "Dir::Cache": top / "cache",
        "Dir::Cache::Archives": top / "cache/archives",
        # The directory is the caller's own, which apt's download user may not enter.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        # The suite has reached its end: its signed index is no longer renewed.
        "Acquire::Check-Valid-Until": "false",
    }
    words: list[str] = []
    for name, value in settings.items():
        words += ["-o", f"{name}={value}"]
    return words
