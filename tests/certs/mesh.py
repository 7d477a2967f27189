"""A mesh of real proxy processes on this machine, installed as a deploy leaves them.

Two hosts over the local transport: ``front`` with web, which calls api on ``back``. Releases are a
script that runs this interpreter; everything else (layout, settings, trust bundle, identities, CA,
registry) is the real thing, so that what ``meshctl certs`` does to it is what it does to hosts.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec.structs
from ports import free_ports

from meshctl import artifacts
from meshctl.apply.issue import Issuance, issue
from meshctl.apply.operate import Remote
from meshctl.apply.placed import Reached, look
from meshctl.apply.rescue import start_proxy
from meshctl.facts.request import layout_of, pid_file
from meshctl.inventory.model import Host, Inventory
from meshctl.inventory.parse import parse
from meshctl.pki import keyfile
from meshctl.pki.authority import create_issuing, create_root, pem
from meshctl.pki.passphrase import Passphrase
from meshctl.pki.store import CaStore
from meshctl.registry.server import Registry
from meshctl.state import DeployRecord, HostRecord, StateDir
from meshctl.transport.connect import Connections
from proxy.model.codec import encode_readable
from proxy.model.names import TrustDomain

DOMAIN = TrustDomain("mesh.test")
RELEASE = "release-of-this-checkout"
OWNER = "tests"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def now() -> datetime:
    return datetime.now(UTC)


def no_passphrase() -> Passphrase:
    raise AssertionError("the keys of this CA are not encrypted")


@dataclass
class Load:
    """Requests through both proxies, one after the other, on new connections and kept ones."""

    port: int
    done: int = 0
    failures: list[str] = field(default_factory=list)

    async def run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(20):
                    await self._connection(4)
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.005)

    async def _connection(self, count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for _ in range(count):
                writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                body = await reader.readexactly(length)
                if b" 200 " in head.partition(b"\r\n")[0]:
                    self.done += 1
                else:
                    self.failures.append((head.partition(b"\r\n")[0] + body).decode())
        finally:
            writer.close()


@dataclass
class RealMesh:
    folder: Path
    inventory: Inventory
    state: StateDir
    load: Load
    registry: Registry
    app: asyncio.Server | None = None

    @property
    def inventory_file(self) -> Path:
        return self.folder / "inventory.yaml"

    def host(self, name: str) -> Host:
        return next(host for host in self.inventory.hosts if host.name == name)

    def connections(self) -> Connections:
        return Connections(self.inventory.hosts, known_hosts=self.state.known_hosts)

    def common(self, connector: Any) -> dict[str, Any]:
        """What RootRotation and Rescue take."""
        return {
            "inventory": self.inventory,
            "state": self.state,
            "connector": connector,
            "passphrase": no_passphrase,
            "owner": OWNER,
            "parallel": 10,
            "now": now,
            "say": lambda _: None,
        }

    def ca(self) -> CaStore:
        return CaStore.open(self.state)

    def replace_ca(
        self, *, root_life_s: float, issuing_life_s: float, made: datetime | None = None
    ) -> None:
        """Another CA in the place of the first, of that life; ``made``: when it began."""
        made = made or now()
        root = create_root(DOMAIN, made, life_s=root_life_s)
        issuing = create_issuing(root, made, life_s=issuing_life_s)
        folder = self.state.path / "ca"
        for name, data in (
            ("root.key", keyfile.to_pem(root.key, None)),
            ("root.pem", pem(root.certificate)),
            ("issuing.key", keyfile.to_pem(issuing.key, None)),
            ("issuing.pem", pem(issuing.certificate)),
            ("trust-bundle.pem", pem(root.certificate)),
        ):
            (folder / name).write_bytes(data)

    async def install(self, *, leaf_life_s: float | None = None) -> None:
        """What a deploy leaves behind, on every host."""
        record = DeployRecord(
            hosts={
                host.name: HostRecord(services=tuple(each.name for each in host.services))
                for host in self.inventory.hosts
            }
        )
        self.state.write_record(record)
        for host in self.inventory.hosts:
            await self.install_host(host, leaf_life_s=leaf_life_s)

    async def install_host(self, host: Host, *, leaf_life_s: float | None = None) -> None:
        layout, ca = layout_of(host), self.ca()
        release = Path(layout.release(RELEASE))
        (release / "bin").mkdir(parents=True, exist_ok=True)
        (release / ".complete").touch()
        python = release / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        Path(layout.state).mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = artifacts.settings(self.inventory, host, trust_domain=DOMAIN, release=RELEASE)
        # The policy is not what is tried here: without a key, the declared upstreams hold.
        settings = msgspec.structs.replace(settings, policy_keys="")
        config = Path(layout.config(settings.config))
        config.mkdir(parents=True, exist_ok=True)
        (config / "proxy.json").write_bytes(encode_readable(settings))
        (config / "trust-bundle.pem").write_bytes(ca.trust_bundle_pem)
        for link, target in ((config / "release", release), (Path(layout.current), config)):
            if not link.is_symlink():
                link.symlink_to(target)
        connections = self.connections()
        transport = await connections.connect(host.name)
        remote = Remote(host=host, transport=transport, python=sys.executable, owner=OWNER)
        issuance = Issuance(
            signer=ca.unlock(no_passphrase),
            record=self.state.read_record(),
            trust_domain=DOMAIN,
            now=now,
            **({"life_s": leaf_life_s} if leaf_life_s is not None else {}),
        )
        for service in host.services:
            await issue(issuance, remote, service.name, release=RELEASE, config=settings.config)
        await connections.close()

    async def start(self, *names: str) -> None:
        """The proxies of these hosts, all by default; returns when they are ready."""
        for host in self.inventory.hosts:
            if names and host.name not in names:
                continue
            connections = self.connections()
            transport = await connections.connect(host.name)
            remote = Remote(host=host, transport=transport, python=sys.executable, owner=OWNER)
            await start_proxy(Reached(remote=remote, placed=await look(host, transport)))
            await remote.operate("unlock")
            await connections.close()

    async def serve(self) -> None:
        """Returns once a request gets through from end to end."""
        ends = asyncio.get_running_loop().time() + 60
        while not self.load.done:
            assert asyncio.get_running_loop().time() < ends, self.load.failures[-3:]
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(10):
                    await self.load._connection(1)
            await asyncio.sleep(0.05)
        self.load.failures.clear()

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[Load]:
        tasks = [asyncio.create_task(self.load.run()) for _ in range(3)]
        try:
            yield self.load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def pid(self, name: str) -> int:
        """0: it does not run."""
        try:
            pid = int(Path(pid_file(self.host(name))).read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return 0
        return 0 if state == "Z" else pid

    def kill(self, name: str) -> None:
        if pid := self.pid(name):
            os.kill(pid, signal.SIGKILL)

    async def close(self) -> None:
        for host in self.inventory.hosts:
            self.kill(host.name)
        if self.app is not None:
            self.app.close()
        await self.registry.stop()


@contextlib.asynccontextmanager
async def real_mesh(folder: Path) -> AsyncIterator[RealMesh]:
    """Nothing is installed or started yet; the registry and the application of api run."""
    registry_port, app_port, web_app, outbound, by_host, *ports = free_ports(9)
    text = f"""\
