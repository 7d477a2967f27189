"""``meshctl schema``: JSON Schemas of the operator's files, for editors."""

from enum import StrEnum
from typing import Annotated, assert_never

import typer

from meshctl.cli import console
from meshctl.inventory.schema import inventory_schema
from meshctl.policy import mesh_schema


class Subject(StrEnum):
    INVENTORY = "inventory"
    MESH = "mesh"


def schema(
    subject: Annotated[Subject, typer.Argument(help="Which file.", show_default=False)],
) -> None:
    """Print the JSON Schema (2020-12) of inventory.yaml or mesh.yaml."""
    with console.errors():
        match subject:
            case Subject.INVENTORY:
                console.emit_json(inventory_schema())
            case Subject.MESH:
                console.emit_json(mesh_schema())
            case _:
                assert_never(subject)
