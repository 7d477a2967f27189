"""A process without systemd: started once, found again, ended in order."""

import json
import os
import sys
from pathlib import Path

import pytest

from meshctl.onhost.fault import Fault
from meshctl.onhost.supervisor import Process, supervisor

OBEDIENT = "import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); signal.pause()"
STUBBORN = """
import signal
signal.signal(15, signal.SIG_IGN)
print('up', flush=True)
while True:
    signal.pause()
"""


def process(folder: Path, program: str, marker: str = "the-settings") -> Process:
    made = supervisor(
        {
            "kind": "process",
            "argv": [sys.executable, "-c", program, marker],
            "pid_file": str(folder / "run/pid"),
            "log_file": str(folder / "log/log"),
            "marker": marker,
        }
    )
    assert isinstance(made, Process)
    return made


def test_a_second_start_finds_the_first(tmp_path: Path) -> None:
    keeper = process(tmp_path, OBEDIENT)
    keeper.start(10)
    pid = keeper.pid()
    try:
        process(tmp_path, OBEDIENT).start(10)
        assert keeper.pid() == pid
        assert os.getsid(pid) == pid
    finally:
        keeper.stop(10)
    assert not keeper.is_active()
    assert not (tmp_path / "run/pid").exists()
    keeper.stop(1)


def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    keeper = process(tmp_path, STUBBORN)
    keeper.start(10)
    while "up" not in keeper.log(0):
        assert keeper.is_active()
    keeper.stop(0.2)
    assert not keeper.is_active()


def test_a_recycled_process_id_is_not_ours(tmp_path: Path) -> None:
    keeper = process(tmp_path, OBEDIENT)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/pid").write_text(str(os.getpid()))
    assert not keeper.is_active()
    keeper.stop(1)
    os.kill(os.getpid(), 0)


def test_a_program_that_cannot_start_is_reported_with_its_words(tmp_path: Path) -> None:
    keeper = Process(["/no/such/program", "x"], str(tmp_path / "pid"), str(tmp_path / "log"), "x")
    with pytest.raises(Fault) as caught:
        keeper.start(5)
    assert "not found" in caught.value.output


def test_the_proxys_own_log_lines_are_told_in_words(tmp_path: Path) -> None:
    keeper = process(tmp_path, OBEDIENT)
    (tmp_path / "log").mkdir()
    lines = [
        json.dumps({"level": "error", "msg": "broken", "error": "Traceback\n  x\nValueError: no"}),
        "plain " + "x" * 1000,
        "[1, 2]",
    ]
    (tmp_path / "log/log").write_text("\n".join(lines))
    first, second, third = keeper.log(0).splitlines()
    assert first == "error: broken (ValueError: no)"
    assert len(second) == 400
    assert third == "[1, 2]"


def test_a_hang_up_reaches_the_process(tmp_path: Path) -> None:
    program = (
        "import signal, sys; signal.signal(1, lambda *_: sys.exit(0)); print('up', flush=True)\n"
        "signal.pause()"
    )
    keeper = process(tmp_path, program)
    keeper.start(10)
    pid = keeper.pid()
    while "up" not in keeper.log(0):
        assert keeper.is_active()
    keeper.hang_up()
    assert os.waitpid(pid, 0) == (pid, 0)
