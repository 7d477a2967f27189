"""Where lines go, and what happens when nobody takes them."""

import asyncio
import errno
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.net.log_file import LogFile
from proxy.net.log_sink import FileSink, StdoutSink, is_journal

LINE = b"x" * 99 + b"\n"


class Told:
    def __init__(self) -> None:
        self.written = self.missed = 0
        self.errors: list[int | None] = []
        self.is_free = asyncio.Event()

    def wrote(self, count: int) -> None:
        self.written += count

    def lost(self, count: int, error: OSError) -> None:
        self.missed += count
        self.errors.append(error.errno)

    def freed(self) -> None:
        self.is_free.set()


def test_a_reader_of_a_socket_that_stands_still_blocks_nobody_and_tears_no_line() -> None:
    ours, theirs = socket.socketpair()
    told = Told()
    sink = StdoutSink(ours.fileno(), told)
    sink_of_another = StdoutSink(ours.fileno(), told)
    batch = LINE * (sink.max_bytes // len(LINE))
    while sink.offer([batch], 1) and sink_of_another.offer([batch], 1):
        pass
    # Half of it is left to the process's own log.
    assert ours.send(b"an error\n", socket.MSG_DONTWAIT) == 9
    assert not sink.offer([LINE], 1)
    theirs.settimeout(10)
    taken = b""
    while len(taken) < told.written * len(batch) + 9:
        taken += theirs.recv(1 << 20)
    assert taken == batch * told.written + b"an error\n"
    assert sink.offer([LINE], 1)
    assert told.missed == 0
    for each in (sink, sink_of_another):
        each.close()
    ours.close()
    theirs.close()


WRITER = """
import sys
import time
from proxy.net.log_sink import StdoutSink

class Told:
    count = 0
    def wrote(self, count): self.count += count
    def lost(self, count, error): raise error
    def freed(self): pass

told = Told()
sink = StdoutSink(1, told)
who, batches = sys.argv[1], 100
for batch in range(batches):
    lines = b"".join(b"%s %d %d %s\\n" % (who.encode(), batch, n, b"x" * (n * 7 % 900))
                     for n in range(60))
    assert len(lines) <= sink.max_bytes
    while not sink.offer([lines], 60):
        time.sleep(0.001)
print(told.count, file=sys.stderr)
"""


def test_processes_that_share_a_socket_tear_nothing() -> None:
    ours, theirs = socket.socketpair()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(who)], stdout=theirs, stderr=subprocess.PIPE
        )
        for who in range(3)
    ]
    theirs.close()
    ours.settimeout(60)
    taken = b""
    while data := ours.recv(1 << 16):
        taken += data
    ours.close()
    for writer in writers:
        _, said = writer.communicate(timeout=60)
        assert said == b"6000\n"
    lines = taken.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == 3 * 6000
    for line in lines:
        _, _, number, filling = line.split(b" ")
        assert filling == b"x" * (int(number) * 7 % 900)


def test_a_pipe_takes_whole_lines_and_stays_as_it_was_for_others() -> None:
    reader, writer = os.pipe()
    told = Told()
    sink = StdoutSink(writer, told)
    batch = LINE * (sink.max_bytes // len(LINE))
    while sink.offer([batch], 1):
        pass
    assert os.get_blocking(writer)
    size = told.written * len(batch)
    assert size > 10_000
    taken = b""
    while len(taken) < size:
        taken += os.read(reader, 1 << 20)
    assert taken == batch * told.written
    assert sink.offer([LINE], 1)
    sink.close()
    os.close(reader)
    os.close(writer)


def test_a_reader_that_is_gone_is_told_as_a_loss() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    told = Told()
    sink = StdoutSink(ours.fileno(), told)
    assert sink.offer([LINE * 3], 3)
    assert (told.missed, told.errors) == (3, [errno.EPIPE])
    sink.close()
    ours.close()


def test_a_terminal_is_written_to() -> None:
    main, other = pty.openpty()
    told = Told()
    sink = StdoutSink(other, told)
    assert sink.offer([b"line\n"], 1)
    assert os.read(main, 100) == b"line\r\n"
    sink.close()
    os.close(main)
    os.close(other)


def test_a_file_on_stdout_is_appended_to(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    told = Told()
    sink = StdoutSink(fd, told)
    assert not sink.is_bounded
    assert sink.offer([LINE], 1)
    sink.close()
    assert os.write(fd, b"after\n") == 6
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == LINE + b"after\n"


async def test_one_batch_at_a_time_is_with_the_disk(tmp_path: Path) -> None:
    told = Told()
    sink = FileSink(LogFile(tmp_path / "access.log", max_bytes=1 << 20, kept=1), told)
    assert sink.offer([LINE], 1)
    assert not sink.offer([LINE], 1)
    await asyncio.wait_for(told.is_free.wait(), 20)
    assert sink.offer([LINE], 1)
    await sink.settle(20)
    assert (tmp_path / "access.log").read_bytes() == LINE * 2
    assert told.written == 2
    sink.close()


async def test_a_file_that_cannot_be_made_is_told_as_a_loss(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = Told()
    sink = FileSink(LogFile(tmp_path / "file" / "access.log", max_bytes=9, kept=1), told)
    assert sink.offer([LINE], 1)
    await sink.settle(20)
    assert (told.written, told.missed) == (0, 1)
    sink.close()


@pytest.mark.parametrize("is_it", [True, False])
def test_the_journal_is_known_by_what_systemd_says(tmp_path: Path, is_it: bool) -> None:
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    found = os.fstat(fd)
    inode = found.st_ino if is_it else found.st_ino + 1
    assert is_journal(fd, {"JOURNAL_STREAM": f"{found.st_dev}:{inode}"}) is is_it
    assert not is_journal(fd, {})
    os.close(fd)
    assert not is_journal(fd, {"JOURNAL_STREAM": "1:2"})
