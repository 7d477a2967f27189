"""What the decoder lets through and a proxy must not start with."""

from typing import Any

import msgspec
import pytest

from proxy.core.validation import split_url, validate
from proxy.model.settings import Settings

GOOD: dict[str, Any] = {
    "host": "h1",
    "trust_domain": "mesh.example",
    "advertise": "10.0.0.1",
    "release": "r",
    "admin": {"host": "127.0.0.1", "port": 15000},
    "inbound": {"host": "0.0.0.0", "port": 15006},
    "consul": {"url": "http://127.0.0.1:8500"},
    "state_dir": "/var/lib/meshctl",
    "trust_bundle": "/opt/trust.pem",
    "workloads": [
        {
            "service": "web",
            "protocol": "http",
            "version": "v1",
            "app": {"host": "127.0.0.1", "port": 8080},
            "health": {},
            "allow": ["edge"],
            "upstreams": [
                {
                    "service": "api",
                    "protocol": "http",
                    "listen": {"host": "127.0.0.1", "port": 9001},
                }
            ],
        }
    ],
}


def changed(path: str, value: Any) -> Settings:
    document = msgspec.json.decode(msgspec.json.encode(GOOD))
    at = document
    *way, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    for part in way:
        at = at[part]
    at[last] = value
    return msgspec.convert(document, Settings)


def test_good_settings_have_no_violation() -> None:
    assert validate(msgspec.convert(GOOD, Settings)) == ()


WORKLOAD = GOOD["workloads"][0]


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("host", "H1", "$.host"),
        ("trust_domain", "mesh_example", "$.trust_domain"),
        ("advertise", "", "$.advertise"),
        ("admin/host", "0.0.0.0", "$.admin.host"),
        ("admin/host", "localhost", "$.admin.host"),
        ("admin/port", 0, "$.admin.port"),
        ("inbound/port", 70000, "$.inbound.port"),
        ("inbound", {"host": "127.0.0.1", "port": 15000}, "$.inbound"),
        ("consul/url", "https://127.0.0.1:8501", "$.consul.url"),
        ("state_dir", "state", "$.state_dir"),
        ("log_dir", "log", "$.log_dir"),
        ("trust_bundle", "", "$.trust_bundle"),
        ("drain_s", -1, "$.drain_s"),
        ("workloads", [WORKLOAD, {**WORKLOAD, "upstreams": []}], "$.workloads[1].service"),
        ("workloads/0/service", "../etc", "$.workloads[0].service"),
        ("workloads/0/app/port", -1, "$.workloads[0].app.port"),
        ("workloads/0/app/host", "a b", "$.workloads[0].app.host"),
        ("workloads/0/allow", ["ok", "*"], "$.workloads[0].allow[1]"),
        ("workloads/0/health/interval_s", 0, "$.workloads[0].health.interval_s"),
        ("workloads/0/health/timeout_s", -1, "$.workloads[0].health.timeout_s"),
        ("workloads/0/health/unhealthy_after", 0, "$.workloads[0].health.unhealthy_after"),
        ("workloads/0/health/path", "x", "$.workloads[0].health.path"),
        ("workloads/0/health/path", "/a\r\nX: y", "$.workloads[0].health.path"),
        ("workloads/0/upstreams/0/service", "", "$.workloads[0].upstreams[0].service"),
        (
            "workloads/0/upstreams/0/listen",
            {"host": "127.0.0.1", "port": 15000},
            "$.workloads[0].upstreams[0].listen",
        ),
        (
            "workloads/0/upstreams/0/listen",
            {"host": "127.0.0.1", "port": 15006},
            "$.workloads[0].upstreams[0].listen",
        ),
        ("inbound", {"host": "0.0.0.0", "port": 15000}, "$.inbound"),
        (
            "metrics",
            {"listen": {"host": "10.0.0.1", "port": 0}, "sources": ["10.0.0.0/8"]},
            "$.metrics.listen.port",
        ),
        (
            "metrics",
            {"listen": {"host": "10.0.0.1", "port": 15006}, "sources": ["10.0.0.0/8"]},
            "$.metrics.listen",
        ),
        (
            "metrics",
            {"listen": {"host": "10.0.0.1", "port": 15090}, "sources": ["fd00::/8", "10.0.0.1/8"]},
            "$.metrics.sources[1]",
        ),
        ("zone", "Zone A", "$.zone"),
        ("workers", -1, "$.workers"),
        ("workers", 65, "$.workers"),
        ("capacity", {"connections": 0}, "$.capacity.connections"),
        ("capacity", {"connections": 1_000_001}, "$.capacity.connections"),
        ("capacity", {"memory_bytes": 2**26 - 1}, "$.capacity.memory_bytes"),
        ("capacity", {"memory_bytes": 2**40 + 1}, "$.capacity.memory_bytes"),
        ("workloads/0/weight", -1, "$.workloads[0].weight"),
        ("workloads/0/weight", 1001, "$.workloads[0].weight"),
        ("workloads/0/outbound", {"host": "127.0.0.1", "port": 0}, "$.workloads[0].outbound.port"),
        (
            "workloads/0/outbound",
            {"host": "10.0.0.1", "port": 15001},
            "$.workloads[0].outbound.host",
        ),
        ("workloads/0/outbound", {"host": "127.0.0.1", "port": 9001}, "$.workloads[0].outbound"),
        ("workloads/0/outbound", {"host": "127.0.0.1", "port": 15000}, "$.workloads[0].outbound"),
        ("workloads/0/outbound", {"host": "127.0.0.1", "port": 15006}, "$.workloads[0].outbound"),
    ],
)
def test_each_fault_is_found_with_its_path(path: str, value: Any, found: str) -> None:
    assert [violation.path for violation in validate(changed(path, value))] == [found]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("zone", "eu-west-1a"),
        ("workers", 0),
        ("workers", 64),
        ("capacity", {"connections": 1, "memory_bytes": 2**26}),
        ("workloads/0/weight", 0),
        ("workloads/0/weight", 1000),
        ("workloads/0/outbound", {"host": "127.0.0.1", "port": 15001}),
        ("workloads/0/outbound", {"host": "127.0.0.2", "port": 9001}),
        ("workloads/0/upstreams/0", {"service": "api", "protocol": "http"}),
    ],
)
def test_what_is_within_its_bounds_is_let_through(path: str, value: Any) -> None:
    assert validate(changed(path, value)) == ()


def test_one_outbound_port_belongs_to_one_workload() -> None:
    outbound = {"host": "127.0.0.1", "port": 15001}
    two = [
        {**WORKLOAD, "outbound": outbound},
        {**WORKLOAD, "service": "job", "upstreams": [], "outbound": outbound},
    ]
    assert [(found.path, found.message) for found in validate(changed("workloads", two))] == [
        ("$.workloads[1].outbound", "is the same address as $.workloads[0].outbound")
    ]


def test_all_faults_are_found_at_once() -> None:
    broken = msgspec.structs.replace(msgspec.convert(GOOD, Settings), host="", drain_s=-1)
    assert [violation.path for violation in validate(broken)] == ["$.host", "$.drain_s"]


def test_the_agents_url_has_a_default_port() -> None:
    assert split_url("http://127.0.0.1") == ("127.0.0.1", 8500)
    assert split_url("http://[::1]:8501/") == ("::1", 8501)
