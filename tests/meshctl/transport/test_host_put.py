"""The script that receives files, given what a broken connection gives it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshctl.transport.files import put_script


def entry(path: Path, data: bytes, **changes: object) -> dict[str, object]:
    return {
        "path": str(path), "mode": 0o600, "owner": None, "group": None,
        "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes,
    }  # fmt: skip


def receive(stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-I", "-c", put_script()],
        input=stdin, capture_output=True, check=False, timeout=30,
    )  # fmt: skip


def header(*entries: dict[str, object]) -> bytes:
    return json.dumps({"parents": False, "files": entries}).encode() + b"\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"old")
    return tmp_path / "file"


def unchanged(place: Path) -> bool:
    return place.read_bytes() == b"old" and os.listdir(place.parent) == ["file"]


def test_a_complete_file_is_put_in_silence(place: Path) -> None:
    done = receive(header(entry(place, b"new")) + b"new")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert place.read_bytes() == b"new"


def test_a_connection_that_ends_in_the_middle_changes_nothing(place: Path) -> None:
    done = receive(header(entry(place, b"new")) + b"ne")

    assert (done.returncode, done.stderr) == (
        1,
        f"the connection ended in the middle of {place}\n".encode(),
    )
    assert unchanged(place)


def test_damaged_bytes_change_nothing(place: Path) -> None:
    done = receive(header(entry(place, b"new")) + b"nex")

    assert (done.returncode, done.stderr) == (1, f"{place} arrived damaged\n".encode())
    assert unchanged(place)


@pytest.mark.parametrize("stdin", [b"", b'{"parents": false, "fil'])
def test_a_connection_that_ends_in_the_list_changes_nothing(place: Path, stdin: bytes) -> None:
    done = receive(stdin)

    assert (done.returncode, done.stderr) == (
        1,
        b"the connection ended before the list of files\n",
    )
    assert unchanged(place)


def test_a_full_disk_is_one_sentence_and_changes_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        data = bytes(2**21)
        small = entry(disk / "small", b"x")
        done = receive(header(small, entry(disk / "big", data)) + b"x" + data)

        assert done.returncode == 1
        assert done.stderr.startswith(b"the disk is full")
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)
