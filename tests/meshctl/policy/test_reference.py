"""docs/mesh-yaml.md and mesh.example.yaml leave nothing out."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from jsonschema import Draft202012Validator

from meshctl.inventory import parse as inventory
from meshctl.policy import mesh_schema, parse
from meshctl.policy.reference import page
from meshctl.policy.schema import sections
from meshctl.yamltree import load, plain
from proxy.model.authorization import TokenProvider
from proxy.model.policy import ServicePolicy
from proxy.model.telemetry import Telemetry

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "mesh.example.yaml"
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def test_the_page_is_what_the_parser_knows() -> None:
    written = (ROOT / "docs" / "mesh-yaml.md").read_text()
    assert written == page(), "python -m meshctl.policy.reference > docs/mesh-yaml.md"


def _structs(kind: Any) -> set[type[msgspec.Struct]]:
    found: set[type[msgspec.Struct]] = set()

    def below(kind: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in found:
            found.add(kind)
            for field in msgspec.structs.fields(kind):
                below(field.type)
        for inner in getattr(kind, "__args__", ()):
            below(inner)

    below(kind)
    return found


def test_every_field_of_the_model_can_be_written_and_is_on_the_page() -> None:
    known = {(section.struct, field.name) for section in sections() for field in section.fields}
    model = {
        (struct, field.name)
        for struct in _structs(ServicePolicy) | _structs(TokenProvider) | _structs(Telemetry)
        for field in msgspec.structs.fields(struct)
    }
    assert model == known
    for section in sections():
        _, _, after = page().partition(f"\n## {section.title}\n")
        table, _, _ = after.partition("\n## ")
        for field in section.fields:
            assert f"| `{field.key}` |" in table, (section.title, field.key)


def test_the_default_of_a_number_names_its_source() -> None:
    for section in sections():
        for field in section.fields:
            if section.default(field) not in ("", "0", "false", "true", "/"):
                assert field.source, (section.title, field.key)


def test_the_example_is_for_the_example_of_an_inventory() -> None:
    mesh = inventory.parse((ROOT / "inventory.example.yaml").read_text(), ROOT / "inventory.yaml")
    policy = parse(EXAMPLE.read_text(), "mesh.yaml", mesh, NOW)
    assert policy.services
    document = plain(load(EXAMPLE.read_text(), "mesh.yaml"))
    assert list(Draft202012Validator(mesh_schema()).iter_errors(document)) == []


def test_the_example_uses_every_key() -> None:
    written: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            written.update(value)
        for inner in value.values() if isinstance(value, dict) else value:
            if isinstance(inner, dict | list):
                walk(inner)

    walk(plain(load(EXAMPLE.read_text(), "mesh.yaml")))
    # Short forms stand for these.
    text = EXAMPLE.read_text()
    for key in ("exact", "prefix", "version"):
        assert f"short for {{{key}:" in text
    keys = {field.key for section in sections() for field in section.fields}
    assert keys - written - {"exact", "prefix", "version"} == set()
