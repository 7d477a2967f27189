"""``mesh.yaml`` as the commands take it: which file, and what happens when it is not there."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from meshctl.cli.options import reason_of
from meshctl.errors import InvalidInput
from meshctl.inventory.model import Inventory
from meshctl.policy import parse
from proxy.model.policy import Policy
from proxy.model.violation import Violation

MESH_FILE = "mesh.yaml"

MeshFile = Annotated[
    Path | None,
    typer.Option(
        "--mesh",
        "-m",
        help="The traffic policy; by default mesh.yaml beside the inventory, if it is there.",
        show_default=False,
    ),
]


def read_policy(inventory: Inventory, file: Path | None) -> Policy:
    """``file``, or ``mesh.yaml`` beside the inventory, or without that the defaults."""
    path = file if file is not None else inventory.source.parent / MESH_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if file is None:
            return Policy()
        raise _unreadable(path, error) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    return parse(text, str(path), inventory, datetime.now(UTC))


def _unreadable(path: Path, error: Exception) -> InvalidInput:
    message = f"cannot be read: {reason_of(error)}"
    return InvalidInput(str(path), [Violation(path="", message=message)])
