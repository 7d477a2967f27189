"""``python -m proxy.worker`` as a process: its lines in the log, and what it carries in memory."""

import json
import socket
import subprocess
import sys

from proxy.net.channel import Stop, frame


def run(command: list[str], said: bytes) -> "subprocess.CompletedProcess[str]":
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(said)
        fd = theirs.fileno()
        return subprocess.run(
            [sys.executable, *command, "--channel", str(fd), "--number", "3"],
            pass_fds=(fd,),
            capture_output=True,
            text=True,
            timeout=20,
        )


def test_its_lines_say_which_worker_it_is() -> None:
    done = run(["-m", "proxy.worker"], b"\x00\x00\x00\x01\xc1")
    assert done.returncode == 0
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line["level"], line["worker"]) == ("error", 3)


def test_it_carries_neither_the_control_side_nor_what_the_main_process_does_without() -> None:
    code = (
        "import sys; from proxy.worker import main; code = main();"
        "print(*sorted(sys.modules), sep='\\n'); sys.exit(code)"
    )
    done = run(["-c", code], frame(Stop()))
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "proxy.net.dataplane" in loaded
    assert loaded & {"proxy.net.consul", "proxy.net.watcher", "proxy.net.registrar"} == set()
    assert {name.partition(".")[0] for name in loaded} & {"cryptography", "aiohttp"} == set()
