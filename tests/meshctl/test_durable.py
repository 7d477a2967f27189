"""Files are whole or absent."""

import os
from pathlib import Path

import pytest

from meshctl import durable
from meshctl.errors import MeshError, Refused, StateCorrupt


def test_write_replaces_and_sets_the_mode(tmp_path: Path) -> None:
    file = tmp_path / "a"
    durable.write(file, b"one")
    durable.write(file, b"two", mode=0o640)
    assert file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        durable.write(tmp_path / "a", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    durable.write(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MeshError, match="a cannot be written: No space left on device"):
        durable.write(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_write_where_there_is_no_folder_is_an_error_with_the_name(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="b cannot be written: No such file"):
        durable.write(tmp_path / "none" / "b", b"")


def test_create_refuses_what_exists(tmp_path: Path) -> None:
    durable.create(tmp_path / "a", b"one")
    with pytest.raises(Refused, match="exists already"):
        durable.create(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a"]


def test_a_planted_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "a").symlink_to("target")
    durable.write(tmp_path / "a", b"key")
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_read_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert durable.read(tmp_path / "a", limit=11) == b"x" * 11
    with pytest.raises(StateCorrupt, match="larger than 10 bytes"):
        durable.read(tmp_path / "a", limit=10)


def test_read_of_a_folder_or_a_fifo_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert durable.read(tmp_path / "fifo") == b""
    with pytest.raises(StateCorrupt, match="is a folder"):
        durable.read(tmp_path)


def test_read_of_nothing_is_for_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.read(tmp_path / "none")


def test_sweep_removes_only_what_killed_writers_left(tmp_path: Path) -> None:
    names = [".a.json.0123456789ab.tmp", ".b.0123456789ab.tmp", "mine.tmp", ".mine.tmp", "a.json"]
    for name in names:
        (tmp_path / name).write_text("")
    os.utime(tmp_path / names[0], (0, 0))
    durable.sweep(tmp_path, older_than_s=3600)
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
    durable.sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names[2:])


def test_temporary_names_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(path: Path, target: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with pytest.raises(Killed):
            durable.write(tmp_path / "a", b"x")
    assert len(os.listdir(tmp_path)) == 1
    durable.sweep(tmp_path)
    assert os.listdir(tmp_path) == []
