"""Many cases through Envoy and through ours, side by side, and what came of it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.backend import Backend
from fuzz.compare import Boundaries, Outcome, Passage, Prober, compare, pass_through, sentinel
from fuzz.envoy import Envoy
from fuzz.grammar import KINDS, Case
from fuzz.ours import Address, make_pki, start_mesh

SEED = 20
_QUIET_S = (0.06, 0.4, 1.5)
"""Without a sign of life; a disagreement is believed only after the longest of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    case: Case
    listener: str
    text: str
    ours: Passage
    envoy: Passage | None


@dataclass(slots=True)
class Result:
    outcomes: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    disagreements: list[Disagreement] = field(default_factory=list)
    repeated: int = 0
    """Cases that had to be done again, more slowly."""

    def table(self) -> str:
        columns = list(Outcome)
        rows = [f"{'class':28}" + "".join(f"{each:>14}" for each in columns)]
        for kind in KINDS:
            rows.append(
                f"{kind:28}" + "".join(f"{self.outcomes[kind, each]:14d}" for each in columns)
            )
        sums = [sum(self.outcomes[kind, each] for kind in KINDS) for each in columns]
        rows.append(f"{'all':28}" + "".join(f"{each:14d}" for each in sums))
        return "\n".join(rows)


class Lane:
    """One worker's pair of proxies and pair of backends."""

    def __init__(self, mesh: Any, address: Address, envoy_port: int, apps: tuple[Backend, Backend]):
        self.mesh = mesh
        self._address = address
        self._envoy: Address = ("127.0.0.1", envoy_port, None, None)
        self._ours_app, self._envoy_app = apps
        self._prober = Prober(address, self._ours_app)
        self.reached: list[Boundaries | None] = []
        """By the last case: our application, without the sentinel."""

    async def run(self, case: Case, listener: str, result: Result) -> None:
        wire = case.wire + sentinel(case.number)
        for attempt, quiet_s in enumerate(_QUIET_S):
            ours, envoy = await asyncio.gather(
                pass_through(self._address, self._ours_app, wire, case.number, quiet_s),
                pass_through(self._envoy, self._envoy_app, wire, case.number, quiet_s),
            )
            outcome, text = compare(wire, ours, envoy)
            if outcome is not Outcome.DISAGREE:
                fault = await self._prober.probe(case.number, quiet_s)
                if fault:
                    outcome, text = Outcome.DISAGREE, fault
            if outcome is not Outcome.DISAGREE:
                break
            result.repeated += attempt == 0
        target = sentinel(case.number).split(b" ")[1]
        self.reached = [each for each in ours.requests if each is None or each[1] != target]
        result.outcomes[case.kind, outcome] += 1
        if outcome is Outcome.DISAGREE:
            result.disagreements.append(
                Disagreement(case=case, listener=listener, text=text, ours=ours, envoy=envoy)
            )

    async def stop(self) -> None:
        self._prober.close()
        await self.mesh.stop()
        await self._envoy_app.stop()


@contextlib.asynccontextmanager
async def lanes(directory: Path, count: int, listener: str) -> AsyncIterator[list[Lane]]:
    pki = make_pki(directory / "pki")
    envoy_apps = [Backend(is_strict=False) for _ in range(count)]
    made: list[Lane] = []
    for app in envoy_apps:
        await app.start()
    envoy = Envoy(directory, [app.port for app in envoy_apps])
    try:
        await envoy.start()
        for port, app in zip(envoy.ports, envoy_apps, strict=True):
            own = Backend(is_strict=True)
            mesh, address = await start_mesh(pki, own, listener)
            made.append(Lane(mesh, address, port, (own, app)))
        yield made
    finally:
        for lane in made:
            await lane.stop()
        for app in envoy_apps:
            await app.stop()
        envoy.stop()


async def run(
    cases: Iterable[Case],
    directory: Path,
    *,
    listener: str = "outbound",
    workers: int = 8,
    progress: Callable[[int], None] = lambda _: None,
) -> Result:
    """Every case once; disagreements are in the result, not raised."""
    result = Result()
    pending = iter(cases)
    done = 0

    async def work(lane: Lane) -> None:
        nonlocal done
        for case in pending:
            await lane.run(case, listener, result)
            done += 1
            if done % 500 == 0:
                progress(done)

    async with lanes(directory, workers, listener) as all_lanes:
        await asyncio.gather(*map(work, all_lanes))
    return result
