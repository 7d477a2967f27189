"""A real OpenSSH server on loopback, started by the tests, with keys of its own."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from ports import free_ports

from meshctl.inventory.model import (
    Host,
    HostKeyPolicy,
    ProxyPlacement,
    Role,
    Ssh,
    TransportKind,
)
from meshctl.transport.ssh import SshConnector, scan_host_key, trust
from proxy.model.names import parse_host

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
START_S = 10.0


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", path], check=True, timeout=30
    )
    return path


@dataclass
class Sshd:
    """One server process; ``connections`` are the children that carry a connection each."""

    folder: Path
    host_key: Path
    client_key: Path
    port: int = field(default_factory=lambda: free_ports(1)[0])
    settings: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        authorized = self.folder / "authorized_keys"
        authorized.write_text(self.client_key.with_suffix(".pub").read_text())
        config = self.folder / "sshd_config"
        lines = [
            *self.settings,
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {authorized}",
            f"PidFile {self.folder}/sshd.pid",
            "PermitRootLogin yes",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
        ]
        config.write_text("\n".join(lines) + "\n")
        assert SSHD is not None
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", config], stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("sshd did not start")

    def connections(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def signal_connections(self, number: signal.Signals) -> None:
        for pid in self.connections():
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(pid, number)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.signal_connections(signal.SIGKILL)
        self.process.kill()
        self.process.wait(timeout=10)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``host``, ``other_host``, ``rsa_host``, ``client`` and ``locked`` (encrypted)."""
    folder = tmp_path_factory.mktemp("keys")
    make_key(folder / "host")
    make_key(folder / "other_host")
    make_key(folder / "ecdsa_host", kind="ecdsa")
    make_key(folder / "client")
    make_key(folder / "locked", passphrase="locked away")
    return folder


@pytest.fixture(scope="session")
def start_sshd(
    keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Sshd]]:
    if SSHD is None:
        pytest.skip("no OpenSSH server on this machine (package openssh-server)")
    Path("/run/sshd").mkdir(exist_ok=True)
    started: list[Sshd] = []

    def start(*settings: str, host_key: str = "host", port: int | None = None) -> Sshd:
        server = Sshd(
            folder=tmp_path_factory.mktemp("sshd"),
            host_key=keys / host_key,
            client_key=keys / "client",
            settings=settings,
        )
        if port is not None:
            server.port = port
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def sshd(start_sshd: Callable[..., Sshd]) -> Sshd:
    """Shared by tests that do it no harm."""
    return start_sshd()


@pytest.fixture
def make_host(keys: Path) -> Callable[..., Host]:
    def make(name: str, port: int, **ssh: object) -> Host:
        settings = Ssh(user="root", port=port, key=keys / "client", connect_timeout_s=10)
        return Host(
            name=parse_host(name),
            address="127.0.0.1",
            roles=frozenset({Role.WORKLOAD}),
            zone="",
            labels={},
            transport=TransportKind.SSH,
            root="",
            ssh=replace(settings, **ssh),  # type: ignore[arg-type]
            proxy=ProxyPlacement(),
            services=(),
        )

    return make


@pytest.fixture
def known_hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a folder that does not exist yet."""
    return tmp_path_factory.mktemp("operator") / "state" / "known_hosts"


@pytest.fixture
async def connector_to(
    known_hosts: Path,
) -> AsyncIterator[Callable[..., SshConnector]]:
    opened: list[SshConnector] = []

    def make(*hosts: Host, keepalive_s: float = 5.0, keepalive_count: int = 3) -> SshConnector:
        connector = SshConnector(
            hosts,
            known_hosts=known_hosts,
            keepalive_s=keepalive_s,
            keepalive_count=keepalive_count,
        )
        opened.append(connector)
        return connector

    yield make
    for connector in opened:
        await connector.close()


async def trust_host(host: Host, known_hosts: Path) -> None:
    while not (key := await scan_host_key(host, known_hosts=known_hosts)).is_trusted:
        await asyncio.to_thread(trust, key, known_hosts)


@pytest.fixture
async def web(sshd: Sshd, make_host: Callable[..., Host], known_hosts: Path) -> Host:
    """A trusted host behind the shared server."""
    host = make_host("web-1", sshd.port)
    await trust_host(host, known_hosts)
    return host


@pytest.fixture
def accepting(make_host: Callable[..., Host]) -> Callable[..., Host]:
    return lambda name, port, **ssh: make_host(
        name, port, host_keys=HostKeyPolicy.ACCEPT_NEW, **ssh
    )
