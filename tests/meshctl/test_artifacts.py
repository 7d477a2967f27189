"""Rendered files: golden, accepted by systemd, hardened as promised, and without surprises."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest

from meshctl import artifacts
from meshctl.layout import Layout
from proxy.core.validation import validate
from proxy.model.codec import decode
from proxy.model.names import TrustDomain
from proxy.model.settings import Address, Capacity, Metrics, Settings

GOLDEN = Path(__file__).parents[1] / "golden"
TRUST_DOMAIN = TrustDomain("mesh.test")


def settings(world: Any, host: str = "front") -> Settings:
    return artifacts.settings(
        world.inventory, world.host(host), trust_domain=TRUST_DOMAIN, release="0123456789abcdef"
    )


def assert_golden(name: str, content: bytes) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_bytes(content)
    assert content == path.read_bytes()


def test_proxy_json_is_the_golden_one(world: Any) -> None:
    _, file = artifacts.config_files(settings(world, "back"), b"roots", Layout())
    assert_golden("proxy.json", file.content)
    assert decode(file.content, Settings) == settings(world, "back")


def test_the_digest_is_that_of_everything_else(world: Any) -> None:
    one = settings(world)
    other = artifacts.settings(
        world.inventory, world.host("front"), trust_domain=TRUST_DOMAIN, release="another"
    )
    assert re.fullmatch("[0-9a-f]{16}", one.config)
    assert one.config != other.config
    assert settings(world) == one


def test_callers_are_those_that_declare_the_upstream(world: Any) -> None:
    allow = {workload.service: workload.allow for workload in settings(world, "back").workloads}
    assert allow == {"api": ("web",), "users": ()}


def test_what_the_inventory_says_of_a_host_and_its_services_is_in_its_settings(
    world_of: Any,
) -> None:
    world = world_of("""\
version: 1
consul: {mode: existing}
proxy: {workers: auto, max_connections: 500, max_memory: 64MiB}
hosts:
  - name: front
    address: 10.0.0.1
    zone: eu-1
    services:
      - {name: web, port: 8080, weight: 7, upstreams: [api, {users: 9002}]}
  - name: back
    address: 10.0.0.2
    services:
      - {name: api, port: 8090, protocol: http}
      - {name: users, port: 5432}
""")
    made = settings(world)
    assert (made.zone, made.workers) == ("eu-1", 0)
    assert made.capacity == Capacity(connections=500, memory_bytes=2**26)
    (web,) = made.workloads
    assert (web.weight, web.outbound) == (7, Address(host="127.0.0.1", port=15001))
    assert [(use.service, use.listen) for use in web.upstreams] == [
        ("api", None),
        ("users", Address(host="127.0.0.1", port=9002)),
    ]
    assert validate(made) == ()


def test_metrics_are_for_the_networks_that_the_inventory_names_and_for_nobody_without(
    world_of: Any,
) -> None:
    text = """\
version: 1
consul: {mode: existing}
metrics: {from: [10.0.0.5, "fd00:1::/64"]}
hosts:
  - {name: front, address: 10.0.0.1, proxy: {inbound_address: 10.0.0.1}, metrics: {port: 15091}}
  - {name: back, address: 10.0.0.2, metrics: {from: []}}
