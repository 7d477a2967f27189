"""The last good state on disk."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, Snapshot
from proxy.net import store as module
from proxy.net.store import FILE_NAME, LastGood, Store

TD = TrustDomain("mesh.example")


def state(generation: int) -> LastGood:
    endpoint = Endpoint(
        service=ServiceName("api"), host=HostName("h1"), address="10.0.0.1", port=15006
    )
    return LastGood(
        trust_domain=TD,
        snapshot=Snapshot(generation=generation, trust_domain=TD, policy=Policy()),
        catalogue=Catalogue(endpoints={ServiceName("api"): (endpoint,)}),
    )


def giving(value: LastGood) -> Callable[[], LastGood]:
    return lambda: value


async def write(directory: Path, value: LastGood) -> bool:
    store = Store(directory, TD)
    store.changed(giving(value))
    return await store.flush()


async def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    assert await write(tmp_path, state(3))
    assert Store(tmp_path, TD).load() == state(3)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [FILE_NAME]


async def test_what_is_elsewhere_is_kept_too(tmp_path: Path) -> None:
    endpoint = Endpoint(
        service=ServiceName("api"),
        host=HostName("h2"),
        address="10.0.0.2",
        port=15006,
        zone="eu-1",
        weight=3,
    )
    elsewhere = {"dc2": {ServiceName("api"): (endpoint,)}, "dc3": {ServiceName("api"): ()}}
    value = msgspec.structs.replace(state(1), catalogue=Catalogue(elsewhere=elsewhere))
    assert await write(tmp_path, value)
    assert Store(tmp_path, TD).load() == value


async def test_a_file_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """As version 0.1 wrote it: without other datacenters, zones and weights."""
    endpoint = '{"address":"10.0.0.1","host":"h1","port":15006,"service":"api","version":""}'
    timeouts = (
        '{"connect_s":1.0,"connection_idle_s":3600.0,"pool_idle_s":3.0,"request_s":15.0,'
        '"stream_idle_s":300.0}'
    )
    (tmp_path / FILE_NAME).write_text(
        f'{{"catalogue":{{"endpoints":{{"api":[{endpoint}]}}}},"snapshot":{{"generation":3,'
        f'"policy":{{"defaults":{{"timeouts":{timeouts}}},"services":{{}}}},'
        f'"trust_domain":"mesh.example"}},"trust_domain":"mesh.example"}}'
    )
    assert Store(tmp_path, TD).load() == state(3)


async def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    assert Store(tmp_path, TD).load() is None


@pytest.mark.parametrize("data", [b"", b"{", b"\xff" * 10, b'{"trust_domain":"x"}', b"[]"])
async def test_a_corrupt_file_is_set_aside_and_told(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(data)
    assert Store(tmp_path, TD).load() is None
    assert (tmp_path / f"{FILE_NAME}.corrupt").read_bytes() == data
    assert not (tmp_path / FILE_NAME).exists()
    assert "corrupt" in caplog.text


async def test_a_truncated_file_is_corrupt(tmp_path: Path) -> None:
    await write(tmp_path, state(3))
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-10])
    assert Store(tmp_path, TD).load() is None


async def test_the_state_of_another_mesh_is_not_used(tmp_path: Path) -> None:
    await write(tmp_path, state(3))
    assert Store(tmp_path, TrustDomain("other.example")).load() is None


async def test_what_has_not_changed_is_not_written(tmp_path: Path) -> None:
    await write(tmp_path, state(3))
    before = (tmp_path / FILE_NAME).stat().st_ino
    store = Store(tmp_path, TD)
    store.load()
    store.changed(giving(state(3)))
    assert await store.flush()
    assert (tmp_path / FILE_NAME).stat().st_ino == before


async def test_a_directory_that_is_not_there_is_told_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not await write(tmp_path / "gone", state(3))
    assert "cannot be written" in caplog.text


async def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(tmp_path, state(3))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    assert not await write(tmp_path, state(4))
    assert Store(tmp_path, TD).load() == state(3)
    assert os.listdir(tmp_path) == [FILE_NAME]


async def test_many_changes_make_few_writes_and_the_last_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    writes = []
    real = module._write
    monkeypatch.setattr(module, "WRITE_INTERVAL_S", 0.2)
    monkeypatch.setattr(
        module, "_write", lambda path, data: (writes.append(data), real(path, data))
    )
    store = Store(tmp_path, TD)
    task = asyncio.ensure_future(store.run())
    for generation in range(1, 50):
        store.changed(giving(state(generation)))
        await asyncio.sleep(0)
    await until(lambda: Store(tmp_path, TD).load() == state(49))
    assert len(writes) <= 3
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_failed_write_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    directory = tmp_path / "later"
    store = Store(directory, TD)
    store.changed(giving(state(5)))
    task = asyncio.ensure_future(store.run())
    await asyncio.sleep(0.05)
    directory.mkdir()
    await until((directory / FILE_NAME).exists)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
