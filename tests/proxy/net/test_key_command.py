"""The key command as a process of its own: bounded in time and in what it says."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.model.names import ServiceName
from proxy.model.settings import Address, Consul, Settings
from proxy.net import key_command
from proxy.net.key_command import KeyCommandError

API = ServiceName("api")


@pytest.fixture
def settings(mesh_pki: Any) -> Settings:
    nowhere = Address(host="127.0.0.1", port=1)
    return Settings(
        host="one",
        trust_domain=mesh_pki.domain,
        advertise="127.0.0.1",
        release="r1",
        admin=nowhere,
        inbound=nowhere,
        consul=Consul(url="http://127.0.0.1:1"),
        state_dir=str(mesh_pki.state_dir),
        trust_bundle=str(mesh_pki.trust_bundle),
        workloads=(),
    )


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """In place of the interpreter, a shell script."""

    def write(text: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return write


async def test_a_request_is_made_and_what_is_wrong_is_said(settings: Settings) -> None:
    assert (await key_command.request(settings, API)).startswith(b"-----BEGIN CERTIFICATE REQUEST")

    with pytest.raises(KeyCommandError, match="the chain is not a PEM certificate"):
        await key_command.install(settings, API, b"-----BEGIN CERTIFICATE-----\nnot one")


async def test_it_gets_nothing_of_our_environment(
    settings: Settings, program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "a-secret")
    program("env")

    assert b"a-secret" not in await key_command.request(settings, API)


async def test_one_that_does_not_end_is_ended_with_its_children(
    settings: Settings, program: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(key_command, "COMMAND_S", 1.0)
    program(f"sleep 3600 & echo $! > {tmp_path}/child; wait")

    with pytest.raises(KeyCommandError, match="did not end within 1 s"):
        await key_command.request(settings, API)

    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    async with asyncio.timeout(30):
        while child.exists() and child.read_text().split()[2] not in "ZX":
            await asyncio.sleep(0.01)


async def test_one_that_says_too_much_is_ended(settings: Settings, program: Any) -> None:
    program("yes")

    with pytest.raises(KeyCommandError, match="more than it can have to say"):
        await key_command.request(settings, API)


async def test_one_that_reads_nothing_and_says_nothing_is_a_failure_with_its_code(
    settings: Settings, program: Any
) -> None:
    program("exit 7")

    with pytest.raises(KeyCommandError, match="install ended with 7"):
        await key_command.install(settings, API, b"x" * 200_000)


async def test_one_that_cannot_be_started_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nothing")

    with pytest.raises(KeyCommandError, match="cannot be started: No such file"):
        await key_command.request(settings, API)