"""
    world = world_of(text)
    made = settings(world)
    assert made.metrics == Metrics(
        listen=Address(host="10.0.0.1", port=15091), sources=("10.0.0.5/32", "fd00:1::/64")
    )
    assert validate(made) == ()
    assert settings(world, "back").metrics is None


@pytest.mark.parametrize(
    ("workers", "capacity", "limits"),
    [
        (1, Capacity(), ("65536", "768M", "1024M")),
        (4, Capacity(memory_bytes=2**28), ("65536", "1536M", "2048M")),
        (0, Capacity(connections=100_000), ("404096", "60%", "80%")),
    ],
)
def test_systemds_limits_are_above_the_proxys_own(
    world: Any, workers: int, capacity: Capacity, limits: tuple[str, str, str]
) -> None:
    own = msgspec.structs.replace(settings(world), workers=workers, capacity=capacity)
    text = artifacts.proxy_unit(world.host("front"), own).content.decode()
    for name, value in zip(("LimitNOFILE", "MemoryHigh", "MemoryMax"), limits, strict=True):
        assert f"\n{name}={value}\n" in text


def test_the_proxys_unit_is_the_golden_one(world: Any) -> None:
    unit = artifacts.proxy_unit(world.host("front"), settings(world))
    assert unit.path == "/etc/systemd/system/meshctl-proxy.service"
    assert unit.mode == 0o644
    assert_golden("meshctl-proxy.service", unit.content)


def test_the_folder_of_access_logs_is_the_one_that_systemd_makes(world: Any) -> None:
    text = artifacts.proxy_unit(world.host("front"), settings(world)).content.decode()
    (made,) = re.findall("^LogsDirectory=(.+)$", text, re.M)
    assert settings(world).log_dir == f"/var/log/{made}" == Layout().logs
    assert Layout("/r").access_log == "/r/var/log/meshctl/access.log"


def test_a_low_port_takes_the_one_capability_for_it(world: Any) -> None:
    low = msgspec.structs.replace(settings(world), inbound=Address(host="0.0.0.0", port=443))
    text = artifacts.proxy_unit(world.host("front"), low).content.decode()
    assert "\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in text
    assert "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in text
    assert "\nPrivateUsers=no\n" in text


def with_users(world: Any) -> Settings:
    own = settings(world)
    workloads = tuple(msgspec.structs.replace(each, user="www-data") for each in own.workloads)
    return msgspec.structs.replace(own, workloads=workloads)


def test_where_callers_are_told_by_their_user_the_proxy_sees_the_hosts_users(world: Any) -> None:
    text = artifacts.proxy_unit(world.host("front"), with_users(world)).content.decode()
    assert "\nPrivateUsers=no\n" in text
    assert "\nCapabilityBoundingSet=\n" in text
    assert " AF_NETLINK\n" in text


def consul_files(world: Any, host: str) -> tuple[artifacts.RenderedFile, artifacts.RenderedFile]:
    config, unit = artifacts.consul_files(world.inventory, world.host(host), world.desired.consul)
    return config, unit


def test_consuls_files_are_the_golden_ones(managed_world: Any) -> None:
    config, unit = consul_files(managed_world, "front")
    assert_golden("consul-server.json", config.content)
    assert_golden("meshctl-consul.service", unit.content)


def test_consuls_configuration_is_readable_by_consul_only(managed_world: Any) -> None:
    config, _ = consul_files(managed_world, "front")
    assert (config.mode, config.owner, config.group) == (0o640, "root", "meshctl-consul")
    assert config.is_secret
    assert managed_world.desired.consul.gossip_key not in repr(config)


def test_a_client_neither_votes_nor_expects_votes(managed_world: Any) -> None:
    server = json.loads(consul_files(managed_world, "front")[0].content)
    client = json.loads(consul_files(managed_world, "back")[0].content)
    assert (server["server"], server["bootstrap_expect"]) == (True, 1)
    assert client["server"] is False
    assert "bootstrap_expect" not in client
    assert client["retry_join"] == ["10.0.0.1"]
    assert client["bind_addr"] == "10.0.0.2"
    assert client["client_addr"] == "127.0.0.1"


needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def written(unit: artifacts.RenderedFile, folder: Path) -> Path:
    """With a program that exists here, which is all that `verify` asks of it."""
    path = folder / unit.path.rpartition("/")[2]
    text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", unit.content.decode())
    path.write_text(text)
    return path


@needs_systemd
@pytest.mark.parametrize("which", ["proxy", "consul", "signer"])
def test_systemd_has_nothing_to_say_about_a_unit(
    managed_world: Any, tmp_path: Path, which: str
) -> None:
    world = managed_world
    unit = (
        artifacts.proxy_unit(world.host("front"), settings(world))
        if which == "proxy"
        else artifacts.signer_unit(world.inventory, world.host("front"))
        if which == "signer"
        else consul_files(world, "front")[1]
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", written(unit, tmp_path)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize(
    ("which", "at_most"),
    [("proxy", 16), ("users", 16), ("low-port", 16), ("consul", 20), ("signer", 20)],
)
def test_the_exposure_of_a_unit_is_small(
    managed_world: Any, tmp_path: Path, which: str, at_most: int
) -> None:
    world = managed_world
    unit = (
        consul_files(world, "front")[1]
        if which == "consul"
        else artifacts.signer_unit(world.inventory, world.host("front"))
        if which == "signer"
        else artifacts.proxy_unit(
            world.host("front"), settings(world) if which == "proxy" else with_users(world)
        )
    )
    path = written(unit, tmp_path)
    if which == "low-port":  # and users: all that a proxy may be given
        text = path.read_text()
        text = text.replace("CapabilityBoundingSet=", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE")
        path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={at_most}", path],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:]


def test_the_signers_unit_and_settings_are_the_golden_ones(signed_world: Any) -> None:
    unit = artifacts.signer_unit(signed_world.inventory, signed_world.host("front"))
    assert unit.path == "/etc/systemd/system/meshctl-signer.service"
    assert_golden("meshctl-signer.service", unit.content)
    settings_file, _, record = signed_world.signer_files("front")
    assert_golden("signer.json", settings_file.content)
    assert_golden("signer-record.json", record.content)


def test_the_same_record_is_the_same_file_in_whatever_order_hosts_came(signed_world: Any) -> None:
    record = signed_world.desired.before
    turned = type(record)(hosts=dict(reversed(record.hosts.items())))
    host = signed_world.host("front")
    assert artifacts.signer_record(host, record) == artifacts.signer_record(host, turned)
