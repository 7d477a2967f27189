"""A log file under rotation, by one process, by several, and on a disk that is full."""

import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from proxy.net.log_file import LogFile

LINE = b"x" * 99 + b"\n"


def log_file(path: Path, *, max_bytes: int = 1 << 20, kept: int = 3) -> LogFile:
    return LogFile(path / "logs" / "access.log", max_bytes=max_bytes, kept=kept)


def names(path: Path) -> list[str]:
    return sorted(each.name for each in (path / "logs").iterdir())


def test_the_folder_and_the_file_are_made_readable_for_their_group(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        file = log_file(tmp_path)
        file.write([LINE])
    finally:
        os.umask(before)
    assert file.path.read_bytes() == LINE
    assert file.path.stat().st_mode & 0o777 == 0o640
    file.close()


def test_what_is_there_is_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        file = log_file(tmp_path)
        file.write([LINE])
        file.close()
    assert file.path.read_bytes() == LINE * 2


def test_a_full_file_is_rotated_and_so_many_are_kept(tmp_path: Path) -> None:
    file = log_file(tmp_path, max_bytes=250, kept=2)
    for number in range(9):
        file.write([b"%098d\n" % number])
    assert names(tmp_path) == ["access.log", "access.log.1", "access.log.2"]
    newest = [int(line) for line in file.path.read_text().split()]
    assert newest == [8]
    assert [int(each) for each in (tmp_path / "logs/access.log.1").read_text().split()] == [6, 7]
    assert [int(each) for each in (tmp_path / "logs/access.log.2").read_text().split()] == [4, 5]
    file.close()


def test_fewer_than_before_may_be_kept_or_none(tmp_path: Path) -> None:
    file = log_file(tmp_path, max_bytes=150, kept=4)
    for _ in range(8):
        file.write([LINE])
    assert len(names(tmp_path)) == 5
    file.close()
    file = log_file(tmp_path, max_bytes=150, kept=1)
    file.write([LINE])
    assert names(tmp_path) == ["access.log", "access.log.1"]
    file.close()
    file = log_file(tmp_path, max_bytes=150, kept=0)
    file.write([LINE])
    assert names(tmp_path) == ["access.log"]
    file.close()


def test_a_batch_above_the_size_of_a_file_is_written_whole(tmp_path: Path) -> None:
    file = log_file(tmp_path, max_bytes=10)
    file.write([LINE * 5])
    assert file.path.read_bytes() == LINE * 5
    file.close()


def test_who_moves_the_file_needs_to_tell_nobody(tmp_path: Path) -> None:
    file = log_file(tmp_path)
    file.write([b"1\n"])
    file.path.rename(tmp_path / "moved")
    file.write([b"2\n"])
    file.path.unlink()
    file.write([b"3\n"])
    assert (tmp_path / "moved").read_bytes() == b"1\n"
    assert file.path.read_bytes() == b"3\n"
    file.close()


def test_a_new_file_under_the_name_is_the_one_that_is_written(tmp_path: Path) -> None:
    file = log_file(tmp_path)
    file.write([b"1\n"])
    file.path.rename(tmp_path / "moved")
    file.path.touch()
    file.write([b"2\n"])
    assert (tmp_path / "moved").read_bytes() == b"1\n"
    assert file.path.read_bytes() == b"2\n"
    file.close()


def test_a_name_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    file = log_file(tmp_path)
    file.path.parent.mkdir()
    file.path.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        file.write([LINE])
    assert not (tmp_path / "victim").exists()


def test_what_did_not_fit_is_taken_back_and_writing_goes_on_later(tmp_path: Path) -> None:
    """A limit on the size of files writes a part and then refuses, as a full disk does."""
    file = log_file(tmp_path)
    file.write([LINE])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (250, before[1]))
        with pytest.raises(OSError, match="No space left"):
            file.write([LINE * 2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert file.path.read_bytes() == LINE
    file.write([LINE])
    assert file.path.read_bytes() == LINE * 2
    file.close()


def write_many(path: Path, who: int) -> None:
    file = log_file(path, max_bytes=20_000, kept=500)
    for batch in range(100):
        lines = [b"%d %d %b\n" % (who, batch * 20 + each, b"x" * 60) for each in range(20)]
        file.write(lines)
    file.close()


def test_processes_that_share_a_file_lose_and_tear_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(tmp_path, who)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(100)
        assert writer.exitcode == 0
    seen: dict[int, list[int]] = {who: [] for who in range(3)}
    files = names(tmp_path)
    newest_last = sorted(files, key=lambda name: -int(name.partition("log.")[2] or 0))
    for name in newest_last:
        content = (tmp_path / "logs" / name).read_bytes()
        assert len(content) <= 20_000
        for line in content.splitlines():
            who, number, rest = line.split(b" ")
            assert rest == b"x" * 60
            seen[int(who)].append(int(number))
    assert len(files) > 10
    assert all(numbers == list(range(2000)) for numbers in seen.values())
