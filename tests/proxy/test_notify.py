"""What systemd is told."""

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@mesh-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        receiver.settimeout(2)
        yield name, receiver


def test_the_life_of_a_service(systemd: tuple[str, socket.socket]) -> None:
    name, receiver = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("ready:\n2 workloads")
    assert receiver.recv(999) == b"READY=1\nSTATUS=ready: 2 workloads"
    notifier.reloading()
    assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", receiver.recv(999))
    notifier.status("fine")
    assert receiver.recv(999) == b"STATUS=fine"
    notifier.stopping("draining")
    assert receiver.recv(999) == b"STOPPING=1\nSTATUS=draining"
    notifier.alive()
    assert receiver.recv(999) == b"WATCHDOG=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:1"}])
def test_without_systemd_it_is_silent(environment: dict[str, str]) -> None:
    Notifier(environment).ready("x")


def test_a_socket_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


def test_a_full_queue_does_not_block_for_long(tmp_path: Path) -> None:
    name = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name)
        before = time.monotonic()
        for _ in range(2000):
            Notifier({"NOTIFY_SOCKET": name}).alive()
        Notifier({"NOTIFY_SOCKET": name}).ready("x")
        assert time.monotonic() - before < 1.5


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_interval(environment: dict[str, str], expected: float | None) -> None:
    assert Notifier(environment).watchdog_s == expected
