"""The run as a whole: backend up, rounds with their rotating order, everything down again."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchkit import backend, figures, probe
from benchkit.contestants import (
    CALLER,
    HTTP_SERVICE,
    STRANGER,
    TCP_SERVICE,
    TRUST_DOMAIN,
    Contestant,
)
from benchkit.figures import Sample
from benchkit.load import Load
from benchkit.processes import Failed, Group
from benchkit.turn import Bench, Effort, free_ports, take

_IDENTITIES = Path(__file__).with_name("identities.py")

Progress = Callable[[str], None]


@contextmanager
def bench(python: Path, *, proxy_core: int, load_core: int) -> Iterator[Bench]:
    """A directory, certificates (made by ``python``, which has cryptography) and the backend.

    Everything is gone when the context ends, however it ends.
    """
    with tempfile.TemporaryDirectory(prefix="meshctl-bench-") as name, Group() as group:
        directory = Path(name)
        identities = directory / "identities"
        services = (CALLER, HTTP_SERVICE, TCP_SERVICE, STRANGER)
        made = subprocess.run(
            [str(python), str(_IDENTITIES), str(identities), TRUST_DOMAIN, *services],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise Failed(f"certificates could not be made: {made.stderr.strip()}")
        port = free_ports().http_out
        served, process = backend.start(directory / "backend", port=port, core=load_core)
        group.add(process)
        probe.wait_ready([process], [port], served.small)
        yield Bench(
            directory=directory,
            identities=identities,
            backend=served,
            load=Load(directory, core=load_core),
            proxy_core=proxy_core,
            load_core=load_core,
        )


def run(
    site: Bench,
    contestants: Sequence[Contestant],
    rounds: int,
    effort: Effort,
    progress: Progress,
) -> Iterator[Sample]:
    """Yields each sample as it is made, so that an interrupted run still has the earlier ones."""
    by_name = {contestant.name: contestant for contestant in contestants}
    total, done = rounds * len(by_name), 0
    for number in range(1, rounds + 1):
        for name in figures.order(tuple(by_name), number):
            done += 1
            head = f"[{done}/{total}] round {number}, {name}"
            yield take(
                site,
                by_name[name],
                number,
                effort,
                lambda what, head=head: progress(f"{head}: {what}"),  # type: ignore[misc]
            )
