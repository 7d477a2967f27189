"""Agents of a managed Consul call servers with TLS: nobody on the way reads a token, only a server
of theirs is believed, and a cluster that ran without gets it while every service stays in sight."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from contract import cluster as clusters

from meshctl.acl import grants
from meshctl.layout import Layout
from meshctl.pki.consul import ConsulCa
from meshctl.rpctls import Mode, server_name
from meshctl.signer import consul_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contract.cluster import Cluster

pytestmark = [pytest.mark.consul, pytest.mark.timeout(300)]

SERVERS = ("one", "two", "three")
HOSTS = {"one": ["api"], "two": ["web"], "three": [], "four": ["web"]}
RPC = 8300
_ALL_PROTOCOLS = 3


def establish(cluster: Cluster) -> None:
    acl = cluster.acl
    services = {host.name: [s.name for s in host.services] for host in cluster.inventory.hosts}
    wanted = grants(acl, services)
    asyncio.run(cluster.access.establish(wanted, acl.hosts, is_fresh=True))


def a_cluster(binary: str, folder: Path, mode: Mode) -> Cluster:
    cluster = clusters.make(binary, folder, HOSTS, servers=3)
    cluster.ca = ConsulCa(cluster.folder / "state")
    try:
        if mode is not Mode.OFF:
            for name in HOSTS:
                cluster.trust(name)
            for name in SERVERS:
                cluster.certify(name)
        for name in SERVERS:
            cluster.start(name, tls=mode)
        cluster.await_leader(*SERVERS, servers=3)
        establish(cluster)
        cluster.start("four", tls=mode)
        cluster.await_leader("four")
    except BaseException:
        cluster.close()
        raise
    return cluster


def token(cluster: Cluster, name: str) -> str:
    return cluster.acl.hosts[cluster.host(name).name].proxy.secret


def register(cluster: Cluster) -> None:
    service = {"ID": "mesh-api-x", "Name": "mesh-api", "Port": 15006}
    path = "agent/service/register"

    def is_done() -> bool:
        return cluster.ask("one", "PUT", path, service, token=token(cluster, "one"))[0] == 200

    cluster.until("the service is registered", is_done)
    for host in HOSTS:
        cluster.until("all see it", lambda host=host: seen(cluster, host)[1])


def seen(cluster: Cluster, host: str) -> Any:
    """By that host's proxy, asked of a server each time."""
    path = "health/service/mesh-api"
    status, found = cluster.ask(host, "GET", path, token=token(cluster, host))
    return status, [entry["Node"]["Node"] for entry in found] if status == 200 else found


@dataclass
class Recorder:
    """What passes over loopback from and to the port that servers are called on."""

    addresses: set[str]
    heard: bytearray = field(default_factory=bytearray)
    _stop: threading.Event = field(default_factory=threading.Event)

    def listen(self, link: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                frame = link.recv(1 << 17)
            except TimeoutError:
                continue
            packet = frame[14:]
            if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
                continue
            if socket.inet_ntoa(packet[16:20]) not in self.addresses:
                continue
            segment = packet[(packet[0] & 15) * 4 :]
            ports = int.from_bytes(segment[:2]), int.from_bytes(segment[2:4])
            if RPC in ports:
                self.heard += segment[(segment[12] >> 4) * 4 :]

    def end(self) -> None:
        self._stop.set()


@contextmanager
def recording(cluster: Cluster) -> Iterator[Recorder]:
    try:
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    except PermissionError:
        pytest.skip("only root may listen on a link")
    with link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        link.bind(("lo", 0))
        link.settimeout(0.2)
        recorder = Recorder({host.address for host in cluster.inventory.hosts})
        thread = threading.Thread(target=recorder.listen, args=(link,))
        thread.start()
        try:
            yield recorder
        finally:
            recorder.end()
            thread.join(30)


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.ENFORCED])
def test_who_listens_between_agents_reads_tokens_only_where_there_is_no_tls(
    consul_binary: str, tmp_path: Path, mode: Mode
) -> None:
    cluster = a_cluster(consul_binary, tmp_path, mode)
    try:
        secret = token(cluster, "four").encode()
        with recording(cluster) as recorder:
            register(cluster)
            # Each asks a server, which says what it may not read, too.
            for host in HOSTS:
                cluster.ask(host, "GET", "catalog/nodes", token=token(cluster, host))
            cluster.until("something is heard", lambda: len(recorder.heard) > 2000)
            if mode is Mode.OFF:
                cluster.until("the token is heard", lambda: secret in recorder.heard)
            for known in cluster.acl.hosts.values():
                is_heard = known.proxy.secret.encode() in recorder.heard
                assert not is_heard or mode is Mode.OFF
            assert (b"mesh-api" in recorder.heard) == (mode is Mode.OFF)
    finally:
        cluster.close()


