"""A worker on its own: it ends when the main process does, and not by a signal to all."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.net.channel import Ask, Stop, Told, frame, to_main


@pytest.fixture
def started() -> Iterator[tuple["subprocess.Popen[bytes]", socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = str(theirs.fileno())
        process = subprocess.Popen(
            [sys.executable, "-m", "proxy.worker", "--channel", fd, "--number", "1"],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
        )
        theirs.close()
        ours.settimeout(10)
        yield process, ours
        if process.poll() is None:
            process.kill()
        process.communicate()


def ask(channel: socket.socket, number: int) -> Any:
    channel.sendall(frame(Ask(number=number)))
    length = int.from_bytes(channel.recv(4, socket.MSG_WAITALL), "big")
    return to_main.decode(channel.recv(length, socket.MSG_WAITALL))


async def test_it_answers_and_stops_as_told(started: Any) -> None:
    process, channel = started
    answer = await asyncio.to_thread(ask, channel, 7)
    assert isinstance(answer, Told)
    assert (answer.number, answer.connections) == (7, 0)
    channel.sendall(frame(Stop()))
    assert await asyncio.to_thread(process.wait, 10) == 0


async def test_signals_meant_for_the_main_process_are_left_to_it(started: Any) -> None:
    process, channel = started
    await asyncio.to_thread(ask, channel, 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(process.pid, number)
    assert (await asyncio.to_thread(ask, channel, 2)).number == 2
    assert process.poll() is None


@pytest.mark.parametrize("last_words", [b"", b"\x00\x00\x00\x01\xc1"])
async def test_it_ends_with_the_channel(
    started: Any, last_words: bytes, until: Callable[..., Any]
) -> None:
    process, channel = started
    await asyncio.to_thread(ask, channel, 1)
    channel.sendall(last_words)
    if not last_words:
        channel.close()
    assert await asyncio.to_thread(process.wait, 10) == 0
