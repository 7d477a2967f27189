"""The key command: keys stay, only the right certificate gets in, and a crash leaves one whole."""

import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from proxy import keys
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.status import IdentityStatus

TD = TrustDomain("mesh.example")
API = ServiceName("api")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
BOTH = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
DAY = timedelta(days=1)
URI = x509.UniformResourceIdentifier


@dataclass
class Ca:
    name: str
    issuer: "Ca | None" = None
    is_ca: bool = True
    not_after: datetime = NOW + 100 * DAY

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (
            self._builder(self.name, self.key.public_key(), NOW - DAY, self.not_after, self.issuer)
            .add_extension(x509.BasicConstraints(ca=self.is_ca, path_length=None), critical=True)
            .sign((self.issuer or self).key, hashes.SHA256())
        )

    def _builder(
        self, name: str, key: Any, since: datetime, until: datetime, issuer: "Ca | None"
    ) -> x509.CertificateBuilder:
        def named(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer.name if issuer else self.name))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        csr: bytes,
        *,
        names: tuple[Any, ...] = (URI("spiffe://mesh.example/svc/api"),),
        usages: tuple[Any, ...] = BOTH,
        is_ca: bool = False,
        since: datetime = NOW - timedelta(minutes=1),
        until: datetime = NOW + DAY,
        key: Any = None,
    ) -> bytes:
        public = key or x509.load_pem_x509_csr(csr).public_key()
        builder = self._builder("leaf", public, since, until, self)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if is_ca:
            constraints = x509.BasicConstraints(ca=True, path_length=None)
            builder = builder.add_extension(constraints, critical=True)
        leaf = builder.sign(self.key, hashes.SHA256())
        return leaf.public_bytes(serialization.Encoding.PEM)


ROOT = Ca("root")
ISSUER = Ca("issuing", ROOT)
STRANGER = Ca("root")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


def install(state: Path, chain: bytes, bundle: bytes = ROOT.pem) -> IdentityStatus:
    return keys.install(state, API, TD, bundle, chain, now=NOW)


def renewed(state: Path) -> IdentityStatus:
    return install(state, ISSUER.issue(keys.request(state, API, TD)) + ISSUER.pem)


def tree(state: Path) -> dict[str, str]:
    """Everything below, as mode, and target or content."""
    found = {}
    for path in sorted(state.rglob("*")):
        mode = oct(stat.S_IMODE(path.lstat().st_mode))
        what = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else path.read_text()
        found[str(path.relative_to(state))] = f"{mode} {what}"
    return found


def test_a_request_leaves_the_key_here_and_says_who_asks(state: Path) -> None:
    csr = x509.load_pem_x509_csr(keys.request(state, API, TD))
    assert csr.is_signature_valid
    assert isinstance(csr.public_key(), ec.EllipticCurvePublicKey)
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(URI) == ["spiffe://mesh.example/svc/api"]
    pending = state / "identities" / "api" / "pending"
    key = serialization.load_pem_private_key((pending / "key.pem").read_bytes(), None)
    assert key.public_key() == csr.public_key()


def test_a_second_request_makes_a_new_key(state: Path) -> None:
    first, second = (x509.load_pem_x509_csr(keys.request(state, API, TD)) for _ in range(2))
    assert first.public_key() != second.public_key()
    with pytest.raises(keys.Refused, match="not for the pending key"):
        install(state, ISSUER.issue(first.public_bytes(serialization.Encoding.PEM)) + ISSUER.pem)


def test_modes_are_tight_whatever_the_umask(state: Path) -> None:
    before = os.umask(0)
    try:
        status = renewed(state)
    finally:
        os.umask(before)
    modes = {name: entry.split()[0] for name, entry in tree(state).items()}
    serial = status.serial
    assert modes == {
        "identities": "0o700",
        "identities/api": "0o700",
        "identities/api/current": "0o777",
        f"identities/api/{serial}": "0o700",
        f"identities/api/{serial}/key.pem": "0o600",
        f"identities/api/{serial}/chain.pem": "0o600",
    }
    assert os.readlink(state / "identities" / "api" / "current") == serial


def test_the_status_says_what_is_in_force(state: Path) -> None:
    status = renewed(state)
    assert status.spiffe_id == "spiffe://mesh.example/svc/api"
    assert (status.not_before, status.not_after) == ("2029-12-31T23:59:00Z", "2030-01-02T00:00:00Z")
    assert not status.serial.startswith("0")
    assert int(status.serial, 16) > 0
    assert keys.show(state) == (keys.Shown(service="api", identity=status, error=""),)


def test_the_one_before_is_kept_and_no_other(state: Path) -> None:
    serials = [renewed(state).serial for _ in range(3)]
    directories = {entry.name for entry in (state / "identities" / "api").iterdir()}
    assert directories == {*serials[1:], "current"}


