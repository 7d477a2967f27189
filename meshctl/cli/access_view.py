"""Who loses access by a change of policy, and what becomes of its live connections."""

from typing import Any

from rich.markup import escape

from meshctl.cli import console
from meshctl.policy.access import Loss


def show_losses(losses: tuple[Loss, ...], *, is_cutting: bool) -> None:
    """Nothing, where nobody loses any."""
    if not losses:
        return
    for loss in losses:
        parts = []
        if loss.wholly:
            parts.append(f"{_listed(loss.wholly)} may not call it any more")
        if loss.anonymous:
            parts.append("callers without an identity may not call it any more")
        if loss.partly:
            parts.append(f"{_listed(loss.partly)} may not ask for all of it any more")
        console.out.print(f"{escape(loss.service)}: {'; '.join(parts)}")
    if not any(loss.wholly or loss.anonymous for loss in losses):
        console.out.print("requests in flight are answered; each later one is judged anew")
    elif is_cutting:
        console.out.print(
            "who may not call any more: its live connections are ended; "
            "of the others requests in flight are answered"
        )
    else:
        console.out.print(
            "live connections stay: TCP sessions and requests in flight go on until they end; "
            "--cut ends those of who may not call any more"
        )


def losses_document(losses: tuple[Loss, ...], *, is_cutting: bool) -> dict[str, Any]:
    return {"losses": losses, "live_connections": "cut" if is_cutting else "stay"}


def _listed(callers: tuple[str, ...]) -> str:
    return escape(", ".join(callers))
