import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
from labkit.record import HostRecord, Process, Record, locked, write


@pytest.fixture
def sleeper():
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait()


def test_a_process_is_alive_until_it_ends(sleeper):
    process = Process.of(sleeper.pid)
    assert process is not None
    assert process.is_alive()
    process.send(signal.SIGTERM)
    assert sleeper.wait(timeout=10) == -signal.SIGTERM
    assert not process.is_alive()
    process.send(signal.SIGTERM)


def test_a_recycled_process_id_is_never_signalled(sleeper):
    process = Process.of(sleeper.pid)
    assert process is not None
    recycled = Process(pid=process.pid, started=process.started - 1)
    assert not recycled.is_alive()
    recycled.send(signal.SIGKILL)
    assert process.is_alive()
    process.send(signal.SIGTERM)
    assert sleeper.wait(timeout=10) == -signal.SIGTERM


def test_a_zombie_is_not_alive(sleeper):
    process = Process.of(sleeper.pid)
    assert process is not None
    process.send(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive()


def test_children_are_found(sleeper):
    own = Process.of(os.getpid())
    assert own is not None
    assert sleeper.pid in [child.pid for child in own.children()]


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = Record(
        hosts={
            "mesh1": HostRecord(index=1, watcher=Process(pid=4, started=5)),
            "mesh2": HostRecord(index=2, python=False),
        }
    )
    record.save(tmp_path / "state.json")
    assert Record.load(tmp_path / "state.json") == record


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1, "hosts": [1]}'])
def test_a_broken_record_is_taken_as_empty(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    assert Record.load(tmp_path / "state.json") == Record()


def test_a_file_is_written_whole_and_private(tmp_path):
    write(tmp_path / "secret", "x")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_second_invocation_waits_for_the_first(tmp_path):
    order = []
    inside = threading.Event()

    def second():
        inside.wait(10)
        with locked(tmp_path / "lock", what="test"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked(tmp_path / "lock", what="test"):
        inside.set()
        thread.join(0.5)
        assert thread.is_alive()
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_outlives_its_owner_while_a_program_holds_it(tmp_path):
    """A shell script that was handed the lock keeps it, though it redirects descriptors."""
    with locked(tmp_path / "lock", what="test") as lock:
        program = subprocess.Popen(
            ["sh", "-c", "exec 3>&1 4>&1 5>&1 6>&1 7>&1 8>&1 9>&1; echo held; exec sleep 60"],
            stdout=subprocess.PIPE,
            pass_fds=(lock,),
        )
        assert program.stdout is not None
        assert program.stdout.readline() == b"held\n"
    try_lock = (
        "import fcntl, sys\n"
        "try: fcntl.flock(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(9)\n"
    )
    command = [sys.executable, "-c", try_lock, str(tmp_path / "lock")]
    try:
        assert subprocess.run(command, check=False, timeout=20).returncode == 9
    finally:
        program.kill()
        program.communicate()
    assert subprocess.run(command, check=False, timeout=20).returncode == 0
