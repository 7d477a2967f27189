"""The Consul that ``managed`` installs: verified, unpacked once, with the cluster's gossip key."""

import base64
import hashlib
import secrets
import zipfile
from collections.abc import Collection
from pathlib import Path

from meshctl import durable
from meshctl.apply.consul_tokens import ConsulTokens
from meshctl.artifacts import ManagedConsul
from meshctl.errors import MeshError, Refused, StateCorrupt
from meshctl.inventory.model import ConsulBinary
from meshctl.state import StateDir
from proxy.model.names import HostName

GOSSIP_KEY = "gossip.key"
_KEY_BYTES = 32
"""AES-256, what `consul keygen` makes."""
_MEMBER = "consul"
_MAX_BYTES = 512 * 1024 * 1024
"""Consul is 100 to 200 MB."""


def resolve(package: ConsulBinary, state: StateDir, hosts: Collection[HostName]) -> ManagedConsul:
    """Blocking. ``hosts``: all of the mesh.

    Raises Refused when the archive is not the one with the given hash.
    """
    binary = package.binary
    if binary is None:
        assert package.archive is not None, "the inventory has exactly one of the two"
        binary = _unpacked(package.archive, package.sha256 or "", state)
    sha256, size = _digest(binary)
    with binary.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            raise Refused(
                f"{binary} is not a program for Linux",
                hint="correct consul.package in the inventory",
            )
    return ManagedConsul(
        binary=binary,
        sha256=sha256,
        size=size,
        gossip_key=gossip_key(state),
        acl=ConsulTokens.of(state).read(hosts),
    )


def gossip_key(state: StateDir) -> str:
    """Made at the first use, then kept: 0600 in the state directory, never shown."""
    path = state.path / GOSSIP_KEY
    try:
        text = durable.read(path, limit=200).decode("ascii", "replace").strip()
    except FileNotFoundError:
        text = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
        durable.create(path, text.encode() + b"\n", mode=0o600)
    try:
        is_key = len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except ValueError:
        is_key = False
    if not is_key:
        raise StateCorrupt(
            f"{path} is not a gossip key",
            hint="restore it from a backup; its value is also in /etc/meshctl/consul.json of each"
            " host, under encrypt",
        )
    return text


def _unpacked(archive: Path, sha256: str, state: StateDir) -> Path:
    place = state.cache / "consul" / sha256 / _MEMBER
    if place.exists():
        return place
    found, _ = _digest(archive)
    if found != sha256:
        raise Refused(
            f"{archive} has SHA-256 {found}, the inventory says {sha256}",
            hint="download it again, and compare with the SHA256SUMS file of its release",
        )
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            if opened.getinfo(_MEMBER).file_size > _MAX_BYTES:
                raise Refused(f"{_MEMBER} in {archive} is larger than {_MAX_BYTES} bytes")
            durable.write(place, opened.read(_MEMBER), mode=0o700)
    except (zipfile.BadZipFile, KeyError) as error:
        raise Refused(
            f"{archive} is not a release archive of Consul",
            hint="it is a zip file with one program called consul",
        ) from error
    return place


def _digest(path: Path) -> tuple[str, int]:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    except OSError as error:
        raise MeshError(
            f"{path} cannot be read: {error.strerror}", hint="correct consul.package"
        ) from error
