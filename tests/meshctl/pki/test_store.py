"""The CA on disk: whole or absent, private, and suspicious of itself."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshctl import durable
from meshctl.errors import MeshError, Refused, StateCorrupt
from meshctl.pki import keyfile
from meshctl.pki.authority import create_root, pem
from meshctl.pki.issued import IssuedLog
from meshctl.pki.passphrase import Passphrase, Source
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.pki.store import CaStore
from meshctl.state import StateDir
from proxy.model.names import HostName, ServiceName, TrustDomain

TD = TrustDomain("mesh.internal")
HOST = HostName("web-1")
WEB = ServiceName("web")
RECORD = DeployRecord(hosts={HOST: HostRecord(services=(WEB,))})
SECRET = Passphrase(b"correct horse")


def known() -> Passphrase:
    return SECRET


def never() -> Passphrase:
    raise AssertionError("the passphrase was asked for")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "_N", 16)  # Deriving keys is slow on purpose.


@pytest.fixture
def state(tmp_path: Path, now: datetime) -> StateDir:
    return StateDir.create(tmp_path / ".meshctl", TD, now)


@pytest.fixture
def ca(state: StateDir, now: datetime) -> CaStore:
    return CaStore.create(state, None, now)


def issue(ca: CaStore, csr: bytes, now: datetime, source: Source = never) -> Any:
    return ca.unlock(source).issue(csr, record=RECORD, host=HOST, service=WEB, now=now)


class TestCreate:
    def test_makes_private_files_in_a_private_folder(self, ca: CaStore) -> None:
        assert {path.name: path.stat().st_mode & 0o777 for path in ca.folder.iterdir()} == (
            dict.fromkeys(
                [
                    *("root.pem", "root.key", "issuing.pem", "issuing.key", "trust-bundle.pem"),
                    *("policy.key", "policy.pub"),
                ],
                0o600,
            )
        )
        assert ca.folder.stat().st_mode & 0o777 == 0o700

    def test_never_overwrites(self, state: StateDir, ca: CaStore, now: datetime) -> None:
        before = (ca.folder / "root.key").read_bytes()
        with pytest.raises(Refused, match="never overwritten") as caught:
            CaStore.create(state, None, now)
        assert caught.value.hint == f"to begin anew, move it away first: mv {state.path} " + (
            f"{state.path}.old"
        )
        assert (ca.folder / "root.key").read_bytes() == before

    def test_a_failure_leaves_nothing(
        self, state: StateDir, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = sorted(os.listdir(state.path))
        for failing in range(5):
            calls = 0

            def write(
                path: Path,
                data: bytes,
                mode: int = 0o600,
                real: Callable[..., None] = durable.write,
                at: int = failing,
            ) -> None:
                nonlocal calls
                if calls == at:
                    raise MeshError("full")
                calls += 1
                real(path, data, mode=mode)

            with monkeypatch.context() as patch:
                patch.setattr(durable, "write", write)
                with pytest.raises(MeshError, match="full"):
                    CaStore.create(state, None, now)
            assert sorted(os.listdir(state.path)) == names

    def test_encrypts_both_keys(self, state: StateDir, now: datetime) -> None:
        ca = CaStore.create(state, SECRET, now)
        assert ca.is_encrypted
        for name in ("root.key", "issuing.key"):
            text = (ca.folder / name).read_text()
            assert text.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        everything = b"".join(path.read_bytes() for path in state.path.rglob("*") if path.is_file())
        assert b"BEGIN PRIVATE KEY" not in everything
        assert b"BEGIN EC PRIVATE KEY" not in everything
        assert SECRET.reveal() not in everything

    def test_without_a_passphrase_says_so(self, ca: CaStore) -> None:
        assert not ca.is_encrypted


class TestOpen:
    def test_reads_what_was_made(self, state: StateDir, ca: CaStore) -> None:
        assert CaStore.open(state) == ca
        assert ca.trust_bundle == (ca.root,)
        assert ca.trust_bundle_pem == pem(ca.root)
        assert len(ca.root_fingerprint) == 64

    def test_needs_no_passphrase(self, state: StateDir, now: datetime) -> None:
        CaStore.create(state, SECRET, now)
        assert CaStore.open(state).trust_domain == TD

    def test_of_nothing_is_corrupt(self, state: StateDir) -> None:
        with pytest.raises(StateCorrupt, match="there is no CA"):
            CaStore.open(state)

    @pytest.mark.parametrize(
        "name", ["root.pem", "root.key", "issuing.pem", "issuing.key", "trust-bundle.pem"]
    )
    def test_missing_file_is_named(self, state: StateDir, ca: CaStore, name: str) -> None:
        (ca.folder / name).unlink()
        with pytest.raises(StateCorrupt, match=f"{name} is missing") as caught:
            CaStore.open(state)
        assert "restore" in caught.value.hint

    @pytest.mark.parametrize("name", ["root.pem", "issuing.pem", "trust-bundle.pem"])
    def test_every_truncation_of_a_certificate_is_corrupt(
        self, state: StateDir, ca: CaStore, name: str
    ) -> None:
        whole = (ca.folder / name).read_bytes()
        for length in range(0, len(whole) - 2, 13):
            (ca.folder / name).write_bytes(whole[:length])
            with pytest.raises(StateCorrupt, match=name):
                CaStore.open(state)

    def test_truncated_second_root_is_corrupt(
        self, state: StateDir, ca: CaStore, now: datetime
    ) -> None:
        both = pem(ca.root, create_root(TD, now).certificate)
        for length in range(len(pem(ca.root)) + 6, len(both) - 2, 29):
            (ca.folder / "trust-bundle.pem").write_bytes(both[:length])
            with pytest.raises(StateCorrupt, match=r"trust-bundle\.pem"):
                CaStore.open(state)

    @pytest.mark.parametrize("name", ["root.key", "issuing.key"])
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
    def test_readable_key_is_refused(
        self, state: StateDir, ca: CaStore, name: str, mode: int
    ) -> None:
        (ca.folder / name).chmod(mode)
        with pytest.raises(Refused, match="open to other users") as caught:
            CaStore.open(state)
        assert caught.value.hint == f"chmod 600 {ca.folder / name}"

    def test_bundle_may_hold_several_roots(
        self, state: StateDir, ca: CaStore, now: datetime
    ) -> None:
        other = create_root(TD, now).certificate
        (ca.folder / "trust-bundle.pem").write_bytes(pem(other, ca.root))
        assert CaStore.open(state).trust_bundle == (other, ca.root)

    def test_bundle_without_the_root_is_corrupt(
        self, state: StateDir, ca: CaStore, now: datetime
    ) -> None:
        (ca.folder / "trust-bundle.pem").write_bytes(pem(create_root(TD, now).certificate))
        with pytest.raises(StateCorrupt, match=r"does not contain root\.pem"):
            CaStore.open(state)

    def test_root_of_another_mesh_is_corrupt(
        self, state: StateDir, ca: CaStore, now: datetime
    ) -> None:
        other = create_root(TrustDomain("other.internal"), now).certificate
        (ca.folder / "root.pem").write_bytes(pem(other))
        with pytest.raises(StateCorrupt, match=r"of the mesh other\.internal"):
            CaStore.open(state)

    def test_issuing_of_another_root_is_corrupt(
        self, state: StateDir, ca: CaStore, now: datetime
    ) -> None:
        other = create_root(TD, now).certificate
        (ca.folder / "root.pem").write_bytes(pem(other))
        (ca.folder / "trust-bundle.pem").write_bytes(pem(other))
        with pytest.raises(StateCorrupt, match=r"not issued by root\.pem"):
            CaStore.open(state)

    def test_two_certificates_where_one_belongs_is_corrupt(
        self, state: StateDir, ca: CaStore
    ) -> None:
        (ca.folder / "issuing.pem").write_bytes(pem(ca.issuing, ca.root))
        with pytest.raises(StateCorrupt, match="holds 2 certificates"):
            CaStore.open(state)


class TestUnlock:
    def test_asks_only_if_encrypted(self, ca: CaStore, csr: bytes, now: datetime) -> None:
        assert issue(ca, csr, now, never).service == WEB

    def test_with_the_passphrase_signs(self, state: StateDir, csr: bytes, now: datetime) -> None:
        ca = CaStore.create(state, SECRET, now)
        leaf = issue(ca, csr, now, known)
        leaf.certificate.verify_directly_issued_by(ca.issuing)

    def test_wrong_passphrase_is_refused(self, state: StateDir, now: datetime) -> None:
        ca = CaStore.create(state, SECRET, now)
        with pytest.raises(Refused, match="does not open"):
            ca.unlock(lambda: Passphrase(b"wrong"))

    def test_key_of_another_ca_is_corrupt(self, ca: CaStore) -> None:
        other = keyfile.to_pem(ec.generate_private_key(ec.SECP256R1()), None)
        (ca.folder / "issuing.key").write_bytes(other)
        with pytest.raises(StateCorrupt, match=r"issuing\.key is not the key of"):
            ca.unlock(never)

    def test_truncated_key_is_corrupt(self, ca: CaStore) -> None:
        file = ca.folder / "issuing.key"
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(StateCorrupt, match=r"issuing\.key is damaged"):
            ca.unlock(never)

    def test_key_opened_to_others_meanwhile_is_refused(self, ca: CaStore) -> None:
        (ca.folder / "issuing.key").chmod(0o644)
        with pytest.raises(Refused, match="open to other users"):
            ca.unlock(never)

    def test_works_without_the_root_key(self, ca: CaStore, csr: bytes, now: datetime) -> None:
        (ca.folder / "root.key").write_text("")
        assert issue(ca, csr, now).spiffe_id == "spiffe://mesh.internal/svc/web"

    def test_signer_does_not_show_the_key(self, ca: CaStore) -> None:
        assert "Issuer" not in repr(ca.unlock(never))


class TestIssued:
    def test_each_leaf_is_written_down(self, ca: CaStore, csr: bytes, now: datetime) -> None:
        leaves = [issue(ca, csr, now) for _ in range(3)]
        reading = ca.issued.newest()
        assert [entry.serial for entry in reading.entries] == [leaf.serial for leaf in leaves]
        entry = reading.entries[0]
        assert (entry.host, entry.spiffe_id) == (HOST, "spiffe://mesh.internal/svc/web")
        assert entry.not_after == f"{now + timedelta(days=30):%Y-%m-%dT%H:%M:%SZ}"
        assert entry.at == f"{now:%Y-%m-%dT%H:%M:%SZ}"
        assert ca.issued.path.stat().st_mode & 0o777 == 0o600

    def test_a_refusal_is_not(self, ca: CaStore, csr: bytes, now: datetime) -> None:
        with pytest.raises(Refused):
            ca.unlock(never).issue(csr, record=DeployRecord(), host=HOST, service=WEB, now=now)
        assert ca.issued.newest().entries == ()

    def test_without_a_record_no_leaf_is_handed_out(
        self, ca: CaStore, csr: bytes, now: datetime
    ) -> None:
        ca.issued.path.mkdir()
        with pytest.raises(MeshError, match=r"issued\.jsonl cannot be written"):
            issue(ca, csr, now)

    def test_a_line_cut_by_a_crash_costs_only_itself(
        self, ca: CaStore, csr: bytes, now: datetime
    ) -> None:
        issue(ca, csr, now)
        with ca.issued.path.open("ab") as file:
            file.write(b'{"serial": "12')
        last = issue(ca, csr, now)
        reading = ca.issued.newest()
        assert len(reading.entries) == 2
        assert reading.entries[-1].serial == last.serial
        assert reading.damaged_lines == 1

    def test_reading_is_bounded(
        self, tmp_path: Path, ca: CaStore, csr: bytes, now: datetime
    ) -> None:
        issue(ca, csr, now)
        line = ca.issued.path.read_bytes()
        log = IssuedLog(tmp_path / "long.jsonl")
        log.path.write_bytes(line * (5 * 1024 * 1024 // len(line)))
        assert len(log.newest(10).entries) == 10
        everything = log.newest(10**9)
        assert len(everything.entries) * len(line) <= 4 * 1024 * 1024
        assert everything.damaged_lines == 0


class TestRenewIssuing:
    later = timedelta(days=400)

    def test_ended_issuing_ca_signs_nothing_and_says_what_to_do(
        self, ca: CaStore, csr: bytes, now: datetime
    ) -> None:
        with pytest.raises(Refused, match="issuing CA ended") as caught:
            issue(ca, csr, now + self.later)
        assert caught.value.hint == "meshctl init --renew-issuing"

    def test_makes_one_under_the_same_root(
        self, state: StateDir, ca: CaStore, csr: bytes, now: datetime
    ) -> None:
        renewed = ca.renew_issuing(never, now + self.later)
        assert renewed == CaStore.open(state)
        assert renewed.root == ca.root
        assert renewed.issuing != ca.issuing
        assert issue(renewed, csr, now + self.later).issuing == renewed.issuing
        assert [name for name in os.listdir(ca.folder) if "next" in name] == []

    def test_keeps_the_encryption_and_asks_once(
        self, state: StateDir, csr: bytes, now: datetime
    ) -> None:
        asked = []

        def source() -> Passphrase:
            asked.append(1)
            return SECRET

        renewed = CaStore.create(state, SECRET, now).renew_issuing(source, now)
        assert asked == [1]
        assert renewed.is_encrypted
        assert issue(renewed, csr, now, known)

    def test_cut_at_any_point_leaves_a_ca_that_signs(
        self, state: StateDir, csr: bytes, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backup = state.path.parent / "backup"
        CaStore.create(state, None, now)
        shutil.copytree(state.path, backup)

        class Killed(BaseException):
            pass

        for cut in range(1, 20):
            shutil.rmtree(state.path)
            shutil.copytree(backup, state.path)
            count = 0

            def flush(descriptor: int, at: int = cut, real: Any = os.fsync) -> None:
                nonlocal count
                count += 1
                if count == at:
                    raise Killed
                real(descriptor)

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", flush)
                try:
                    CaStore.open(state).renew_issuing(never, now)
                    is_complete = True
                except Killed:
                    is_complete = False
            leaf = issue(CaStore.open(state), csr, now)
            leaf.certificate.verify_directly_issued_by(leaf.issuing)
            leaf.issuing.verify_directly_issued_by(CaStore.open(state).root)
            assert CaStore.open(state).issuing == leaf.issuing
            if is_complete:
                assert cut > 4
                return
        raise AssertionError("it never completed")

    def test_needs_the_right_root_key(self, ca: CaStore, now: datetime) -> None:
        other = keyfile.to_pem(ec.generate_private_key(ec.SECP256R1()), None)
        (ca.folder / "root.key").write_bytes(other)
        with pytest.raises(StateCorrupt, match=r"root\.key is not the key of"):
            ca.renew_issuing(never, now)


def test_no_leaf_key_is_ever_on_this_side(
    state: StateDir, ca: CaStore, csr: bytes, now: datetime
) -> None:
    issue(ca, csr, now)
    keys = [
        path.name
        for path in state.path.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    ]
    assert sorted(keys) == ["issuing.key", "policy.key", "root.key"]
    assert isinstance(ca.root, x509.Certificate)
    assert now.tzinfo is UTC
