"""Real agents on addresses of their own, started with the very configuration that a deploy writes.

Each address is one of 127.0.0.0/8, so that every agent has Consul's usual ports for itself.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshctl import artifacts
from meshctl.apply.consul_acl import ConsulAcl
from meshctl.apply.consul_tokens import ConsulTokens
from meshctl.artifacts import ManagedConsul
from meshctl.inventory.parse import parse
from meshctl.layout import Layout
from meshctl.pki.consul import ConsulCa
from meshctl.rpctls import Mode, server_name
from meshctl.signer import consul_keys
from meshctl.transport.local import LocalTransport
from proxy.model.names import HostName
from proxy.model.settings import Address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from meshctl.acl import Acl
    from meshctl.inventory.model import Host, Inventory

START_S = 60.0
GOSSIP_KEY = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="


@dataclass(slots=True)
class Cluster:
    binary: str
    folder: Path
    inventory: Inventory
    processes: dict[HostName, subprocess.Popen[bytes]] = field(default_factory=dict)
    ca: ConsulCa | None = None
    """Of its servers, where agents talk TLS to them."""

    @property
    def tokens(self) -> ConsulTokens:
        return ConsulTokens(self.folder / "state")

    @property
    def acl(self) -> Acl:
        return self.tokens.read([host.name for host in self.inventory.hosts])

    @property
    def access(self) -> ConsulAcl:
        return ConsulAcl(self.inventory, Through(self.inventory), self.tokens)

    def host(self, name: str) -> Host:
        return next(host for host in self.inventory.hosts if host.name == name)

    def url(self, name: str) -> str:
        return f"http://{self.host(name).address}:8500"

    def certify(self, name: str) -> None:
        """As a deploy does on a server, with the command's own functions."""
        assert self.ca is not None
        host, datacenter = self.host(name), self.inventory.consul.datacenter
        folder = Path(Layout(host.root).consul_tls)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = datetime.now(UTC)
        made = self.ca.certify(host.name, consul_keys.request(folder), datacenter, now)
        consul_keys.install(folder, server_name(datacenter), made, now=now)
        self.ca.confirm(host.name)

    def trust(self, name: str) -> None:
        """Writes the CA for that host's agent."""
        assert self.ca is not None
        path = Path(Layout(self.host(name).root).consul_ca)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.ca.read((), self.inventory.consul.datacenter).ca)

    def start(
        self,
        name: str,
        *,
        is_enforced: bool = True,
        has_acl: bool = True,
        tls: Mode = Mode.OFF,
    ) -> None:
        """Ends the agent first, if it runs."""
        self.stop(name)
        host = self.host(name)
        consul = ManagedConsul(
            binary=Path(self.binary), sha256="", size=0, gossip_key=GOSSIP_KEY, acl=self.acl
        )
        file, _ = artifacts.consul_files(
            self.inventory, host, consul, is_enforced=is_enforced, tls=tls
        )
        config = json.loads(file.content)
        # All agents share this machine's loopback.
        config["client_addr"] = host.address
        # For the test to end in time, and to see that what is refused is not merely late.
        config["performance"]["raft_multiplier"] = 1
        if not has_acl:
            del config["acl"]
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(config))
        data = Path(host.root) / "var/lib/meshctl-consul"
        data.mkdir(parents=True, exist_ok=True)
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[host.name] = subprocess.Popen(
            [self.binary, "agent", f"-config-file={path}", f"-data-dir={data}"],
            stdout=log,
            stderr=log,
        )
        log.close()

    def stop(self, name: str) -> None:
        process = self.processes.pop(HostName(name), None)
        if process is not None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        for name in list(self.processes):
            self.stop(name)

    def ask(
        self, name: str, method: str, path: str, body: Any = None, *, token: str = ""
    ) -> tuple[int, Any]:
        """Status and JSON, or text, of an answer of that host's agent."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url(name)}/v1/{path}", method=method, data=data)
        if token:
            request.add_header("X-Consul-Token", token)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        except OSError as error:
            return 0, str(error)
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text.decode("utf-8", "replace")

    def until(self, what: str, check: Any, within_s: float = START_S) -> Any:
        deadline = time.monotonic() + within_s
        while True:
            found = check()
            if found:
                return found
            assert time.monotonic() < deadline, f"not in time: {what}"
            time.sleep(0.1)

    def await_leader(self, *names: str, servers: int = 1) -> None:
        def knows(name: str) -> bool:
            status, leader = self.ask(name, "GET", "status/leader")
            peers = self.ask(name, "GET", "status/peers")[1]
            return status == 200 and bool(leader) and len(peers or ()) >= servers

        for name in names:
            self.until(f"a leader at {name}", lambda name=name: knows(name))


def make(binary: str, folder: Path, hosts: Mapping[str, Sequence[str]], *, servers: int) -> Cluster:
    """``hosts``: name to services; the first ``servers`` of them vote."""
    prefix = f"127.{random.randrange(16, 250)}.{random.randrange(1, 250)}"
    text = "version: 1\nconsul: {mode: managed, package: {binary: ./consul}}\nhosts:\n"
    for number, (name, services) in enumerate(hosts.items()):
        roles = "[control, workload]" if number < servers else "[workload]"
        carried = ", ".join(
            f"{{name: {service}, port: {8080 + port}}}" for port, service in enumerate(services)
        )
        text += (
            f"  - {{name: {name}, address: {prefix}.{number + 1}, roles: {roles},"
            f" services: [{carried}]}}\n"
        )
    inventory = parse(text, folder / "inventory.yaml")
    made = tuple(replace(host, root=str(folder / host.name)) for host in inventory.hosts)
    return Cluster(binary=binary, folder=folder, inventory=replace(inventory, hosts=made))


@dataclass(frozen=True, slots=True)
class Through:
    """A connector to this machine as if it were each of the hosts."""

    inventory: Inventory

    async def connect(self, host: HostName) -> Any:
        address = next(known.address for known in self.inventory.hosts if known.name == host)
        return _Transport(host, address)

    async def close(self) -> None: ...


class _Transport(LocalTransport):
    def __init__(self, host: HostName, address: str) -> None:
        super().__init__(host)
        self._address = address

    @asynccontextmanager
    async def tunnel(self, target: Address) -> AsyncIterator[Address]:
        """Agents listen on their hosts' own loopback; these have an address each instead."""
        yield Address(host=self._address, port=target.port)