def test_installing_the_same_again_changes_nothing(state: Path) -> None:
    chain = ISSUER.issue(keys.request(state, API, TD)) + ISSUER.pem
    first = install(state, chain)
    before = tree(state)
    assert install(state, chain) == first
    assert tree(state) == before


def test_a_leaf_straight_from_the_root_is_good(state: Path) -> None:
    install(state, ROOT.issue(keys.request(state, API, TD)))


def test_one_of_several_roots_is_enough(state: Path) -> None:
    csr = keys.request(state, API, TD)
    install(state, ISSUER.issue(csr) + ISSUER.pem, STRANGER.pem + ROOT.pem)


def other_name(*names: Any) -> Any:
    return lambda csr: ISSUER.issue(csr, names=names) + ISSUER.pem


OLD_ISSUER = Ca("issuing", ROOT, not_after=NOW - timedelta(hours=1))
NOT_A_CA = Ca("server", ROOT, is_ca=False)
ALIEN_ISSUER = Ca("issuing", STRANGER)
BAD = {
    "another service": (other_name(URI("spiffe://mesh.example/svc/web")), "is for spiffe://"),
    "another trust domain": (other_name(URI("spiffe://evil.example/svc/api")), "is for spiffe://"),
    "a longer path": (other_name(URI("spiffe://mesh.example/svc/api/x")), "is for spiffe://"),
    "two URIs": (
        other_name(URI("spiffe://mesh.example/svc/api"), URI("spiffe://mesh.example/svc/web")),
        "exactly one name",
    ),
    "a DNS name too": (
        other_name(URI("spiffe://mesh.example/svc/api"), x509.DNSName("api.mesh.example")),
        "exactly one name",
    ),
    "a DNS name that reads like one": (
        other_name(x509.DNSName("spiffe://mesh.example/svc/api")),
        "not a URI",
    ),
    "no name": (lambda csr: ISSUER.issue(csr, names=()) + ISSUER.pem, "exactly one name"),
    "a CA": (lambda csr: ISSUER.issue(csr, is_ca=True) + ISSUER.pem, "a CA's"),
    "one usage": (lambda csr: ISSUER.issue(csr, usages=BOTH[:1]) + ISSUER.pem, "usages"),
    "no usage": (lambda csr: ISSUER.issue(csr, usages=()) + ISSUER.pem, "usages"),
    "expired": (
        lambda csr: (
            ISSUER.issue(csr, since=NOW - DAY, until=NOW - timedelta(seconds=1)) + ISSUER.pem
        ),
        "expired at",
    ),
    "not yet valid": (
        lambda csr: ISSUER.issue(csr, since=NOW + timedelta(minutes=1)) + ISSUER.pem,
        "clock",
    ),
    "another key": (
        lambda csr: (
            ISSUER.issue(csr, key=ec.generate_private_key(ec.SECP256R1()).public_key()) + ISSUER.pem
        ),
        "not for the pending key",
    ),
    "the issuer missing": (ISSUER.issue, "does not lead"),
    "the wrong order": (lambda csr: ISSUER.pem + ISSUER.issue(csr), "name"),
    "another root of the same name": (
        lambda csr: ALIEN_ISSUER.issue(csr) + ALIEN_ISSUER.pem,
        "does not lead",
    ),
    "another issuer of the same name": (
        lambda csr: ALIEN_ISSUER.issue(csr) + ISSUER.pem,
        "not in order",
    ),
    "an expired issuer": (lambda csr: OLD_ISSUER.issue(csr) + OLD_ISSUER.pem, "expired at"),
    "an issuer that is no CA": (lambda csr: NOT_A_CA.issue(csr) + NOT_A_CA.pem, "not in order"),
    "a truncated file": (lambda csr: (ISSUER.issue(csr) + ISSUER.pem)[:-60], "truncated"),
    "nothing": (lambda csr: b"", "truncated"),
    "too long a chain": (lambda csr: ISSUER.issue(csr) + ISSUER.pem * 5, "more than 5"),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD)
def test_anything_else_is_refused_and_changes_nothing(state: Path, make: Any, reason: str) -> None:
    renewed(state)
    csr = keys.request(state, API, TD)
    before = tree(state)
    with pytest.raises(keys.Refused, match=reason):
        install(state, make(csr))
    assert tree(state) == before


