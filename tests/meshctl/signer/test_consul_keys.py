"""A Consul server's key command: the key stays, and only its own certificate gets in."""

import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from signing.world import make_request

from meshctl.pki.consul import ConsulCa
from meshctl.signer import consul_keys
from proxy import chains
from proxy.keyfiles import Refused
from proxy.model.names import HostName

NAME = "server.dc1.consul"
HOST = HostName("one")


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "consul-tls"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def ca(tmp_path: Path) -> ConsulCa:
    return ConsulCa(tmp_path / "consul")


def certified(ca: ConsulCa, csr: bytes, *, datacenter: str = "dc1", at: Any = None) -> bytes:
    return ca.certify(HOST, csr, datacenter, at or now())


def test_a_key_is_made_kept_and_certified(ca: ConsulCa, folder: Path) -> None:
    csr = consul_keys.request(folder)
    assert b"PRIVATE" not in csr
    with pytest.raises(Refused, match="no certificate in force"):
        consul_keys.show(folder)
    made = certified(ca, csr)
    status = consul_keys.install(folder, NAME, made, now=now())
    assert consul_keys.show(folder) == status
    assert status["names"] == f"{NAME},localhost"
    for path in folder.rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path
    key = load_pem_private_key((folder / "current/key.pem").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert chains.matches(
        folder / "current/key.pem",
        chains.certificates((folder / "current/chain.pem").read_bytes(), "it")[0],
    )


def test_the_same_again_is_no_error_and_a_new_one_replaces_it(ca: ConsulCa, folder: Path) -> None:
    made = certified(ca, consul_keys.request(folder))
    first = consul_keys.install(folder, NAME, made, now=now())
    assert consul_keys.install(folder, NAME, made, now=now()) == first
    csr = consul_keys.request(folder)
    assert consul_keys.show(folder) == first  # in force until the new one is certified
    second = consul_keys.install(folder, NAME, certified(ca, csr), now=now())
    assert second["serial"] != first["serial"]
    assert consul_keys.show(folder) == second


REFUSED = {
    "another key": (lambda ca, csr: certified(ca, make_request()), "pending key"),
    "another name": (lambda ca, csr: certified(ca, csr, datacenter="dc2"), "not for server.dc1"),
    "of the past": (
        lambda ca, csr: certified(ca, csr, at=now() - timedelta(days=400)), "not valid now|expired"
    ),
    "two": (lambda ca, csr: certified(ca, csr) * 2, "not 2"),
    "the CA": (lambda ca, csr: ca.read((), "dc1").ca, "is a CA"),
    "nonsense": (lambda ca, csr: b"nonsense", "not a PEM"),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
def test_what_is_not_for_the_pending_key_and_name_changes_nothing(
    ca: ConsulCa, folder: Path, which: str
) -> None:
    if which == "of the past":
        ca.certify(HOST, make_request(), "dc1", now() - timedelta(days=500))  # an older CA
    before = consul_keys.install(
        folder, NAME, certified(ca, consul_keys.request(folder)), now=now()
    )
    make, why = REFUSED[which]
    data = make(ca, consul_keys.request(folder))
    with pytest.raises(Refused, match=why):
        consul_keys.install(folder, NAME, data, now=now())
    assert consul_keys.show(folder) == before


def command(folder: Path, *words: str, stdin: bytes = b"") -> Any:
    argv = (sys.executable, "-m", "meshctl.signer.consul_keys", *words)
    return subprocess.run(
        [*argv, "--directory", str(folder)], input=stdin, capture_output=True, timeout=60
    )


def test_the_command_goes_from_request_to_show_and_no_key_comes_out(
    ca: ConsulCa, folder: Path
) -> None:
    csr = command(folder, "request")
    assert csr.returncode == 0, csr.stderr
    installed = command(folder, "install", "--name", NAME, stdin=certified(ca, csr.stdout))
    assert installed.returncode == 0, installed.stderr
    shown = command(folder, "show")
    assert json.loads(shown.stdout) == json.loads(installed.stdout)
    for done in (csr, installed, shown):
        assert b"PRIVATE" not in done.stdout + done.stderr


def test_the_command_says_in_one_sentence_what_is_wrong(tmp_path: Path, folder: Path) -> None:
    done = command(tmp_path / "absent", "request")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    done = command(folder, "install", "--name", NAME, stdin=b"x" * (1 << 20))
    assert done.returncode == 1
    assert b"larger" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_makes_the_files_those_of_the_directorys_owner(folder: Path) -> None:
    other = 65534
    for parent in folder.parents[:3]:
        parent.chmod(0o755)
    os.chown(folder, other, other)
    argv = (sys.executable, "-I", "-m", "meshctl.signer.consul_keys", "request")
    done = subprocess.run([*argv, "--directory", str(folder)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    key = folder / "pending" / "key.pem"
    assert (key.stat().st_uid, stat.S_IMODE(key.stat().st_mode)) == (other, 0o600)
