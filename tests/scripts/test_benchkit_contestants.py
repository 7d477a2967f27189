"""Each contestant as it is measured: real processes, two mTLS hops, and who is turned away."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchkit import connections, load, needs, probe, registry, rounds, scale
from benchkit.backend import ECHOED
from benchkit.contestants import (
    ADDRESSES,
    CALLER,
    REQUEST_PREFIX,
    ROUTES,
    ROUTING_HEADER,
    Application,
    Contestant,
    Group,
    Site,
    spiffe_id,
)
from benchkit.contestants.consul import ConsulConnect
from benchkit.contestants.envoy import Envoy
from benchkit.contestants.haproxy import HAProxy
from benchkit.contestants.nginx import STREAM_MODULE, Nginx
from benchkit.contestants.ours import Ours
from benchkit.processes import Failed
from benchkit.processes import Group as Processes
from benchkit.turn import Bench, free_ports, new_site

TREE = Path(__file__).resolve().parents[2]
PROGRAMS = ("wrk", "nginx", "haproxy", str(STREAM_MODULE))


def ours(group: Group) -> Ours:
    """From this tree, not from a wheel: the interpreter of the tests has all that it needs."""
    python = Path(sys.executable)
    return Ours(host_python=python, operator_python=python, version="tree", group=group)


def consul() -> ConsulConnect:
    return ConsulConnect(needs.consul(print, TREE))


MAKERS: dict[str, Callable[[], Contestant]] = {
    "meshctl": lambda: ours(Group.FULL),
    "envoy": lambda: Envoy(needs.envoy(print)),
    "haproxy": HAProxy,
    "nginx": Nginx,
    "consul connect": consul,
    "meshctl bare": lambda: ours(Group.BARE),
    "envoy bare": lambda: Envoy(needs.envoy(print), Group.BARE),
    "haproxy bare": lambda: HAProxy(Group.BARE),
}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    try:
        needs.programs(print, PROGRAMS)
    except Failed as error:
        pytest.skip(str(error))
    connections.allow_files(50)
    cores = sorted(os.sched_getaffinity(0))
    with rounds.bench(Path(sys.executable), proxy_core=cores[-1], load_core=cores[0]) as made:
        yield made


def a_site(directory: Path) -> Site:
    return Site(
        directory=directory,
        identities=directory,
        backend_port=1,
        application=Application(port=1),
        ports=free_ports(),
        proxy_core=0,
        load_core=0,
    )


@pytest.mark.parametrize("name", MAKERS)
def test_a_request_and_a_stream_get_through_and_strangers_do_not(bench: Bench, name: str) -> None:
    contestant = MAKERS[name]()
    assert contestant.name == name
    is_tcp_only = contestant.group is Group.TCP
    with new_site(bench, "test") as site, Processes() as processes:
        pair = contestant.start(site, processes)
        http = [] if is_tcp_only else [site.ports.http_out]
        path = bench.backend.small if contestant.group is Group.BARE else bench.backend.routed
        probe.wait_ready(list(processes), [*http, site.ports.tcp_out], path)
        assert contestant.intruders(site) == ()
        assert all(process.cpu_s() >= 0 for process in pair.both)


@pytest.mark.parametrize("name", ["meshctl", "envoy", "haproxy", "nginx"])
def test_a_request_brings_its_id_and_its_callers_identity(bench: Bench, name: str) -> None:
    with new_site(bench, "echo") as site, Processes() as processes:
        MAKERS[name]().start(site, processes)
        port = site.ports.http_out
        probe.wait_ready(list(processes), [port], bench.backend.routed)
        first, second = (probe.echoed(port, bench.backend.echo) for _ in range(2))
        assert first["x-request-id"] != second["x-request-id"]
        caller = first["x-forwarded-client-cert"]
        assert spiffe_id(CALLER) in caller or f"CN={CALLER}." in caller
        assert set(first) <= set(ECHOED)
        # The same held open, as for the memory row.
        with connections.held(port, bench.backend.routed, 20):
            assert probe.is_served(site.ports.tcp_out)


class Careless(HAProxy):
    """Forgets to check who calls."""

    def configurations(self, site: Site) -> tuple[str, str]:
        server, client = super().configurations(site)
        kept = [line for line in server.splitlines() if "ssl_c_s_dn(CN) -m str" not in line]
        return "\n".join([*kept, ""]), client


def test_one_who_lets_strangers_in_is_found_out(bench: Bench) -> None:
    contestant = Careless()
    with new_site(bench, "careless") as site, Processes() as processes:
        contestant.start(site, processes)
        probe.wait_ready(list(processes), [site.ports.http_out], bench.backend.routed)
        found = contestant.intruders(site)
    assert found == ("api let stranger in", "blob let stranger in")


def test_a_policy_is_waited_for_until_it_is_in_force_or_refused(bench: Bench) -> None:
    contestant = ours(Group.FULL)
    with new_site(bench, "policy") as site, Processes() as processes:
        first, second = contestant.policies(site, generations=[1, 2], others=scale.services(20))
        contestant.start_with(
            site, processes, policy=first, registered=scale.endpoints(scale.services(3))
        )
        probe.wait_ready(list(processes), [site.ports.http_out], bench.backend.routed)
        scale.wait_generation(site, 1)
        registry.publish(site.ports.registry, second)
        scale.wait_generation(site, 2)
        registry.publish(site.ports.registry, dict.fromkeys(second, b"{}"))
        with pytest.raises(Failed, match="generation 3 was refused"):
            scale.wait_generation(site, 3)


def test_the_load_asks_for_many_paths_with_many_values_of_the_header(tmp_path: Path) -> None:
    asked: set[tuple[str, str]] = set()

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.add((self.path, self.headers[ROUTING_HEADER]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            wrk = load.Load(tmp_path, core=min(os.sched_getaffinity(0)))
            url = f"http://127.0.0.1:{server.server_port}/elsewhere"
            outcome = wrk.run(url, connections=1, duration_s=1, is_varied=True)
        finally:
            server.shutdown()
            thread.join()
    assert outcome.failures == ()
    paths, values = {path for path, _ in asked}, {value for _, value in asked}
    assert all(path.startswith(f"{REQUEST_PREFIX}/") for path in paths)
    assert all(value.startswith("t") for value in values)
    assert len(paths) == min(load.VARIETY, outcome.succeeded)
    assert len(values) > 1


# configurations, without a process


def routes_of(text: str) -> Sequence[str]:
    return [route.name for route in ROUTES if route.path_prefix in text]


@pytest.mark.parametrize("make", [HAProxy, Nginx])
def test_text_configurations_have_routes_endpoints_and_metrics(
    tmp_path: Path, make: Callable[[], HAProxy | Nginx]
) -> None:
    site = a_site(tmp_path)
    server, client = make().configurations(site)
    assert len(routes_of(client)) == len(ROUTES)
    for address in ADDRESSES:
        assert f"{address}:{site.ports.http_in}" in server
        assert f"{address}:{site.ports.http_in}" in client
    for text, port in ((server, site.ports.server_admin), (client, site.ports.client_admin)):
        assert f"127.0.0.1:{port}" in text


def test_envoys_features_are_in_its_documents_and_absent_when_bare(tmp_path: Path) -> None:
    envoy = Path(tmp_path / "envoy")
    envoy.write_text("#!/bin/sh\necho 'envoy  version: 0/1.2.3/Clean/RELEASE/BoringSSL'\n")
    envoy.chmod(0o700)
    site = a_site(tmp_path)
    features = (
        "retry_policy",
        "outlier_detection",
        "LEAST_REQUEST",
        "circuit_breakers",
        "OpenTelemetryConfig",
        ADDRESSES[1],
    )
    server, client = (json.dumps(part) for part in Envoy(envoy).configurations(site))
    assert [name for name in features if name not in client] == []
    assert spiffe_id(CALLER) in server
    assert "filters.http.rbac" in server
    bare = Envoy(envoy, Group.BARE)
    assert bare.version == "1.2.3"
    for text in map(json.dumps, bare.configurations(site)):
        assert [name for name in features if name in text] == []


def test_the_policy_of_a_large_mesh_has_every_route_and_fits_the_registry(tmp_path: Path) -> None:
    services = scale.services(1000)
    assert len(scale.endpoints(services)) == 9990
    made = ours(Group.FULL).policies(a_site(tmp_path), generations=[1, 2], others=services)
    assert len(made) == 2
    assert made[0] != made[1]
    for keys in made:
        assert all(len(value) <= 512 * 1024 for value in keys.values())
