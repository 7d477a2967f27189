"""The Consul to install is the one that was asked for, and the gossip key is made once."""

import base64
import hashlib
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.apply.consul_package import gossip_key, resolve
from meshctl.errors import MeshError, Refused, StateCorrupt
from meshctl.inventory.model import ConsulBinary
from meshctl.state import StateDir
from proxy.model.names import TrustDomain

PROGRAM = b"\x7fELF" + b"consul" * 100


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), datetime.now(UTC))


def archive(tmp_path: Path, member: str = "consul") -> tuple[Path, str]:
    path = tmp_path / "consul.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(member, PROGRAM)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_binary_is_taken_as_it_is(tmp_path: Path, state: StateDir) -> None:
    path = tmp_path / "consul"
    path.write_bytes(PROGRAM)
    made = resolve(ConsulBinary(binary=path), state, ())
    assert made.sha256 == hashlib.sha256(PROGRAM).hexdigest()
    assert (made.size, made.binary) == (len(PROGRAM), path)
    assert made.gossip_key not in repr(made)


def test_an_archive_is_verified_and_unpacked_once(tmp_path: Path, state: StateDir) -> None:
    path, sha256 = archive(tmp_path)
    made = resolve(ConsulBinary(archive=path, sha256=sha256), state, ())
    assert made.binary.read_bytes() == PROGRAM
    path.unlink()
    assert resolve(ConsulBinary(archive=path, sha256=sha256), state, ()) == made


def test_another_archive_is_refused(tmp_path: Path, state: StateDir) -> None:
    path, _ = archive(tmp_path)
    with pytest.raises(Refused, match="the inventory says 0000"):
        resolve(ConsulBinary(archive=path, sha256="00" * 32), state, ())


@pytest.mark.parametrize("content", ["member", "garbage"])
def test_what_is_no_release_archive_is_refused(
    tmp_path: Path, state: StateDir, content: str
) -> None:
    path, sha256 = archive(tmp_path, "other")
    if content == "garbage":
        path.write_bytes(b"not a zip")
        sha256 = hashlib.sha256(b"not a zip").hexdigest()
    with pytest.raises(Refused, match="not a release archive"):
        resolve(ConsulBinary(archive=path, sha256=sha256), state, ())


def test_what_is_no_program_is_refused(tmp_path: Path, state: StateDir) -> None:
    path = tmp_path / "consul"
    path.write_bytes(b"#!/bin/sh\n")
    with pytest.raises(Refused, match="not a program"):
        resolve(ConsulBinary(binary=path), state, ())


def test_a_missing_binary_is_named(tmp_path: Path, state: StateDir) -> None:
    with pytest.raises(MeshError, match="cannot be read"):
        resolve(ConsulBinary(binary=tmp_path / "absent"), state, ())


def test_the_gossip_key_is_made_once_and_private(state: StateDir) -> None:
    key = gossip_key(state)
    assert len(base64.b64decode(key)) == 32
    assert gossip_key(state) == key
    assert (state.path / "gossip.key").stat().st_mode & 0o777 == 0o600


def test_a_damaged_gossip_key_is_not_replaced(state: StateDir) -> None:
    (state.path / "gossip.key").write_text("garbage!")
    with pytest.raises(StateCorrupt):
        gossip_key(state)
