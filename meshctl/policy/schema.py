"""What ``meshctl schema mesh`` prints: ``mesh.yaml`` as JSON Schema (2020-12), for editors.

From the tables that the parser uses. It is generous where JSON Schema cannot see: whether a
service exists and whether two values contradict each other only the parser knows.
"""

from collections.abc import Iterator
from typing import Any

from meshctl.policy.matching import SERVICE
from meshctl.policy.pieces import Many, Piece
from meshctl.policy.section import Section, Table, Whole
from meshctl.policy.service import DEFAULTS, SERVICE_POLICY, VERSION
from meshctl.policy.telemetry import TELEMETRY
from meshctl.policy.tokens import TOKEN_PROVIDER, TOKENS


def mesh_schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mesh.yaml",
        "description": "Traffic policy of a mesh made with meshctl.",
        "type": ["object"],
        "additionalProperties": False,
        "required": ["version"],
        "properties": {
            "version": {"const": VERSION, "description": "Of this format."},
            "defaults": {**DEFAULTS.schema(), "description": DEFAULTS.about},
            "telemetry": {**TELEMETRY.schema(), "description": TELEMETRY.about},
            "tokens": {
                "anyOf": [TOKENS.schema(), {"type": "null"}],
                "description": "By names that intentions refer to. " + TOKEN_PROVIDER.about,
            },
            "services": {
                "type": ["object", "null"],
                "description": "By service name; overrides the defaults field by field.",
                "propertyNames": {"pattern": SERVICE.pattern},
                "additionalProperties": SERVICE_POLICY.schema(),
            },
        },
        "$defs": {section.title: section.definition() for section in sections()},
    }


def sections() -> list[Section]:
    """Every section there is, each once, the outer ones first."""
    found: dict[str, Section] = {}
    for top in (DEFAULTS, TELEMETRY, TOKEN_PROVIDER, SERVICE_POLICY):
        for section in _below(top):
            found.setdefault(section.title, section)
    return list(found.values())


def _below(piece: Piece) -> Iterator[Section]:
    match piece:
        case Whole(section=inner):
            yield from _below(inner)
        case Many(item=inner) | Table(value=inner):
            yield from _below(inner)
        case Section():
            yield piece
            for field in piece.fields:
                yield from _below(field.shape)
        case _:
            pass
