"""Files put on a host: atomically, with their final owner and mode; over both transports."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from meshctl.errors import RemoteFailure
from meshctl.inventory.model import Host
from meshctl.transport import Transport
from meshctl.transport.files import FilePut, put, put_many
from meshctl.transport.local import LocalTransport
from proxy.model.names import parse_host


@pytest.fixture(params=["local", "ssh"])
async def transport(
    request: pytest.FixtureRequest, connector_to: Callable[..., object]
) -> AsyncIterator[Transport]:
    if request.param == "local":
        yield LocalTransport(parse_host("web-1"))
        return
    server = request.getfixturevalue("sshd")
    host: Host = request.getfixturevalue("accepting")("web-1", server.port)
    yield await connector_to(host).connect(host.name)  # type: ignore[attr-defined]


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


async def test_a_file_arrives_with_its_bytes_and_mode(transport: Transport, tmp_path: Path) -> None:
    payload = os.urandom(3 * 2**20 + 7)

    await put(transport, str(tmp_path / "key"), payload, 0o600)

    assert (tmp_path / "key").read_bytes() == payload
    assert mode_of(tmp_path / "key") == 0o600
    assert os.listdir(tmp_path) == ["key"]


async def test_many_files_arrive_in_one_command(transport: Transport, tmp_path: Path) -> None:
    files = [
        FilePut(path=f"{tmp_path}/{n}/file", data=bytes([n]) * n, mode=0o640) for n in range(20)
    ]

    await put_many(transport, files, parents=True)

    assert [(tmp_path / str(n) / "file").read_bytes() for n in range(20)] == [
        bytes([n]) * n for n in range(20)
    ]
    assert mode_of(tmp_path / "7" / "file") == 0o640
    assert mode_of(tmp_path / "7") == 0o755


async def test_an_existing_file_is_replaced_not_written_into(
    transport: Transport, tmp_path: Path
) -> None:
    path, other = tmp_path / "file", tmp_path / "other-name"
    path.write_bytes(b"old")
    os.link(path, other)

    await put(transport, str(path), b"new")

    assert path.read_bytes() == b"new"
    assert other.read_bytes() == b"old"


async def test_one_fault_leaves_every_file_as_it_was(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "first").write_bytes(b"old")
    files = [
        FilePut(path=f"{tmp_path}/first", data=b"new"),
        FilePut(path=f"{tmp_path}/second", data=b"new", owner="no-such-user"),
    ]

    with pytest.raises(RemoteFailure, match="web-1: 2 files could not be written") as caught:
        await put_many(transport, files)

    assert caught.value.output == "there is no user no-such-user"
    assert (tmp_path / "first").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["first"]


@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners: needs root")
async def test_a_file_belongs_to_whom_it_should(transport: Transport, tmp_path: Path) -> None:
    await put(transport, str(tmp_path / "file"), b"x", 0o600, "nobody", "nogroup")

    assert (tmp_path / "file").owner() == "nobody"
    assert (tmp_path / "file").group() == "nogroup"


@pytest.mark.parametrize(
    ("path", "said"),
    [("missing/file", "No such file or directory"), ("folder", "is a directory")],
)
async def test_a_place_that_cannot_be_written_is_named(
    transport: Transport, tmp_path: Path, path: str, said: str
) -> None:
    (tmp_path / "folder").mkdir()

    with pytest.raises(RemoteFailure) as caught:
        await put(transport, str(tmp_path / path), b"x")
    assert said in caught.value.output
    assert os.listdir(tmp_path) == ["folder"]


async def test_nothing_to_put_is_no_command() -> None:
    await put_many(None, [])  # type: ignore[arg-type]


def test_contents_are_not_shown() -> None:
    assert "secret" not in repr(FilePut(path="/x", data=b"secret"))


async def test_a_push_that_is_cancelled_leaves_nothing(
    transport: Transport, tmp_path: Path
) -> None:
    push = asyncio.create_task(put(transport, str(tmp_path / "file"), bytes(200 * 2**20)))
    async with asyncio.timeout(20):
        while not os.listdir(tmp_path):
            await asyncio.sleep(0.005)

    push.cancel()
    with pytest.raises(asyncio.CancelledError):
        await push

    async with asyncio.timeout(20):
        while os.listdir(tmp_path):
            await asyncio.sleep(0.01)


async def test_old_remains_of_a_killed_push_are_removed_and_fresh_ones_left(
    transport: Transport, tmp_path: Path
) -> None:
    old, fresh, foreign = (
        tmp_path / name for name in (".file.aa.partial", ".file.bb.partial", ".other.aa.partial")
    )
    for path in (old, fresh, foreign):
        path.touch()
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    os.utime(foreign, (hour_ago, hour_ago))

    await put(transport, str(tmp_path / "file"), b"x")

    assert sorted(os.listdir(tmp_path)) == [".file.bb.partial", ".other.aa.partial", "file"]
