"""The JSON Schema of mesh.yaml says what the parser says, as far as it can see."""

import json

import pytest
from jsonschema import Draft202012Validator

from meshctl.errors import InvalidInput
from meshctl.policy import mesh_schema, parse, starting_mesh_yaml
from meshctl.yamltree import load, plain
from proxy.model.names import ServiceName

GOOD = [
    "version: 1",
    starting_mesh_yaml(),
    "version: 1\ndefaults: {timeouts: {request: 0, connect: 250ms}}\nservices: {api: }",
    "version: 1\ndefaults:\nservices:\n",
    "version: 1\nservices: {api: {timeouts: {request: '0', stream_idle: 1.5m}}}",
]
BAD = [
    "",
    "[]",
    "version: 2",
    "version: '1'",
    "services: {}",
    "version: 1\nservice: {}",
    "version: 1\ndefaults: {timeout: {}}",
    "version: 1\ndefaults: {timeouts: {request: 5}}",
    "version: 1\ndefaults: {timeouts: {request: 5 s}}",
    "version: 1\ndefaults: {timeouts: {request: -5s}}",
    "version: 1\ndefaults: {timeouts: {connect: 0}}",
    "version: 1\ndefaults: {timeouts: {connect: 0s}}",
    "version: 1\ndefaults: {timeouts: {connect: 0.0ms}}",
    "version: 1\ndefaults: {timeouts: {other: 1s}}",
    "version: 1\nservices: {Api: {}}",
    "version: 1\nservices: [api]",
    "version: 1\nservices: {api: 5s}",
]


def is_valid(text: str) -> bool:
    return bool(Draft202012Validator(mesh_schema()).is_valid(plain(load(text, "mesh.yaml"))))


def test_it_is_a_schema_of_2020_12_and_json() -> None:
    Draft202012Validator.check_schema(mesh_schema())
    assert json.loads(json.dumps(mesh_schema())) == mesh_schema()
    assert mesh_schema()["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("text", GOOD)
def test_schema_and_parser_accept(text: str) -> None:
    assert is_valid(text)
    parse(text, "mesh.yaml", (ServiceName("api"),))


@pytest.mark.parametrize("text", BAD)
def test_schema_and_parser_refuse(text: str) -> None:
    assert not is_valid(text)
    with pytest.raises(InvalidInput):
        parse(text, "mesh.yaml", (ServiceName("api"),))


def test_every_timeout_is_described_with_its_default() -> None:
    timeouts = mesh_schema()["$defs"]["timeouts"]["properties"]
    assert set(timeouts) == {"connect", "request", "stream_idle", "connection_idle", "pool_idle"}
    assert all("Default:" in schema["description"] for schema in timeouts.values())
