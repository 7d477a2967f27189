"""Names and paths: from a lab's name to its namespaces, addresses and files. Pure."""

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from labkit.command import LabError

DEFAULT_NAME = "lab"
MAX_HOSTS = 50
SSH_PORT = 22
# The namespaces, cgroups and machines of a lab start with its name; a machine name ends at 64.
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_NAME_LIMIT = 20


def cache_home() -> Path:
    """Where downloads and images are kept; the XDG rule, which ignores a relative path."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given.startswith("/") else Path.home() / ".cache") / "meshctl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """One lab; two of different names share only the base image."""

    name: str
    cache: Path
    """``cache_home() / "lab"``: base images, locks, and a directory for each lab."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > _NAME_LIMIT:
            raise LabError(
                f"{self.name!r} is no lab name: lower-case letters, digits and inner hyphens, "
                f"a letter first, at most {_NAME_LIMIT}"
            )

    @property
    def dir(self) -> Path:
        return self.cache / "labs" / self.name

    @property
    def lock(self) -> Path:
        return self.cache / "labs" / f"{self.name}.lock"

    @property
    def record(self) -> Path:
        """What runs, for this program."""
        return self.dir / "state.json"

    @property
    def description(self) -> Path:
        """What runs, for tests and people: ``lab.json``."""
        return self.dir / "lab.json"

    @property
    def known_hosts(self) -> Path:
        return self.dir / "known_hosts"

    @property
    def key(self) -> Path:
        return self.dir / "id_ed25519"

    @property
    def network(self) -> str:
        """The first three octets. Labs are isolated anyway; distinct ones make logs readable."""
        octet = 0 if self.name == DEFAULT_NAME else 1 + zlib.crc32(self.name.encode()) % 254
        return f"10.77.{octet}"

    @property
    def gateway(self) -> str:
        """The operator's own address."""
        return f"{self.network}.1"

    @property
    def operator(self) -> str:
        """The operator's network namespace."""
        return f"{self.name}-ops"

    def host(self, index: int) -> "Host":
        return Host(lab=self, index=index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine of a lab: ``mesh1`` has index 1 and the address ending in 11."""

    lab: Lab
    index: int

    @property
    def name(self) -> str:
        return f"mesh{self.index}"

    @property
    def address(self) -> str:
        return f"{self.lab.network}.{10 + self.index}"

    @property
    def namespace(self) -> str:
        return f"{self.lab.name}-{self.name}"

    @property
    def dir(self) -> Path:
        return self.lab.dir / "hosts" / self.name

    @property
    def upper(self) -> Path:
        """What this host has that the base has not."""
        return self.dir / "upper"

    @property
    def root(self) -> Path:
        """The mounted file system the host boots from."""
        return self.dir / "root"

    @property
    def console(self) -> Path:
        return self.dir / "console.log"
