"""What ``meshctl schema mesh`` prints: ``mesh.yaml`` as JSON Schema (2020-12), for editors.

It is generous where JSON Schema cannot see: whether a service exists and whether two timeouts
contradict each other only ``parser`` knows.
"""

from typing import Any

from meshctl.policy.parser import MAY_BE_ZERO, TIMEOUTS, VERSION
from proxy.model.policy import Timeouts

_DESCRIPTIONS = {
    "connect": "TCP and TLS together, to one endpoint.",
    "request": "From the last byte of the request to the last of the response; 0: none.",
    "stream_idle": "No byte in either direction within a request or TCP session.",
    "connection_idle": "A connection from an application without a request.",
    "pool_idle": "An unused connection to an application; keep it below its own keep-alive.",
}

_UNIT = "(ms|s|m|h)"
_POSITIVE = rf"^(?=[0-9.]*[1-9])[0-9]{{1,12}}(\.[0-9]{{1,6}})?{_UNIT}$"
_OR_ZERO = rf"^([0-9]{{1,12}}(\.[0-9]{{1,6}})?{_UNIT}|0)$"


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
            "defaults": {
                "$ref": "#/$defs/service",
                "description": "In force wherever a service says nothing else.",
            },
            "services": {
                "type": ["object", "null"],
                "description": "By service name; overrides the defaults field by field.",
                "propertyNames": {"pattern": "^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$"},
                "additionalProperties": {"$ref": "#/$defs/service"},
            },
        },
        "$defs": {
            "service": {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {"timeouts": {"$ref": "#/$defs/timeouts"}},
            },
            "timeouts": {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {key: _timeout(key) for key in TIMEOUTS},
            },
        },
    }


def _timeout(key: str) -> dict[str, Any]:
    text = {"type": "string", "pattern": _OR_ZERO if key in MAY_BE_ZERO else _POSITIVE}
    schema = {"anyOf": [text, {"const": 0}]} if key in MAY_BE_ZERO else text
    default_s = getattr(Timeouts(), TIMEOUTS[key])
    return {
        **schema,
        "description": f"{_DESCRIPTIONS[key]} Default: {default_s:g}s.",
        "examples": [f"{default_s:g}s"],
    }