version: 1
consul: {{mode: embedded, address: "http://127.0.0.1:{registry_port}"}}
hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: {folder}/front
    proxy: {{inbound_port: {ports[0]}, admin_port: {ports[1]}, drain: 1s}}
    services:
      - name: web
        port: {web_app}
        protocol: http
        outbound_port: {by_host}
        upstreams: [{{service: api, port: {outbound}}}]
  - name: back
    address: 127.0.0.1
    transport: local
    root: {folder}/back
    proxy: {{inbound_port: {ports[2]}, admin_port: {ports[3]}, drain: 1s}}
    services: [{{name: api, port: {app_port}, protocol: http}}]
"""
    (folder / "inventory.yaml").write_text(text)
    inventory = parse(text, folder / "inventory.yaml")
    state = StateDir.create(folder / ".meshctl", DOMAIN, now())
    CaStore.create(state, None, now())
    registry = Registry(port=registry_port, check_update_interval_s=0)
    await registry.start()
    mesh = RealMesh(
        folder=folder,
        inventory=inventory,
        state=state,
        load=Load(port=outbound),
        registry=registry,
    )

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ends):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(OK)
        writer.close()

    mesh.app = await asyncio.start_server(answer, "127.0.0.1", app_port)
    try:
        yield mesh
    finally:
        await mesh.close()


def expired(life_s: float = 3600) -> datetime:
    """A moment so long ago that what was made then, with that life, has ended."""
    return now() - timedelta(seconds=life_s + 60)
