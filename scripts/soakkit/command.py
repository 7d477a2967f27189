"""The command line: soak, look, judge."""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from benchkit.processes import Failed, Process
from benchkit.turn import free_ports

from soakkit import page, watch
from soakkit.application import Application
from soakkit.callers import Callers
from soakkit.churn import Churn
from soakkit.mesh import API, DOMAIN, Mesh, running
from soakkit.verdict import Growth, Look, TooShort, judge

_SINK = Path(__file__).resolve().parents[1] / "benchkit" / "sink.py"
_SHOWN = ("memory", "series", "page", "files", "in flight")
_UNANSWERED_SHARE = 0.01
_STARTS_S = 30.0
_CHURN_EVERY_S = 5.0
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing grows; 1: something does, or it could not be seen; 2: wrong options."""
    options = _parser().parse_args(arguments)
    if options.minutes <= 0 or options.rate <= 0 or options.every <= 0:
        print("soak: --minutes, --rate and --every are above 0", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        looks, callers = asyncio.run(_soak(options))
        grown = judge(looks, watch.limits(options.tolerance))
    except (Failed, TooShort) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("soak: stopped before there was a verdict", file=sys.stderr)
        return _INTERRUPTED
    if options.json is not None:
        document = {"looks": [asdict(look) for look in looks], "growth": [asdict(g) for g in grown]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.out is not None:
        options.out.write_text(page.section(looks, grown, rate=options.rate), encoding="utf-8")
    wrong = _wrong(grown, callers, looks)
    _show(grown, callers, looks)
    for sentence in wrong:
        print(f"soak: {sentence}", file=sys.stderr)
    print("nothing grows" if not wrong else "the soak failed")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second")
    parser.add_argument("--every", type=float, default=60.0, metavar="S", help="looks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every look")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="Markdown (docs/soak.md, for scripts/bench)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--series-idle", type=float, metavar="S", help="instead of the proxy's own ten minutes"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1.0, help="of all limits, for a short one"
    )
    return parser


async def _soak(options: argparse.Namespace) -> tuple[list[Look], Callers]:
    rng = random.Random(options.seed)
    application = Application(rng)
    await application.start()
    try:
        with tempfile.TemporaryDirectory(prefix="meshctl-soak-") as name:
            directory, port = Path(name), free_ports().http_out
            command = [sys.executable, "-I", str(_SINK), str(port)]
            receiver = Process("receiver", command, core=0, log=directory / "receiver.log")
            try:
                with running(
                    directory,
                    app_port=application.port,
                    otlp_port=port,
                    series_idle_s=options.series_idle,
                ) as mesh:
                    return await _watched(mesh, options, rng)
            finally:
                receiver.stop()
    finally:
        await application.stop()


async def _watched(
    mesh: Mesh, options: argparse.Namespace, rng: random.Random
) -> tuple[list[Look], Callers]:
    hosts = (API, f"{API}.mesh", f"{API}.{DOMAIN}", f"{API.upper()}.MESH")
    await _until_answered(mesh)
    callers = Callers(mesh.callers, hosts, options.rate, rng)
    calling = asyncio.create_task(callers.run())
    churning = asyncio.create_task(_churn(Churn(mesh.ports, rng)))
    looks: list[Look] = []
    began = time.monotonic()
    try:
        while (due := len(looks) * options.every) <= options.minutes * 60:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            looks.append(await asyncio.to_thread(watch.look, mesh, began))
            print(_line(looks[-1]), file=sys.stderr, flush=True)
            for task in (calling, churning):
                if task.done():
                    task.result()
    finally:
        for task in (calling, churning):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    return looks, callers


async def _churn(churn: Churn) -> None:
    while True:
        await asyncio.sleep(_CHURN_EVERY_S)
        await asyncio.to_thread(churn.turn)


async def _until_answered(mesh: Mesh) -> None:
    deadline = time.monotonic() + _STARTS_S
    while True:
        trial = Callers(mesh.callers[:1], (API,), 200.0, random.Random(0))
        task = asyncio.create_task(trial.run())
        await asyncio.sleep(0.5)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if trial.answers[200]:
            return
        for process in (mesh.client, mesh.server):
            process.check()
        if time.monotonic() > deadline:
            raise Failed(f"nothing is answered\n{mesh.client.log_tail()}\n{mesh.server.log_tail()}")


def _wrong(grown: Sequence[Growth], callers: Callers, looks: Sequence[Look]) -> list[str]:
    found = [
        f"{each.name} grew by {each.by:.1f} from about {each.level:.1f}"
        for each in grown
        if not each.is_within
    ]
    answered, unanswered = callers.answers.total(), callers.unanswered.total()
    if unanswered > _UNANSWERED_SHARE * (answered + unanswered):
        found.append(f"{unanswered} of {answered + unanswered} requests were not answered")
    for side in watch.SIDES:
        name = f"{side} requests"
        if looks[-1].figures[name] == 0:
            found.append(f"{name}: none were counted")
        if lost := looks[-1].figures[f"{side} lost"]:
            found.append(f"{side}: {lost:.0f} lines and spans were lost")
    return found


def _show(grown: Sequence[Growth], callers: Callers, looks: Sequence[Look]) -> None:
    print(f"{'over the second half':24}{'about':>10}{'growth':>10}")
    for each in grown:
        mark = "" if each.is_within else "  grows"
        print(f"{each.name:24}{each.level:10.1f}{each.by:+10.1f}{mark}")
    last = looks[-1].figures
    for side in watch.SIDES:
        dropped, lost = last[f"{side} dropped series"], last[f"{side} lost"]
        print(f"{side}: {dropped:.0f} idle series dropped, {lost:.0f} lines and spans lost")
    print(f"{callers.answers.total()} answers, {len(callers.answers)} statuses; "
          f"not answered: {dict(callers.unanswered) or 'none'}")  # fmt: skip


def _line(look: Look) -> str:
    shown = [f"{look.at_s / 60:6.1f} min"]
    for side in watch.SIDES:
        values = (f"{look.figures[f'{side} {name}']:.0f} {name}" for name in _SHOWN)
        shown.append(f"{side}: {', '.join(values)}")
    return " | ".join(shown)


if __name__ == "__main__":
    sys.exit(main())