@pytest.mark.parametrize("which", ["its own", "of another CA", "under another name", "none"])
def test_a_client_calls_a_server_only_with_its_certificate(
    consul_binary: str, tmp_path: Path, which: str
) -> None:
    cluster = clusters.make(consul_binary, tmp_path, {"one": [], "two": ["web"]}, servers=1)
    cluster.ca = ConsulCa(cluster.folder / "state")
    try:
        for name in ("one", "two"):
            cluster.trust(name)
        cluster.certify("one")
        cluster.start("one", tls=Mode.ENFORCED)
        cluster.await_leader("one")
        establish(cluster)
        if which != "its own":
            if which != "none":
                impostor(cluster, which)
            # It alone serves: it has nobody to call but itself.
            cluster.start("one", tls=Mode.OFF if which == "none" else Mode.OFFERED)
            cluster.await_leader("one")
        cluster.start("two", tls=Mode.ENFORCED)
        path = "catalog/nodes"
        if which == "its own":
            cluster.until(
                "it is answered",
                lambda: cluster.ask("two", "GET", path, token=token(cluster, "two"))[0] == 200,
            )
            return

        def refused() -> Any:
            status, text = cluster.ask("two", "GET", path, token=token(cluster, "two"))
            assert status != 200, text
            return ("tls: " if which == "none" else "x509: ") in str(text)

        cluster.until("the certificate is what is refused", refused)
    finally:
        cluster.close()


def impostor(cluster: Cluster, which: str) -> None:
    assert cluster.ca is not None
    host, now = cluster.host("one"), datetime.now(UTC)
    folder = Path(Layout(host.root).consul_tls)
    ca, datacenter = cluster.ca, "dc1"
    if which == "of another CA":
        (cluster.folder / "other").mkdir()
        ca = ConsulCa(cluster.folder / "other")
    else:
        datacenter = "dc2"
    made = ca.certify(host.name, consul_keys.request(folder), datacenter, now)
    consul_keys.install(folder, server_name(datacenter), made, now=now)


def test_every_service_stays_in_sight_on_the_way_to_it_and_to_another_ca(
    consul_binary: str, tmp_path: Path
) -> None:
    """The order of deploys: into TLS, then, the CA's key lost, back and into it again."""
    cluster = a_cluster(consul_binary, tmp_path, Mode.OFF)
    shown: list[tuple[str, Any]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for host in HOSTS:
                status, found = seen(cluster, host)
                # An agent that restarts does not answer; proxies go on with what they know.
                if status == 200:
                    shown.append((host, found))
            stop.wait(0.05)

    def turn(mode: Mode, *, certifies: bool = False) -> None:
        for name in HOSTS:
            if certifies:
                cluster.trust(name)
                if name in SERVERS:
                    cluster.certify(name)
            cluster.start(name, tls=mode)
            cluster.await_leader(name)
            if name in SERVERS:
                cluster.await_leader(name, servers=3)

    watcher = threading.Thread(target=watch)
    try:
        register(cluster)
        watcher.start()
        turn(Mode.OFFERED, certifies=True)
        turn(Mode.ENFORCED)
        (cluster.folder / "state" / "ca.key").unlink()
        turn(Mode.OFFERED)
        turn(Mode.OFFERED, certifies=True)
        turn(Mode.ENFORCED)
        fresh = replace(cluster, ca=ConsulCa(cluster.folder / "state"))
        assert fresh.ca is not None
        assert set(fresh.ca.read(SERVERS, "dc1").servers) == set(SERVERS)  # type: ignore[arg-type]
        for host in HOSTS:
            cluster.until("all see it", lambda host=host: seen(cluster, host) == (200, ["one"]))
    finally:
        stop.set()
        if watcher.ident is not None:
            watcher.join(60)
        cluster.close()
    assert {host for host, _ in shown} == set(HOSTS)
    assert [entry for entry in shown if entry[1] != ["one"]] == []
