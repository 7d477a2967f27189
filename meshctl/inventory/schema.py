"""The inventory's JSON Schema (2020-12), for editors; from the table that the parser uses.

It says what one value may be and which keys exist. What holds between values far apart (ports,
names, upstreams) only the parser says.
"""

from typing import Any

from meshctl.inventory.fields import INVENTORY

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def inventory_schema() -> dict[str, Any]:
    return {
        "$schema": DIALECT,
        "title": "meshctl inventory",
        "description": "Which hosts, how to reach them, what runs there, who calls whom.",
        **INVENTORY.schema(),
    }
