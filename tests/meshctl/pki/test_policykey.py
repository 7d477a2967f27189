"""The key that policy is signed with, on the operator's disk."""

from datetime import datetime
from pathlib import Path

import pytest

from meshctl.errors import Refused, StateCorrupt
from meshctl.pki import keyfile, policykey, signing
from meshctl.pki.passphrase import Passphrase, once
from meshctl.pki.policykey import KEY, PUBLIC, PolicyKey
from meshctl.pki.store import CaStore
from meshctl.state import StateDir
from proxy.core.verification import Unverified, verified
from proxy.model.names import TrustDomain
from proxy.model.signed import Kind

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
    return StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), now)


@pytest.fixture
def ca(state: StateDir, now: datetime) -> CaStore:
    return CaStore.create(state, None, now)


@pytest.fixture
def locked(state: StateDir, now: datetime) -> CaStore:
    return CaStore.create(state, SECRET, now)


def test_what_it_seals_the_proxies_verify(ca: CaStore) -> None:
    key = policykey.unlock(ca.folder, never)
    sealed = key.seal(Kind.POLICY, b"content")
    assert verified(Kind.POLICY, sealed, policykey.trust(ca.folder)) == b"content"
    with pytest.raises(Unverified):
        verified(Kind.POLICY, sealed, PolicyKey.generate().trust)


def test_it_is_under_the_passphrase_of_the_ca_and_its_public_half_is_not(locked: CaStore) -> None:
    assert b"ENCRYPTED" in (locked.folder / KEY).read_bytes()
    assert policykey.read_public(locked.folder) == policykey.unlock(locked.folder, known).public
    with pytest.raises(Refused, match="does not open"):
        policykey.unlock(locked.folder, lambda: Passphrase(b"wrong"))


def test_nothing_of_it_shows(ca: CaStore, state: StateDir) -> None:
    key = policykey.unlock(ca.folder, never)
    assert repr(key) == "PolicyKey()"
    assert "Ed25519" not in repr(signing.Signing(state=state, key=key))


def test_a_mesh_from_before_gets_one_and_keeps_it(ca: CaStore) -> None:
    (ca.folder / KEY).unlink()
    (ca.folder / PUBLIC).unlink()
    assert policykey.trust(ca.folder).keys == {}
    assert signing.make_missing_key(ca, never)
    made = policykey.read_public(ca.folder)
    assert made is not None
    assert (ca.folder / KEY).stat().st_mode & 0o777 == 0o600
    assert not signing.make_missing_key(ca, never)
    assert policykey.read_public(ca.folder) == made


def test_a_new_one_is_not_put_under_a_mistyped_passphrase(locked: CaStore) -> None:
    (locked.folder / KEY).unlink()
    (locked.folder / PUBLIC).unlink()
    with pytest.raises(Refused, match="does not open"):
        signing.make_missing_key(locked, lambda: Passphrase(b"corect horse"))
    assert not (locked.folder / KEY).exists()
    assert signing.make_missing_key(locked, known)
    assert policykey.unlock(locked.folder, known)


def test_a_making_that_was_cut_is_begun_again(ca: CaStore) -> None:
    (ca.folder / PUBLIC).unlink()
    assert signing.make_missing_key(ca, never)
    assert policykey.unlock(ca.folder, never)


def test_a_public_half_without_its_key_is_never_replaced(ca: CaStore) -> None:
    (ca.folder / KEY).unlink()
    with pytest.raises(StateCorrupt, match=r"policy\.key is missing") as caught:
        signing.make_missing_key(ca, never)
    assert "backup" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"AAAA\n", b"not base64!\n"])
def test_a_damaged_public_half_is_named(ca: CaStore, content: bytes) -> None:
    (ca.folder / PUBLIC).write_bytes(content)
    with pytest.raises(StateCorrupt, match=r"policy\.pub is damaged"):
        policykey.read_public(ca.folder)


def test_a_key_of_another_mesh_is_refused(ca: CaStore) -> None:
    (ca.folder / KEY).write_bytes(PolicyKey.generate().to_pem(None))
    with pytest.raises(StateCorrupt, match="is not the key of"):
        policykey.unlock(ca.folder, never)


def test_a_key_of_the_wrong_kind_is_refused(ca: CaStore) -> None:
    (ca.folder / KEY).write_bytes((ca.folder / "root.key").read_bytes())
    with pytest.raises(StateCorrupt, match="is not an Ed25519 key"):
        policykey.unlock(ca.folder, never)


def test_a_key_that_others_can_read_is_refused(ca: CaStore) -> None:
    (ca.folder / KEY).chmod(0o640)
    with pytest.raises(Refused, match="open to other users"):
        policykey.unlock(ca.folder, never)


def test_a_passphrase_is_asked_for_once() -> None:
    asked: list[int] = []

    def ask() -> Passphrase:
        asked.append(1)
        return SECRET

    remembered = once(ask)
    assert remembered() == remembered() == SECRET
    assert len(asked) == 1
