"""The next root and the retiring one: the CA opens after an interruption at any point."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from meshctl import durable
from meshctl.errors import Refused, StateCorrupt
from meshctl.pki import successor
from meshctl.pki.passphrase import Passphrase
from meshctl.pki.store import CaStore, remembered
from meshctl.state import StateDir
from proxy.model.names import TrustDomain

NOW = datetime.now(UTC)


class Cut(Exception):
    """The process ends here."""


def nobody_asks() -> Passphrase:
    raise AssertionError("nothing is encrypted")


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), NOW)
    CaStore.create(made, None, NOW)
    return made


def prepared(state: StateDir) -> tuple[x509.Certificate, x509.Certificate]:
    """The old root and the new one, which hosts are to trust by now."""
    ca = CaStore.open(state)
    new = successor.prepare(ca, nobody_asks, NOW)
    ca.with_trust_bundle(ca.root, new)
    return ca.root, new


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_prepared_root_changes_nothing_of_what_is_in_force(state: StateDir) -> None:
    before = CaStore.open(state)
    new = successor.prepare(before, nobody_asks, NOW)
    after = CaStore.open(state)
    assert after == before
    assert successor.next_root(after) == new
    assert successor.retiring_root(after) is None
    assert successor.prepare(after, nobody_asks, NOW) == new, "a second time is no other root"


def test_the_new_root_has_the_passphrase_of_the_old_and_no_other(tmp_path: Path) -> None:
    state = StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), NOW)
    right = Passphrase(b"right")
    ca = CaStore.create(state, right, NOW)
    with pytest.raises(Refused):
        successor.prepare(ca, lambda: Passphrase(b"wrong"), NOW)
    assert successor.next_root(ca) is None
    asked: list[int] = []

    def source() -> Passphrase:
        asked.append(1)
        return right

    once = remembered(source)
    new = successor.prepare(ca, once, NOW)
    assert successor.unlock_next(ca, once).certificate == new
    assert len(asked) == 1
    with pytest.raises(Refused):
        successor.unlock_next(ca, lambda: Passphrase(b"wrong"))


def test_after_the_switch_the_new_root_signs_and_the_old_one_is_kept(state: StateDir) -> None:
    old, new = prepared(state)
    ca = successor.switch(state)
    assert ca.root == new
    assert ca.trust_bundle == (old, new)
    assert ca.keys == ca.folder
    ca.issuing.verify_directly_issued_by(new)
    ca.unlock(nobody_asks)
    assert ca.unlock_root(nobody_asks).certificate == new
    assert successor.unlock_retiring(ca, nobody_asks).certificate == old
    assert successor.next_root(ca) is None
    assert successor.switch(state) == ca, "a second time does nothing"


def test_retiring_deletes_the_old_key_and_keeps_the_certificate(state: StateDir) -> None:
    old, new = prepared(state)
    ca = successor.retire(successor.switch(state))
    assert ca.trust_bundle == (new,)
    assert CaStore.open(state) == ca
    assert not (ca.folder / "retiring").exists()
    (kept,) = (ca.folder / "retired").iterdir()
    assert kept.name == f"{successor.sha256(old)[:16]}.pem"
    assert x509.load_pem_x509_certificate(kept.read_bytes()) == old
    assert successor.retire(ca) == ca


def test_abandoning_leaves_nothing_of_the_new_root(state: StateDir) -> None:
    before = CaStore.open(state)
    files = names(before.folder)
    prepared(state)
    assert successor.abandon(CaStore.open(state)) == before
    assert names(before.folder) == files


def test_a_switch_without_a_prepared_root_is_refused(state: StateDir) -> None:
    with pytest.raises(StateCorrupt, match="next is missing"):
        successor.switch(state)


def test_a_new_issuing_ca_in_the_midst_of_a_switch_is_not_lost(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, new = prepared(state)
    cut_at(monkeypatch, 6)
    with pytest.raises(Cut):
        successor.switch(state)
    monkeypatch.undo()
    half = CaStore.open(state)
    assert half.keys != half.folder
    renewed = half.renew_issuing(nobody_asks, NOW)
    assert successor.switch(state).issuing == renewed.issuing
    assert CaStore.open(state).root == new


@pytest.mark.parametrize("step", ["prepare", "switch", "retire", "abandon"])
def test_cut_at_any_change_of_a_file_the_ca_opens_and_the_next_run_completes_it(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: dict[str, Callable[[StateDir], object]] = {
        "prepare": lambda state: successor.prepare(CaStore.open(state), nobody_asks, NOW),
        "switch": successor.switch,
        "retire": lambda state: successor.retire(CaStore.open(state)),
        "abandon": lambda state: successor.abandon(CaStore.open(state)),
    }
    work = steps[step]
    for point in range(1, 100):
        made = StateDir.create(tmp_path / str(point), TrustDomain("mesh.test"), NOW)
        old = CaStore.create(made, None, NOW).root
        new = old if step == "prepare" else prepared(made)[1]
        if step == "retire":
            successor.switch(made)
        cut_at(monkeypatch, point)
        try:
            work(made)
        except Cut:
            monkeypatch.undo()
        else:
            monkeypatch.undo()
            break
        opened = CaStore.open(made)
        assert opened.root in (old, new)
        opened.unlock(nobody_asks)
        opened.unlock_root(nobody_asks)
        work(made)
        done = CaStore.open(made)
        assert done.root == (new if step in ("switch", "retire") else old)
        done.unlock(nobody_asks)
        assert not [name for name in names(done.folder) if name.startswith(".gone")]
    else:
        raise AssertionError("it never comes to its end")
    assert point > 2


def cut_at(monkeypatch: pytest.MonkeyPatch, point: int) -> None:
    """The ``point``-th write or rename does not happen, and nothing after it."""
    count = 0
    write, rename = durable.write, Path.rename

    def counted() -> None:
        nonlocal count
        count += 1
        if count >= point:
            raise Cut

    def cutting_write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        counted()
        write(path, data, mode=mode)

    def cutting_rename(self: Path, target: Path) -> Path:
        counted()
        return rename(self, target)

    monkeypatch.setattr(durable, "write", cutting_write)
    monkeypatch.setattr(Path, "rename", cutting_rename)
