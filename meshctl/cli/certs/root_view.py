"""How the rotation of a root is shown: by ``rotate root`` and by ``status``."""

from collections.abc import Sequence

from meshctl.apply.root_rotation import Outcome
from meshctl.cli import console
from meshctl.pki.rotation import AGAIN, HostProgress, Phase, Rotation
from proxy.model.names import HostName

DONE, ABORTED = "done", "aborted"


def document(
    rotation: Rotation, *, is_done: bool = False, not_deployed: Sequence[HostName] = ()
) -> dict[str, object]:
    """For ``-o json``."""
    return {
        "phase": DONE if is_done else rotation.phase,
        "is_done": is_done,
        "started": rotation.started,
        "since": rotation.since,
        "old_root": rotation.old_root,
        "new_root": rotation.new_root,
        "retire_after": rotation.retire_after,
        "next": "" if is_done else next_command(rotation),
        "hosts": [
            {
                "host": host,
                "trusts": progress.trusts,
                "serves": progress.serves,
                "retired": progress.retired,
            }
            for host, progress in sorted(rotation.hosts.items())
        ],
        "not_deployed": list(not_deployed),
    }


def next_command(rotation: Rotation) -> str:
    return f"{AGAIN} --abort" if rotation.phase is Phase.ABORT else AGAIN


def show_outcome(outcome: Outcome, output: console.Output) -> None:
    rotation = outcome.rotation
    if output is console.Output.JSON:
        console.emit_json(
            document(rotation, is_done=outcome.is_done, not_deployed=outcome.not_deployed)
        )
        return
    for host in outcome.not_deployed:
        console.err.print(f"{host} was never deployed to: it was not waited for", markup=False)
    if outcome.is_done:
        console.out.print(f"The root is new: SHA-256 {rotation.new_root}")
        return
    console.out.print(
        "Every host serves under the new root and trusts it; the old one stays until "
        f"{rotation.retire_after}."
    )
    console.err.print(f"[bold]next:[/] {AGAIN}, after {rotation.retire_after}")


def show_aborted(output: console.Output) -> None:
    if output is console.Output.JSON:
        console.emit_json({"phase": ABORTED, "is_done": True})
        return
    console.out.print("The rotation of the root is abandoned; the old root stays in force.")


def show_state(rotation: Rotation, names: Sequence[HostName]) -> None:
    """A table of which host confirmed what, for people."""
    console.out.print(
        f"Rotation of the root: {rotation.phase} since {rotation.since}, begun {rotation.started}"
    )
    if rotation.retire_after:
        console.out.print(f"The old root stays until {rotation.retire_after}")
    rows = console.table("HOST", "TRUSTS THE NEW ROOT", "SERVES UNDER IT", "DROPPED THE OLD ONE")
    for host in names:
        progress = rotation.hosts.get(host, HostProgress())
        rows.add_row(host, progress.trusts or "-", progress.serves or "-", progress.retired or "-")
    console.out.print(rows)
