"""The JSON Schema of mesh.yaml says what the parser says, as far as it can see."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from meshctl.errors import InvalidInput
from meshctl.inventory import parse as inventory
from meshctl.policy import mesh_schema, parse, starting_mesh_yaml
from meshctl.policy.schema import sections
from meshctl.yamltree import load, plain

_CASE = Path(__file__).parents[2] / "cases" / "policy" / "inventory.yaml"
INVENTORY = inventory.parse(_CASE.read_text(), _CASE)
NOW = datetime(2026, 7, 1, tzinfo=UTC)
VALIDATOR = Draft202012Validator(mesh_schema())


def api(text: str) -> str:
    return f"version: 1\nservices: {{api: {{{text}}}}}"


def route(text: str) -> str:
    return api(f"subsets: {{v1: v1, v2: {{version: v2}}}}, routes: [{{name: a, {text}}}]")


GOOD = [
    "version: 1",
    starting_mesh_yaml(),
    "version: 1\ndefaults: {timeouts: {request: 0, connect: 250ms}}\nservices: {api: }",
    "version: 1\ndefaults:\nservices:\n",
    api("timeouts: {request: '0', stream_idle: 1.5m}"),
    api("timeouts: , retries: , limits: "),
    api("retries: {on: 5xx, budget: 20, body_limit: 0}"),
    api("retries: {on: [], methods: []}"),
    api("retries: {budget: 0.5%, budget_min_per_s: 0.5, body_limit: 1.5KiB}"),
    api("limits: {new_connections_per_s: 0}"),
    api("health_check: off"),
    api("health_check: {tcp: true}"),
    api("health_check: {http: /, interval: 3s}"),
    api("load_balancing: {algorithm: maglev, hash_on: {source: true}}"),
    route("to: api"),
    route("to: [api, {subset: v1}], sticky: {cookie: a, ttl: 0}"),
    route("match: {path: /x, methods: GET, headers: {a: b}, query: {a: {present: true}}}"),
    route("respond: 404"),
    route("respond: {status: 200, body: ''}"),
    route("redirect: {status: 307, path: /x}"),
    route("request_headers: {set: {a: ''}, remove: [b]}"),
    route("mirror: {subset: v2, percent: 1%}, timeouts: {request: 0}, retries: {attempts: 0}"),
    api("rate_limits: [{name: a, requests: 5, per: 1s, by: caller}]"),
    api("faults: [{name: a, until: 2026-07-02T00:00:00Z, abort: 503}]"),
    api("faults: [{name: a, until: '2026-07-02T02:00+02:00', delay: 1s, abort: 0}]"),
    api("failover: [{datacenter: dc2}], rate_limits: [], faults: []"),
    api("intentions: [{name: a, allow: [web]}, {name: b, deny: '*', audit: true}]"),
    api("access_log: 10%, tracing: 0.5"),
    api("access_log: {percent: 1, slow: 250ms, format: '%method% %path%'}, tracing: "),
    api("access_log: {slow: 0, format: json}, tracing: {percent: 100%, header: 'off'}"),
    "version: 1\ntelemetry:\n",
    "version: 1\ntelemetry: {metrics: false, otlp: 'https://a/v1/traces', log_to: file}",
    "version: 1\ntelemetry: {log_file_size: 1MiB, log_files: 0}",
]
BAD = [
    "",
    "[]",
    "version: 2",
    "version: '1'",
    "version: true",
    "services: {}",
    "version: 1\nservice: {}",
    "version: 1\ndefaults: {timeout: {}}",
    "version: 1\ndefaults: {routes: []}",
    "version: 1\nservices: {Api: {}}",
    "version: 1\nservices: [api]",
    "version: 1\nservices: {api: 5s}",
    *(
        api(f"timeouts: {{{text}}}")
        for text in ("request: 5", "request: 5 s", "request: -5s", "other: 1s", "connect: [1s]")
    ),
    *(api(f"timeouts: {{connect: {zero}}}") for zero in ("0", "0s", "0.0ms", "'0'")),
    api("retries: {attempts: 11}"),
    api("retries: {attempts: -1}"),
    api("retries: {attempts: '1'}"),
    api("retries: {on: sometimes}"),
    api("retries: {budget: 101%}"),
    api("retries: {budget: 101}"),
    api("retries: {budget: -1%}"),
    api("retries: {budget: '20 %'}"),
    api("retries: {body_limit: 64kb}"),
    api("retries: {body_limit: 5}"),
    api("retries: {statuses: 200}"),
    api("retries: {methods: get}"),
    api("limits: {requests: 0}"),
    api("limits: {requests: 1.5}"),
    api("limits: {new_connections_per_s: 0.01}"),
    api("health_check: on"),
    api("health_check: {tcp: true, http: /}"),
    api("health_check: {tcp: false}"),
    api("health_check: {grpc: true, http: /}"),
    api("health_check: {grpc: true, tcp: true}"),
    api("health_check: {grpc: false}"),
    api("health_check: {grpc: ''}"),
    api("load_balancing: {algorithm: fair}"),
    api("load_balancing: {algorithm: maglev, hash_on: {}}"),
    api("load_balancing: {algorithm: maglev, hash_on: {header: a, cookie: b}}"),
    api("load_balancing: {algorithm: maglev, hash_on: {source: false}}"),
    api("subsets: {a: }"),
    api("subsets: {a b: v1}"),
    api("routes: {name: a}"),
    api("routes: [{}]"),
    api("routes: [a]"),
    route("to: []"),
    route("to: {weight: -1}"),
    route("to: {other: a}"),
    route("match: "),
    route("match: {path: {}}"),
    route("match: {path: x}"),
    route("match: {path: {exact: /, prefix: /}}"),
    route("match: {headers: {X-A: b}}"),
    route("match: {headers: {a: 5}}"),
    route("match: {headers: [a]}"),
    route("match: {sources: []}"),
    route("respond: 99"),
    route("respond: {body: x}"),
    route("redirect: {status: 200, path: /x}"),
    route("redirect: {scheme: ftp}"),
    route("redirect: {path: ''}"),
    route("request_headers: {set: [a]}"),
    route("mirror: {percent: 200%, subset: v1}"),
    api("rate_limits: [{name: a}]"),
    api("intentions: [{name: a}]"),
    api("intentions: [{name: a, allow: web, deny: web}]"),
    api("rate_limits: [{name: a, requests: 0}]"),
    api("rate_limits: [{name: a, requests: 1, by: ip}]"),
    api("faults: [{name: a, abort: 503}]"),
    api("faults: [{name: a, until: 2026-07-02, abort: 503}]"),
    api("faults: [{name: a, until: '2026-07-02T00:00:00', abort: 503}]"),
    api("faults: [{name: a, until: 2026-07-02T00:00:00Z, abort: 100}]"),
    api("failover: api"),
    api("failover: [{datacenter: 'DC 2'}]"),
    api("access_log: all"),
    api("access_log: {slow: 500}"),
    api("tracing: {percent: 101%}"),
    api("telemetry: {}"),
    "version: 1\ntelemetry: {log_to: syslog}",
    "version: 1\ntelemetry: {otlp: 'grpc://127.0.0.1:4317'}",
    "version: 1\ntelemetry: {log_file_size: 0}",
    "version: 1\ntelemetry: {other: 1}",
]


def is_valid(text: str) -> bool:
    return bool(VALIDATOR.is_valid(plain(load(text, "mesh.yaml"))))


def test_it_is_a_schema_of_2020_12_and_json() -> None:
    Draft202012Validator.check_schema(mesh_schema())
    assert json.loads(json.dumps(mesh_schema())) == mesh_schema()
    assert mesh_schema()["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_schema_and_parser_accept(text: str) -> None:
    assert is_valid(text)
    parse(text, "mesh.yaml", INVENTORY, NOW)


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_schema_and_parser_refuse(text: str) -> None:
    assert not is_valid(text)
    with pytest.raises(InvalidInput):
        parse(text, "mesh.yaml", INVENTORY, NOW)


def test_every_key_is_described_and_every_default_named() -> None:
    definitions = mesh_schema()["$defs"]
    for section in sections():
        made = definitions[section.title]
        properties = made.get("properties") or made["anyOf"][0]["properties"]
        assert set(properties) == {field.key for field in section.fields}
        for field in section.fields:
            told: dict[str, Any] = properties[field.key]
            assert told["description"].endswith("."), field.key
            if section.default(field):
                assert "Default: " in told["description"], (section.title, field.key)


def test_every_reference_leads_to_a_definition() -> None:
    text = json.dumps(mesh_schema())
    for title in mesh_schema()["$defs"]:
        assert f'"#/$defs/{title}"' in text
    assert text.count('"$ref"') >= len(mesh_schema()["$defs"])