def test_a_certificate_without_a_request_is_refused(state: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    chain = ISSUER.issue(keys.request(tmp_path / "elsewhere", API, TD)) + ISSUER.pem
    with pytest.raises(keys.Refused, match="run `request` first"):
        install(state, chain)


@pytest.mark.parametrize("step", range(12))
def test_a_crash_at_any_step_leaves_one_whole_identity_and_a_second_run_converges(
    state: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = renewed(state)
    chain = ISSUER.issue(keys.request(state, API, TD)) + ISSUER.pem
    count = 0

    def crashing(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > step:
                raise OSError(5, "crash")
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "symlink_to"), (Path, "rmdir")):
            patch.setattr(owner, name, crashing(getattr(owner, name)))
        try:
            install(state, chain)
        except OSError:
            (shown,) = keys.show(state)
            assert shown.error == ""
    new = install(state, chain)
    assert new.serial != old.serial
    assert keys.inspect(state, API, TD) == new
    assert {entry.name for entry in (state / "identities" / "api").iterdir()} <= {
        old.serial,
        new.serial,
        "current",
        "pending",
    }


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("chain.pem", b"", "truncated or corrupt"),
        ("chain.pem", b"-----BEGIN CERTIFICATE-----\nMIIB", "truncated or corrupt"),
        ("key.pem", b"garbage", "truncated or corrupt"),
        ("key.pem", None, "cannot be read"),
        ("key.pem", b"x" * 300_000, "larger"),
    ],
)
def test_a_damaged_identity_is_shown_as_such(
    state: Path, file: str, content: bytes | None, reason: str
) -> None:
    renewed(state)
    path = state / "identities" / "api" / "current" / file
    path.unlink() if content is None else path.write_bytes(content)
    (shown,) = keys.show(state)
    assert shown.identity is None
    assert reason in shown.error


def test_a_pending_one_alone_is_no_identity(state: Path) -> None:
    keys.request(state, API, TD)
    (shown,) = keys.show(state)
    assert shown == keys.Shown(
        service="api", identity=None, error="api has no certificate in force"
    )


def test_two_at_once_are_refused(state: Path) -> None:
    with keys._locked(state, API), pytest.raises(keys.Refused, match="being changed right now"):
        keys.request(state, API, TD)


def test_a_planted_link_is_not_followed(state: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    (state / "identities").symlink_to(target)
    with pytest.raises(keys.Refused, match="not a directory"):
        keys.request(state, API, TD)
    assert list(target.iterdir()) == []


def run(*argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "proxy.keys", *argv], input=stdin, capture_output=True, check=False
    )


NAMED = ("--service", "api", "--trust-domain", "mesh.example")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_run_by_root_everything_belongs_to_the_owner_of_the_state(state: Path) -> None:
    for path in (state, *state.parents):  # pytest's own directories are root's alone
        if stat.S_IMODE(path.stat().st_mode) & 0o005 != 0o005:
            path.chmod(0o755)
    os.chown(state, 4711, 4712)
    now = datetime.now(UTC)
    root = Ca("live")
    root.certificate = (
        root._builder("live", root.key.public_key(), now - DAY, now + DAY, None)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    bundle = state.parent / "bundle.pem"
    bundle.write_bytes(root.pem)
    bundle.chmod(0o600)
    asked = run("request", "--state-dir", str(state), *NAMED)
    assert (asked.returncode, asked.stderr) == (0, b"")
    chain = root.issue(asked.stdout, since=now - timedelta(minutes=1), until=now + DAY / 2)
    done = run(
        "install", "--state-dir", str(state), *NAMED, "--trust-bundle", str(bundle), stdin=chain
    )
    assert (done.returncode, done.stderr) == (0, b"")
    status = msgspec.json.decode(done.stdout, type=IdentityStatus)
    shown = run("show", "--state-dir", str(state))
    assert msgspec.json.decode(shown.stdout, type=list[keys.Shown]) == [
        keys.Shown(service="api", identity=status, error="")
    ]
    owners = {(p.lstat().st_uid, p.lstat().st_gid) for p in (state / "identities").rglob("*")}
    assert owners == {(4711, 4712)}


def test_a_refusal_is_one_sentence_and_code_one(state: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(ROOT.pem)
    argv = ("install", "--state-dir", str(state), *NAMED, "--trust-bundle")
    for done in (
        run(*argv, str(bundle), stdin=b"rubbish"),
        run(*argv, str(tmp_path / "gone"), stdin=b"rubbish"),
        run("request", "--state-dir", str(tmp_path / "gone"), *NAMED),
    ):
        assert done.returncode == 1
        assert done.stdout == b""
        assert done.stderr.count(b"\n") == 1
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("service", ["../api", "API", "", "a/b"])
def test_a_name_that_is_none_is_wrong_usage(state: Path, service: str) -> None:
    with pytest.raises(SystemExit) as error:
        keys.main(
            ["request", "--state-dir", str(state), "--service", service, "--trust-domain", TD]
        )
    assert error.value.code == 2
