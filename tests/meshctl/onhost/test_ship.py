"""What is sent to a host is self-contained, and its operations answer even when they fail."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meshctl.onhost import files, lock, ship
from meshctl.onhost.fault import Fault

PACKAGE = Path(ship.__file__).parent


def operate(folder: Path, operation: str, **arguments: Any) -> dict[str, Any]:
    request = {
        "operation": operation, "lock": str(folder / "run/lock"), "owner": "me", **arguments
    }  # fmt: skip
    done = subprocess.run(
        ship.command(sys.executable), input=ship.stdin(request), capture_output=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_a_program_for_a_host_imports_the_standard_library_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            is_own = name.startswith("meshctl.onhost")
            assert is_own or name.partition(".")[0] in sys.stdlib_module_names, name


def test_every_program_is_shipped() -> None:
    shipped = {name for name, _ in json.loads(ship.stdin({}))["modules"]}
    there = {f"meshctl.onhost.{path.stem}" for path in PACKAGE.glob("*.py")}
    assert there - shipped == {"meshctl.onhost.__init__", "meshctl.onhost.ship"}


def test_an_operation_answers_and_takes_the_lock(tmp_path: Path) -> None:
    assert operate(tmp_path, "lock") == {"ok": True, "result": {}}
    assert lock.lease(str(tmp_path / "run/lock"))[0] == "me"
    assert operate(tmp_path, "unlock")["ok"]
    assert lock.lease(str(tmp_path / "run/lock"))[0] == ""


def test_another_owner_is_refused_until_the_lease_ends(tmp_path: Path) -> None:
    operate(tmp_path, "lock")
    refused = operate(tmp_path, "lock", owner="other")
    assert (refused["ok"], refused["code"]) == (False, "locked")
    assert "me is deploying" in refused["error"]
    record = json.dumps({"owner": "me", "until": time.time() - 1})
    (tmp_path / "run/lock").write_text(record)
    assert operate(tmp_path, "lock", owner="other")["ok"]


def test_an_operation_that_still_runs_is_waited_for_and_then_reported(tmp_path: Path) -> None:
    path = str(tmp_path / "run/lock")
    with (
        lock.held(path, "me", wait_s=0),
        pytest.raises(Fault, match="still runs"),
        lock.held(path, "me", wait_s=0.2),
    ):
        pass
    with lock.held(path, "me", wait_s=0):
        pass


def test_a_failure_is_an_answer_with_the_systems_words(tmp_path: Path) -> None:
    answer = operate(
        tmp_path, "write", link=None,
        files=[{"path": "/proc/none/x", "content": "", "mode": 0o644, "owner": "", "group": ""}],
    )  # fmt: skip
    assert not answer["ok"]
    assert "No such file" in answer["error"]


def test_an_unknown_user_is_a_sentence(tmp_path: Path) -> None:
    answer = operate(
        tmp_path, "prepare", users=[],
        directories=[{"path": str(tmp_path / "a"), "mode": 0o700, "owner": "nobody-of-that-name"}],
    )  # fmt: skip
    assert answer["error"] == "there is no user nobody-of-that-name"


def test_a_write_leaves_the_old_or_the_new_and_no_remains(tmp_path: Path) -> None:
    path = tmp_path / "deep/file"
    files.write(str(path), b"one", 0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o640)
    with pytest.raises(Fault):
        files.write(str(path), b"two", 0o640, "nobody-of-that-name")
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["file"]


def test_a_link_is_switched_over_an_existing_one(tmp_path: Path) -> None:
    link = str(tmp_path / "current")
    files.link(link, "/a/one")
    files.link(link, "/a/two")
    assert files.target_name(link) == "two"
    assert files.remove(link)
    assert not files.remove(link)
    assert files.target_name(link) == ""


def test_pruning_never_removes_what_runs_or_ran_before(tmp_path: Path) -> None:
    for name in ("r1", "r2", "r3"):
        (tmp_path / "releases" / name).mkdir(parents=True)
    for name, release in (("c1", "r1"), ("c2", "r2")):
        (tmp_path / "configs" / name).mkdir(parents=True)
        (tmp_path / "configs" / name / "release").symlink_to(tmp_path / "releases" / release)
    (tmp_path / "current").symlink_to(tmp_path / "configs/c1")
    (tmp_path / "previous").symlink_to(tmp_path / "configs/c2")
    answer = operate(
        tmp_path, "prune",
        current=str(tmp_path / "current"), previous=str(tmp_path / "previous"),
        configs=str(tmp_path / "configs"),
        names={
            str(tmp_path / "releases"): ["r1", "r2", "r3", "..", "../configs", ""],
            str(tmp_path / "configs"): ["c1", "c2"],
        },
    )  # fmt: skip
    assert answer["result"] == {"removed": 1}
    assert sorted(os.listdir(tmp_path / "releases")) == ["r1", "r2"]
    assert sorted(os.listdir(tmp_path / "configs")) == ["c1", "c2"]
