"""The inventory's parser: cases as data, and what a valid inventory becomes.

A case is a file in tests/cases/inventory. Its comments say what is expected on their own line:
``# expect PATH: PART OF THE MESSAGE | PATH: PART``; ``# expect-somewhere`` leaves the line open.
Every violation has to be expected, and the other way round.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck as Check
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from meshctl import yamltree
from meshctl.errors import InvalidInput
from meshctl.inventory.model import Become, ConsulMode, HostKeyPolicy, Inventory, Role
from meshctl.inventory.parse import parse
from meshctl.inventory.schema import inventory_schema
from proxy.model.settings import HealthCheck

ROOT = Path(__file__).parents[3]
CASES = sorted((ROOT / "tests/cases/inventory").glob("*.yaml"))
EXAMPLE = (ROOT / "inventory.example.yaml").read_text()
SOURCE = Path("/mesh/inventory.yaml")
SCHEMA = Draft202012Validator(inventory_schema())


def violations(text: str) -> list[tuple[int | None, str, str]]:
    try:
        parse(text, SOURCE)
    except InvalidInput as error:
        return [
            (found.line, found.path, f"{found.message} ({found.hint})")
            for found in error.violations
        ]
    return []


def expected(text: str) -> list[tuple[int | None, str, str]]:
    wanted = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.search(r"# expect(-somewhere)? (.*)$", line)
        if match is None:
            continue
        for one in match[2].split(" | "):
            path, _, part = one.partition(": ")
            wanted.append((None if match[1] else number, path.strip(), part.strip()))
    assert wanted, "a case expects something"
    return wanted


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_case_has_exactly_the_expected_violations(case: Path) -> None:
    text = case.read_text()
    found = violations(text)
    for line, path, part in expected(text):
        match = next(
            (one for one in found if one[1] == path and part in one[2] and line in (None, one[0])),
            None,
        )
        assert match is not None, f"not found: line {line}: {path}: {part}\nfound: {found}"
        found.remove(match)
    assert found == []


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


class TestExample:
    @pytest.fixture
    def inventory(self) -> Inventory:
        return parse(EXAMPLE, SOURCE)

    def test_has_its_hosts_in_order(self, inventory: Inventory) -> None:
        assert [host.name for host in inventory.hosts] == ["web-1", "app-1", "app-2", "db-1"]
        assert inventory.hosts[0].roles == {Role.CONTROL, Role.WORKLOAD}
        assert inventory.hosts[1].roles == {Role.WORKLOAD}
        assert inventory.hosts[0].labels == {"rack": "7"}

    def test_host_overrides_ssh_field_by_field(self, inventory: Inventory) -> None:
        ssh = inventory.hosts[2].ssh
        assert (ssh.user, ssh.port) == ("admin", 2222)
        assert (ssh.become, ssh.host_keys) == (Become.SUDO, HostKeyPolicy.STRICT)
        assert ssh.jump == "ops@bastion.example.com:22"

    def test_host_overrides_proxy_field_by_field(self, inventory: Inventory) -> None:
        proxy = inventory.hosts[2].proxy
        assert (proxy.inbound_port, proxy.admin_port, proxy.drain_s) == (16006, 15000, 60.0)

    def test_paths_are_resolved_against_its_folder(
        self, inventory: Inventory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert inventory.source == SOURCE
        package = inventory.consul.package
        assert package is not None
        assert package.archive == Path("/mesh/consul_linux_amd64.zip")
        assert inventory.hosts[0].ssh.known_hosts == Path("/mesh/known_hosts")
        monkeypatch.setenv("HOME", "/home/op")
        assert parse(EXAMPLE, SOURCE).hosts[0].ssh.key == Path("/home/op/.ssh/id_ed25519")

    def test_upstreams_take_the_protocol_of_their_service(self, inventory: Inventory) -> None:
        uses = inventory.hosts[0].services[0].upstreams
        assert [(use.service, use.port, use.protocol) for use in uses] == [
            ("api", 9001, "http"),
            ("orders-db", 9002, "tcp"),
            ("payments", 9003, "grpc"),
            ("search", None, "http"),
        ]

    def test_the_label_is_the_zone_of_a_host_that_does_not_say_its_own(
        self, inventory: Inventory
    ) -> None:
        assert [host.zone for host in inventory.hosts] == ["a", "a", "b", ""]

    def test_host_overrides_who_reads_its_metrics(self, inventory: Inventory) -> None:
        metrics = [host.metrics for host in inventory.hosts]
        assert [made.sources for made in metrics] == [
            ("10.0.0.5/32",), ("10.0.0.5/32",), (), ("10.0.0.5/32",),
        ]  # fmt: skip
        assert {made.port for made in metrics} == {15090}

    def test_outbound_ports_and_weights(self, inventory: Inventory) -> None:
        services = [service for host in inventory.hosts for service in host.services]
        assert [(made.name, made.outbound_port, made.weight) for made in services] == [
            ("web", 15001, 1),
            ("api", None, 3),
            ("api", None, 1),
            ("payments", None, 1),
            ("orders-db", None, 1),
            ("search", None, 1),
        ]

    def test_health_is_merged_and_the_nearest_kind_wins(self, inventory: Inventory) -> None:
        web, api = inventory.hosts[0].services[0], inventory.hosts[1].services[0]
        assert web.health == HealthCheck(kind="http", path="/healthz")
        assert api.health == HealthCheck(
            kind="http", path="/healthz", interval_s=2.0, timeout_s=1.0, unhealthy_after=3
        )
        assert inventory.hosts[3].services[0].health.kind == "tcp"
        payments = inventory.hosts[2].services[1]
        assert payments.health == HealthCheck(kind="grpc", grpc_service="payments.v1.Payments")

    def test_callers_are_known(self, inventory: Inventory) -> None:
        assert inventory.callers_of(inventory.hosts[3].services[0].name) == ("api", "web")

    def test_is_a_value(self, inventory: Inventory) -> None:
        assert inventory == parse(EXAMPLE, SOURCE)


def minimal(extra: str = "", mode: str = "existing") -> str:
    host = "{name: a, transport: local, root: ./a}"
    return f"version: 1\nconsul: {{mode: {mode}}}\nhosts:\n  - {host}\n{extra}"


class TestDefaults:
    def test_are_those_of_the_model(self) -> None:
        inventory = parse(minimal(mode="embedded"), SOURCE)
        host = inventory.hosts[0]
        assert inventory.consul.mode is ConsulMode.EMBEDDED
        assert inventory.consul.address == "http://127.0.0.1:8500"
        assert (host.address, host.root, host.services) == ("127.0.0.1", "/mesh/a", ())
        assert (host.ssh.user, host.ssh.port, host.ssh.key) == ("root", 22, None)
        assert (host.proxy.inbound_port, host.proxy.admin_port) == (15006, 15000)
        assert (host.proxy.workers, host.proxy.max_connections) == (1, 10_000)
        assert host.proxy.max_memory_bytes == 512 * 1024**2
        assert host.zone == ""

    def test_health_of_a_service_without_any_is_tcp(self) -> None:
        service = "  - {name: b, address: h, services: [{name: web, port: 80}]}\n"
        assert parse(minimal(service), SOURCE).hosts[1].services[0].health == HealthCheck()

    @pytest.mark.parametrize("protocol", ["http", "http2", "grpc", "tcp"])
    def test_a_service_is_only_connected_to_unless_it_says_more(self, protocol: str) -> None:
        own = f"{{name: web, port: 80, protocol: {protocol}}}"
        service = f"  - {{name: b, address: h, services: [{own}]}}\n"
        web = parse(minimal(service), SOURCE).hosts[1].services[0]
        assert (web.protocol, web.health) == (protocol, HealthCheck())

    @pytest.mark.parametrize("protocol", ["http", "http2", "grpc"])
    def test_the_only_caller_of_http_in_any_version_has_an_outbound_port(
        self, protocol: str
    ) -> None:
        api = f"{{name: api, port: 81, protocol: {protocol}}}"
        web = "{name: web, port: 80, upstreams: [api]}"
        service = f"  - {{name: b, address: h, services: [{web}, {api}]}}\n"
        assert parse(minimal(service), SOURCE).hosts[1].services[0].outbound_port == 15001

    def test_health_by_grpc_is_of_the_server_or_of_one_service(self) -> None:
        found = parse(
            "version: 1\nconsul: {mode: existing}\n"
            "defaults: {protocol: grpc, health: {grpc: true}}\n"
            "hosts: [{name: a, address: h, services: [{name: a, port: 1}, "
            "{name: b, port: 2, health: {grpc: b.v1.B}}, "
            "{name: c, port: 3, health: {tcp: true}}]}]",
            SOURCE,
        )
        assert [service.health for service in found.hosts[0].services] == [
            HealthCheck(kind="grpc"),
            HealthCheck(kind="grpc", grpc_service="b.v1.B"),
            HealthCheck(),
        ]

    def test_a_relative_source_is_made_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        inventory = parse(minimal(), Path("inventory.yaml"))
        assert inventory.source == tmp_path / "inventory.yaml"
        assert inventory.hosts[0].root == str(tmp_path / "a")

    def test_a_service_may_call_itself(self) -> None:
        service = "{name: web, port: 80, upstreams: [web: 9001]}"
        inventory = parse(minimal(f"  - {{name: b, address: h, services: [{service}]}}"), SOURCE)
        assert inventory.hosts[1].services[0].upstreams[0].service == "web"

    def test_a_trailing_slash_of_consul_is_dropped(self) -> None:
        text = minimal().replace("existing", "existing, address: 'http://[::1]:8500/'")
        assert parse(text, SOURCE).consul.address == "http://[::1]:8500"

    def test_violations_come_in_the_order_of_the_text(self) -> None:
        case = ROOT / "tests/cases/inventory/everything-at-once.yaml"
        lines = [line for line, _, _ in violations(case.read_text())]
        assert len(lines) == 7
        assert lines == sorted(lines, key=lambda line: line or 0)

    def test_a_flood_of_violations_is_cut(self) -> None:
        many = "".join(f"key-{number}: 1\n" for number in range(2000))
        found = violations(minimal(many))
        assert len(found) == 501
        assert "more violations" in found[-1][2]


class TestProxy:
    def test_auto_is_as_many_workers_as_cores(self) -> None:
        text = minimal("proxy: {workers: auto, max_memory: 1GiB, max_connections: 5}\n")
        proxy = parse(text, SOURCE).hosts[0].proxy
        assert (proxy.workers, proxy.max_memory_bytes, proxy.max_connections) == (0, 2**30, 5)

    def test_a_host_says_its_own(self) -> None:
        text = minimal("proxy: {workers: auto}\n").replace("./a}", "./a, proxy: {workers: 4}}")
        assert parse(text, SOURCE).hosts[0].proxy.workers == 4


def outbound(*services: str, transport: str = "ssh") -> list[int | None]:
    """The outbound ports of ``services``, each on the first host or, behind a ``/``, the next."""
    hosts: list[list[str]] = [[]]
    for service in services:
        if service == "/":
            hosts.append([])
        else:
            hosts[-1].append(f"{{name: s{len(hosts[-1])}, {service}}}")
    text = "version: 1\nconsul: {mode: existing}\nhosts:\n"
    for number, made in enumerate(hosts):
        place = (
            f"address: 10.0.0.{number + 1}"
            if transport == "ssh"
            else f"transport: local, root: ./{number}, "
            f"proxy: {{inbound_port: {16000 + number}, admin_port: {16100 + number}}}"
        )
        text += f"  - {{name: h{number}, {place}, services: [{', '.join(made)}]}}\n"
    text += "  - {name: z, address: h, services: [{name: api, port: 8, protocol: http}]}\n"
    text += "  - {name: y, address: i, services: [{name: db, port: 9, protocol: tcp}]}\n"
    inventory = parse(text, SOURCE)
    return [service.outbound_port for host in inventory.hosts[:-2] for service in host.services]


class TestOutboundPort:
    def test_is_there_by_default_for_the_one_caller_of_a_host(self) -> None:
        assert outbound("port: 80, upstreams: [api]", "port: 81") == [15001, None]
        assert outbound("port: 80, upstreams: [api: 9001]") == [15001]
        caller = "port: 80, upstreams: [api]"
        assert outbound(caller, "/", caller) == [15001, 15001]

    def test_callers_over_tcp_do_not_count(self) -> None:
        tcp = "port: 81, upstreams: [db: 9002]"
        assert outbound("port: 80, upstreams: [api]", tcp) == [15001, None]
        assert outbound(tcp) == [None]

    def test_of_several_callers_nobody_has_one_who_does_not_say_so(self) -> None:
        plain = "port: {}, upstreams: [api: {}]"
        assert outbound(plain.format(80, 9001), plain.format(81, 9002)) == [None, None]
        said = plain.format(81, 9002) + ", outbound_port: 15002"
        assert outbound(plain.format(80, 9001), said) == [None, 15002]

    def test_can_be_refused(self) -> None:
        assert outbound("port: 80, upstreams: [api: 9001], outbound_port: none") == [None]

    @pytest.mark.parametrize(
        "other",
        ["port: 15001", "port: 80, upstreams: [db: 15001]"],
    )
    def test_gives_way_to_whatever_has_the_port(self, other: str) -> None:
        assert outbound("port: 82, upstreams: [api: 9001]", other)[0] is None

    def test_does_not_meet_an_application_on_another_address(self) -> None:
        assert outbound("port: 15001, address: 10.0.0.1, upstreams: [api]") == [15001]

    def test_local_hosts_share_this_machines_ports(self) -> None:
        caller = "port: {}, upstreams: [api: {}]"
        two = (caller.format(80, 9001), "/", caller.format(81, 9002))
        assert outbound(*two, transport="local") == [None, None]
        assert outbound(two[0], "/", "port: 81", transport="local") == [15001, None]
        taken = outbound(two[0], "/", "port: 15001", transport="local")
        assert taken == [None, None]


# What a mutation may put in the place of any value: every type, the edges of every rule.
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70000),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=12),
    st.sampled_from(["local", "ssh", "embedded", "managed", "0", "1s", "~x", "/", "::", "web"]),
    # Made anew each time: what is drawn may be mutated in its turn.
    st.builds(list),
    st.builds(dict),
    st.builds(lambda: {"api": 9001}),
)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found = []
    children = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in children:
        found.append((tree, key))
        if isinstance(child, dict | list):
            found += _places(child)
    return found


def _mutate(tree: Any, draw: Callable[..., Any]) -> None:
    container, key = draw(st.sampled_from(_places(tree)))
    match draw(st.sampled_from(["set", "delete", "rename", "copy"])):
        case "set":
            container[key] = draw(LEAVES)
        case "delete":
            del container[key]
        case "rename" if isinstance(container, dict):
            container[draw(st.text(max_size=8))] = container.pop(key)
        case _ if isinstance(container, list):
            container.append(container[key])
        case _:
            pass


@settings(max_examples=150, deadline=None, suppress_health_check=[Check.too_slow])
@given(st.data())
def test_any_mutation_of_the_example_parses_or_is_refused(data: st.DataObject) -> None:
    tree = yaml.safe_load(EXAMPLE)
    for _ in range(data.draw(st.integers(1, 3))):
        _mutate(tree, data.draw)
        if not tree:
            return
    text = yaml.safe_dump(tree, allow_unicode=True)
    refused = violations(text)
    assert all(path and message for _, path, message in refused)
    if not refused:
        assert parse(text, SOURCE).hosts
        # What the parser takes, no editor may mark as wrong.
        plain = yamltree.plain(yamltree.load(text, "x"))
        assert [error.message for error in SCHEMA.iter_errors(plain)] == []


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(EXAMPLE)), st.integers(0, 30), st.text(max_size=10))
def test_any_edit_of_the_text_parses_or_is_refused(at: int, cut: int, put: str) -> None:
    text = EXAMPLE[:at] + put + EXAMPLE[at + cut :]
    refused = violations(text)
    assert refused or parse(text, SOURCE).hosts


def test_a_short_interval_shortens_the_timeout_that_was_not_written() -> None:
    text = """\
version: 1
consul: {mode: existing}
hosts:
  - name: a
    address: 10.0.0.1
    services:
      - {name: a, port: 1, health: {tcp: true, interval: 1s}}
"""
    check = parse(text, Path("/inventory.yaml")).hosts[0].services[0].health
    assert (check.interval_s, check.timeout_s) == (1.0, 1.0)
