"""Addresses bound for several workers."""

import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload
from proxy.net.dataplane import ListenError
from proxy.net.sockets import Sockets, places, usable_cores, worker_count

LOOPBACK = "127.0.0.1"


@pytest.fixture
def settings(free_ports: Any) -> Settings:
    inbound, upstream, shared = free_ports(3)

    def at(port: int) -> Address:
        return Address(host=LOOPBACK, port=port)

    return Settings(
        host=HostName("h1"),
        trust_domain=TrustDomain("mesh.test"),
        advertise=LOOPBACK,
        release="r",
        admin=at(1),
        inbound=at(inbound),
        consul=Consul(url="http://127.0.0.1:1"),
        state_dir="/nowhere",
        trust_bundle="/nowhere",
        workers=3,
        workloads=(
            Workload(
                service=ServiceName("web"),
                protocol="http",
                version="1",
                app=at(2),
                health=HealthCheck(),
                allow=(),
                outbound=at(shared),
                upstreams=(
                    Upstream(service=ServiceName("api"), protocol="http", listen=at(upstream)),
                    Upstream(service=ServiceName("db"), protocol="http"),
                ),
            ),
        ),
    )


@pytest.fixture
def sockets(settings: Settings) -> Iterator[Sockets]:
    made = Sockets(settings, 3)
    made.bind()
    yield made
    made.close()


def accepted(listener: socket.socket) -> int:
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_every_address_is_bound_for_every_worker_and_connections_spread(
    settings: Settings, sockets: Sockets
) -> None:
    wanted = [(address.host, address.port) for address, _ in places(settings)]
    assert len(wanted) == 3
    for place in wanted:
        clients = [socket.create_connection(place, 5) for _ in range(60)]
        counts = [accepted(sockets.of(worker)[place]) for worker in range(3)]
        for client in clients:
            client.close()
        assert sum(counts) == 60
        assert min(counts) >= 5


def test_a_copy_shares_the_queue_of_its_worker(settings: Settings, sockets: Sockets) -> None:
    place = (LOOPBACK, settings.inbound.port)
    copies = sockets.copies(1)
    clients = [socket.create_connection(place, 5) for _ in range(60)]
    held = accepted(copies[place])
    assert held >= 5
    assert accepted(sockets.of(1)[place]) == 0
    for each in (*copies.values(), *clients):
        each.close()


@pytest.mark.parametrize("is_sharing", [False, True])
def test_an_address_in_use_is_refused_with_who_wants_it_and_nothing_stays_bound(
    settings: Settings, is_sharing: bool
) -> None:
    listen = settings.workloads[0].upstreams[0].listen
    assert listen is not None
    with socket.socket() as squatter:
        if is_sharing:  # as another proxy of the same user does
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        squatter.bind((listen.host, listen.port))
        squatter.listen()
        with pytest.raises(ListenError) as refusal:
            Sockets(settings, 2).bind()
    for word in (f"{LOOPBACK}:{listen.port}", "web", "api", "in use"):
        assert word in str(refusal.value)
    with socket.socket() as free:
        free.bind((LOOPBACK, settings.inbound.port))


def test_an_address_that_is_none_is_refused(settings: Settings) -> None:
    wrong = msgspec.structs.replace(settings, inbound=Address(host="not a host", port=1))
    with pytest.raises(ListenError, match="the inbound side"):
        Sockets(wrong, 2).bind()


def test_a_single_worker_gets_none(settings: Settings) -> None:
    alone = Sockets(settings, 1)
    alone.bind()
    assert alone.of(0) == {}


def test_zero_workers_are_as_many_as_there_are_cores(settings: Settings) -> None:
    assert worker_count(settings) == 3
    assert worker_count(msgspec.structs.replace(settings, workers=0)) == usable_cores() >= 1
