"""The signer's key command: the key stays, and only the right CA certificate gets in."""

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from signing.world import DOMAIN, World, make_request

from meshctl.pki import authority
from meshctl.signer import keys
from meshctl.signer.settings import CaStatus, ShownCa
from proxy.keyfiles import Refused
from proxy.model import codec
from proxy.model.names import TrustDomain


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def certified(world: World, csr: bytes, **more: Any) -> bytes:
    return authority.pem(authority.certify_signer(world.root, csr, now(), **more))


def test_a_key_is_made_kept_and_certified(world: World, state: Path) -> None:
    csr = keys.request(state, DOMAIN)
    assert keys.show(state) == ShownCa(signer=None, error="no certificate in force")

    status = keys.install(
        state, DOMAIN, world.bundle.read_bytes(), certified(world, csr), now=now()
    )

    assert keys.show(state) == ShownCa(signer=status, error="")
    assert keys.load(state, DOMAIN).trust_domain == DOMAIN
    identifier = authority.x509.SubjectKeyIdentifier.from_public_key(world.root.key.public_key())
    assert status.issuer_key_id == identifier.digest.hex()
    for path in (state / keys.FOLDER).rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path


def test_the_same_again_is_no_error_and_a_new_one_replaces_it(world: World, state: Path) -> None:
    bundle = world.bundle.read_bytes()
    chain = certified(world, keys.request(state, DOMAIN))
    first = keys.install(state, DOMAIN, bundle, chain, now=now())
    assert keys.install(state, DOMAIN, bundle, chain, now=now()) == first

    csr = keys.request(state, DOMAIN)
    assert keys.show(state).signer == first  # in force until the new one is certified
    second = keys.install(state, DOMAIN, bundle, certified(world, csr), now=now())

    assert second.serial != first.serial
    assert keys.show(state).signer == second


def another_key(world: World, csr: bytes) -> bytes:
    return certified(world, make_request())


def another_root(world: World, csr: bytes) -> bytes:
    return authority.pem(authority.certify_signer(authority.create_root(DOMAIN, now()), csr, now()))


def another_domain(world: World, csr: bytes) -> bytes:
    other = authority.create_root(TrustDomain("other.test"), now())
    return authority.pem(authority.certify_signer(other, csr, now()))


def a_root(world: World, csr: bytes) -> bytes:
    return authority.pem(world.root.certificate)


def a_leaf(world: World, csr: bytes) -> bytes:
    return (
        world.leaf(key=ec.generate_private_key(ec.SECP256R1()))
        .read_bytes()
        .partition(b"-----END PRIVATE KEY-----\n")[2]
    )


def ended(world: World, csr: bytes) -> bytes:
    return certified(world, csr, life_s=-1)


def garbage(world: World, csr: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\nx"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (another_key, "not for the pending key"),
        (another_root, "does not lead to a certificate of the trust bundle"),
        (another_domain, "for the trust domain other.test"),
        (a_root, "path length 0"),
        (a_leaf, "not a CA's"),
        (ended, "expired"),
        (garbage, "not a PEM certificate"),
    ],
)
def test_what_is_not_the_certificate_that_was_asked_for_changes_nothing(
    world: World, state: Path, make: Any, reason: str
) -> None:
    csr = keys.request(state, DOMAIN)

    with pytest.raises(Refused, match=reason):
        keys.install(state, DOMAIN, world.bundle.read_bytes(), make(world, csr), now=now())

    assert keys.show(state).signer is None


def test_without_a_request_nothing_is_installed(world: World, state: Path) -> None:
    with pytest.raises(Refused, match="run `request` first"):
        keys.install(
            state, DOMAIN, world.bundle.read_bytes(), certified(world, make_request()), now=now()
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_as_root_the_command_works_as_the_owner_of_the_state(world: World, tmp_path: Path) -> None:
    state = Path("/tmp") / f"signer-{os.getpid()}"
    state.mkdir(mode=0o700)
    os.chown(state, 65534, 65534)
    try:

        def run(verb: str, *more: str, stdin: bytes = b"") -> bytes:
            command = [sys.executable, "-I", "-m", "meshctl.signer.keys", verb]
            done = subprocess.run(
                [*command, "--state-dir", str(state), *more],
                input=stdin, capture_output=True, timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        domain = ("--trust-domain", DOMAIN)
        csr = run("request", *domain)
        chain = certified(world, csr)
        out = run("install", *domain, "--trust-bundle", str(world.bundle), stdin=chain)
        status = codec.decode(out, CaStatus)
        assert codec.decode(run("show"), ShownCa) == ShownCa(signer=status, error="")
        owners = {path.lstat().st_uid for path in state.rglob("*")}
        assert owners == {65534}
    finally:
        subprocess.run(["rm", "-r", str(state)], check=True)
