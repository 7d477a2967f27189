"""Making a mesh: once, wholly, and without destroying anything."""

import fcntl
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshctl.errors import MeshError, Refused, StateCorrupt
from meshctl.inventory.parse import parse
from meshctl.pki.passphrase import Passphrase
from meshctl.pki.store import CaStore
from meshctl.policy import starting_mesh_yaml
from meshctl.setup import Initialised, initialise
from meshctl.state import StateDir
from proxy.model.names import TrustDomain

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ALL = (".meshctl/", "inventory.yaml", "mesh.yaml", ".gitignore")


def run(folder: Path, **changes: Any) -> Initialised:
    wanted: dict[str, Any] = {
        "trust_domain": None,
        "passphrase": lambda: None,
        "force": False,
        "now": NOW,
    }
    return initialise(folder, **{**wanted, **changes})


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def unasked() -> Passphrase | None:
    raise AssertionError("the passphrase was asked for")


def test_makes_everything_in_a_folder_that_it_makes(tmp_path: Path) -> None:
    done = run(tmp_path / "a" / "b")
    assert done.made == ALL
    assert (done.kept, done.backups) == ((), ())
    assert done.state.trust_domain == "mesh.internal"
    assert sorted(os.listdir(tmp_path / "a" / "b")) == sorted(name.strip("/") for name in ALL)


def test_starting_inventory_is_valid(tmp_path: Path) -> None:
    run(tmp_path)
    file = tmp_path / "inventory.yaml"
    assert len(parse(file.read_text(), file).hosts) == 2
    assert (tmp_path / "mesh.yaml").read_text() == starting_mesh_yaml()
    assert file.stat().st_mode & 0o777 == 0o644


def test_second_run_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path, trust_domain=TrustDomain("mesh.example.com"))
    before = tree(tmp_path)
    again = run(tmp_path, passphrase=unasked)
    assert again.made == ()
    assert again.kept == ALL
    assert again.state.trust_domain == "mesh.example.com"
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["inventory.yaml", "mesh.yaml", ".gitignore"])
def test_missing_file_is_made_again(tmp_path: Path, name: str) -> None:
    run(tmp_path)
    before = tree(tmp_path)
    (tmp_path / name).unlink()
    assert run(tmp_path, passphrase=unasked).made == (name,)
    assert tree(tmp_path) == before


def test_own_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text("mine")
    done = run(tmp_path)
    assert "inventory.yaml" in done.kept
    assert (tmp_path / "inventory.yaml").read_text() == "mine"


class TestForce:
    def test_writes_starting_files_anew_after_a_backup(self, tmp_path: Path) -> None:
        (tmp_path / "inventory.yaml").write_text("mine")
        (tmp_path / "inventory.yaml.bak1").write_text("older")
        (tmp_path / "mesh.yaml").write_text(starting_mesh_yaml())
        done = run(tmp_path, force=True)
        assert done.backups == ("inventory.yaml.bak2",)
        assert (tmp_path / "inventory.yaml.bak1").read_text() == "older"
        assert (tmp_path / "inventory.yaml.bak2").read_text() == "mine"
        assert "version: 1" in (tmp_path / "inventory.yaml").read_text()
        assert "mesh.yaml" in done.kept

    def test_beside_a_ca_is_refused_and_changes_nothing(self, tmp_path: Path) -> None:
        run(tmp_path)
        (tmp_path / "inventory.yaml").write_text("mine")
        before = tree(tmp_path)
        with pytest.raises(Refused, match="never overwritten") as caught:
            run(tmp_path, force=True)
        assert f"mv {tmp_path}/.meshctl {tmp_path}/.meshctl.old" in caught.value.hint
        assert tree(tmp_path) == before


class TestRefusals:
    def test_another_trust_domain(self, tmp_path: Path) -> None:
        run(tmp_path)
        with pytest.raises(Refused, match=r"is the mesh mesh\.internal, not other"):
            run(tmp_path, trust_domain=TrustDomain("other"))

    def test_state_that_is_not_ours_is_not_touched(self, tmp_path: Path) -> None:
        (tmp_path / ".meshctl").mkdir(mode=0o700)
        (tmp_path / ".meshctl" / "precious").write_text("x")
        with pytest.raises(StateCorrupt, match=r"mesh\.json is missing"):
            run(tmp_path, force=True)
        assert tree(tmp_path) == {".meshctl/precious": b"x"}

    def test_state_without_a_ca_gets_no_new_one(self, tmp_path: Path) -> None:
        StateDir.create(tmp_path / ".meshctl", TrustDomain("a"), NOW)
        with pytest.raises(StateCorrupt, match="there is no CA"):
            run(tmp_path)

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(MeshError, match="file cannot be made"):
            run(tmp_path / "file")

    def test_a_second_init_at_the_same_time(self, tmp_path: Path) -> None:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(Refused, match="another meshctl init"):
                run(tmp_path)
        finally:
            os.close(descriptor)
        assert run(tmp_path).made == ALL


class TestGitignore:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b"*.pyc\n", b"*.pyc\n.meshctl/\n"),
            (b"*.pyc", b"*.pyc\n.meshctl/\n"),
            (b"/.meshctl\n", b"/.meshctl\n"),
            (b"a\n.meshctl/\nb\n", b"a\n.meshctl/\nb\n"),
        ],
    )
    def test_gets_one_line_if_it_lacks_it(
        self, tmp_path: Path, before: bytes, after: bytes
    ) -> None:
        (tmp_path / ".gitignore").write_bytes(before)
        run(tmp_path)
        assert (tmp_path / ".gitignore").read_bytes() == after


def _fork(body: Callable[[], None]) -> int:
    """The exit status of a child that runs ``body``."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


_KILLED = 99
_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.chmod"})


def test_killed_at_any_point_the_next_run_completes(tmp_path: Path) -> None:
    """The child dies, without cleaning up, at its first, second, ... change of the file system."""
    for point in range(1, 200):
        folder = tmp_path / str(point)
        folder.mkdir()
        (folder / "mesh.yaml").write_text("mine")

        def killed(folder: Path = folder, point: int = point) -> None:
            left = point

            def hook(event: str, arguments: tuple[Any, ...]) -> None:
                nonlocal left
                if event in _EVENTS and str(folder) in str(arguments[0]):
                    left -= 1
                    if left == 0:
                        os._exit(_KILLED)

            sys.addaudithook(hook)
            run(folder, force=True)

        status = _fork(killed)
        state = folder / ".meshctl"
        if state.exists():
            CaStore.open(StateDir.open(state)).unlock(unasked_source)
        run(folder)
        leftovers = {name for name in os.listdir(folder) if "bak" not in name}
        assert leftovers == {name.strip("/") for name in ALL}
        assert b"mine" in [data for name, data in tree(folder).items() if "mesh.yaml" in name]
        assert run(folder).made == ()
        if status != _KILLED:
            assert status == 0
            assert point > 20
            return
    raise AssertionError("it never completed")


def unasked_source() -> Passphrase:
    raise AssertionError("the passphrase was asked for")
