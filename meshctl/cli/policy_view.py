"""A difference of policies for people and for programs."""

from typing import Any

from rich.markup import escape

from meshctl.cli import console
from meshctl.policy.diff import Difference


def show_difference(difference: Difference) -> None:
    rows = console.table("SETTING", "BEFORE", "AFTER")
    for change in difference.changes:
        rows.add_row(change.path, change.before or "-", change.after or "-")
    console.out.print(rows)
    console.out.print(
        f"touches {_listed(difference.services, 'service')}: "
        f"{_listed(difference.hosts, 'proxy', 'proxies')}"
    )


def document(difference: Difference) -> dict[str, Any]:
    return {
        "changes": difference.changes,
        "services": difference.services,
        "hosts": difference.hosts,
    }


def _listed(names: tuple[str, ...], one: str, many: str = "") -> str:
    if not names:
        return f"no {one}"
    word = one if len(names) == 1 else many or f"{one}s"
    return f"{len(names)} {word} ({escape(', '.join(names))})"
