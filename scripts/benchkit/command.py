"""The command line: what to measure, where to write it, and how it went."""

import argparse
import datetime
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from benchkit import figures, machine, needs, profile, report, rounds
from benchkit.contestants import Contestant
from benchkit.contestants.envoy import Envoy
from benchkit.contestants.haproxy import HAProxy
from benchkit.contestants.ours import Ours, version_of
from benchkit.figures import Metric, Sample
from benchkit.processes import Failed
from benchkit.turn import Effort

TREE = Path(__file__).resolve().parents[2]
PHASES = ("http", "tcp", "memory")
CONTESTANTS = (report.OURS, "envoy", "haproxy")

_INTERRUPTED = 130
_PROFILE_S = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every contestant has its figures; 1: something failed or was left out; 130: stopped."""
    options = _parser().parse_args(arguments)
    if problem := _problem(options):
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    progress = _Progress()
    try:
        with needs.locked(needs.cache_directory()):
            return _profile(options, progress) if options.profile else _measure(options, progress)
    except Failed as error:
        progress.end()
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress.end()
        print("bench: stopped; nothing was written", file=sys.stderr)
        return _INTERRUPTED


def _measure(options: argparse.Namespace, progress: "_Progress") -> int:
    needs.programs(progress.say, _programs(options.contestants))
    installed = needs.python_packages(progress.say, TREE)
    contestants = _contestants(installed, options.contestants)
    facts = machine.facts(machine.observe(_python_version(installed.host_python)))
    effort = _effort(options)
    samples: list[Sample] = []
    with ExitStack() as cleanup:
        site = cleanup.enter_context(
            rounds.bench(
                installed.host_python, proxy_core=options.proxy_core, load_core=options.load_core
            )
        )
        for sample in rounds.run(site, contestants, options.rounds, effort, progress.show):
            samples.append(sample)
            progress.say(_line(sample))
            for fault in sample.faults:
                progress.say(f"  not counted: {fault}")
    progress.end()
    run = report.Run(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["scripts/bench", *_public(sys.argv[1:])]),
        rounds=options.rounds,
        duration_s=effort.duration_s,
        connections=effort.connections,
        tcp_connections=effort.tcp_connections,
        entrants=[
            report.Entrant(name=one.name, version=one.version, features=one.features)
            for one in contestants
        ],
        tools=_tools(installed.host_python),
        facts=facts,
        samples=samples,
    )
    print(report.terminal(run))
    _write(run, options, progress.say)
    return 0 if _is_complete(run, effort) else 1


def _profile(options: argparse.Namespace, progress: "_Progress") -> int:
    needs.programs(progress.say, ("wrk", "nginx"))
    installed = needs.python_packages(progress.say, TREE)
    binary = needs.py_spy(progress.say, installed.peers_python)
    (ours,) = _contestants(installed, (report.OURS,))
    with rounds.bench(
        installed.host_python, proxy_core=options.proxy_core, load_core=options.load_core
    ) as site:
        progress.show("recording")
        text = profile.record(site, ours, _effort(options), binary)
    progress.end()
    print(text, end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure two mTLS hops through this project's proxy, Envoy and HAProxy, "
        "interleaved, on loopback. Needs two cores; installs what is missing and says so.",
    )
    parser.add_argument("--rounds", type=int, help="goes of each contestant (5; --quick: 2)")
    parser.add_argument("--duration", type=float, metavar="S", help="full load per go (8; 3)")
    parser.add_argument("--quick", action="store_true", help="short and rough")
    parser.add_argument(
        "--only", type=_names(PHASES), default=PHASES, metavar="LIST", help=",".join(PHASES)
    )
    parser.add_argument(
        "--contestants",
        type=_names(CONTESTANTS),
        default=CONTESTANTS,
        metavar="LIST",
        help=",".join(CONTESTANTS),
    )
    parser.add_argument("--rate", type=float, default=2000.0, help="of the latency phase, per s")
    parser.add_argument("--proxy-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="FILE",
        help="Markdown, with an .svg beside it (docs/benchmarks.md; --quick or a part only: none)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample")
    parser.add_argument(
        "--profile", action="store_true", help="instead: py-spy on our two proxies under load"
    )
    return parser


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return tuple(name for name in known if name in chosen)

    return parse


def _problem(options: argparse.Namespace) -> str:
    """What is wrong with the options on this machine, or nothing; fills in the defaults."""
    if options.rounds is None:
        options.rounds = 2 if options.quick else 5
    if options.duration is None:
        options.duration = _PROFILE_S if options.profile else 3.0 if options.quick else 8.0
    is_whole = options.only == PHASES and options.contestants == CONTESTANTS
    if options.out is None and is_whole and not options.quick:
        options.out = TREE / "docs" / "benchmarks.md"
    if options.rounds < 1 or not 1 <= options.duration <= 600 or options.rate <= 0:
        return "--rounds from 1, --duration from 1 to 600, --rate above 0"
    cores = os.sched_getaffinity(0)
    if options.proxy_core == options.load_core or not {
        options.proxy_core,
        options.load_core,
    } <= set(cores):
        return f"two different cores are needed, of {sorted(cores)}"
    return ""


def _effort(options: argparse.Namespace) -> Effort:
    return Effort(
        phases=frozenset(options.only),
        duration_s=options.duration,
        warmup_s=1.0 if options.quick else 2.0,
        paced_s=2.0 if options.quick else 5.0,
        tcp_s=2.0 if options.quick else 4.0,
        paced_rate_per_s=options.rate,
    )


def _programs(contestants: Sequence[str]) -> tuple[str, ...]:
    return ("wrk", "nginx", *(["haproxy"] if "haproxy" in contestants else []))


def _contestants(installed: needs.Installed, names: Sequence[str]) -> list[Contestant]:
    found: list[Contestant] = []
    for name in names:
        if name == report.OURS:
            found.append(
                Ours(
                    host_python=installed.host_python,
                    operator_python=installed.operator_python,
                    version=version_of(installed.host_python, installed.revision),
                )
            )
        elif name == "envoy":
            found.append(Envoy(installed.envoy))
        else:
            found.append(HAProxy())
    return found


def _python_version(python: Path) -> str:
    code = "import platform; print(platform.python_implementation(), platform.python_version())"
    return _said([str(python), "-I", "-c", code])


def _tools(host_python: Path) -> dict[str, str]:
    distributions = "uvloop", "httptools", "msgspec"
    code = (
        "import ssl, importlib.metadata as m; "
        f"print(', '.join(f'{{d}} {{m.version(d)}}' for d in {distributions!r}), "
        "ssl.OPENSSL_VERSION, sep=', ')"
    )
    return {
        "libraries of meshctl": _said([str(host_python), "-I", "-c", code]),
        "wrk": _said(["wrk", "-v"]).split("Copyright")[0].removeprefix("wrk ").strip(),
        "nginx": _said(["nginx", "-v"]).rpartition("/")[2],
    }


def _said(command: Sequence[str]) -> str:
    """The first line on either stream, whatever the exit code: ``wrk -v`` ends with 1."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return next(iter((ended.stdout + ended.stderr).strip().splitlines()), "unknown")


def _line(sample: Sample) -> str:
    shown = [
        f"{sample.figures[metric]:.1f} {unit}"
        for metric, unit in (
            (Metric.CPU_US_PER_REQUEST, "us/request"),
            (Metric.REQUESTS_PER_S, "requests/s"),
            (Metric.P99_MS, "ms p99"),
            (Metric.RSS_LOADED_MIB, "MiB"),
            (Metric.TCP_CPU_S_PER_GIB, "CPU-s/GiB"),
        )
        if metric in sample.figures
    ]
    return f"round {sample.round}, {sample.contestant}: {', '.join(shown) or 'no figures'}"


def _public(arguments: Sequence[str]) -> list[str]:
    """Without directories: where this machine keeps its files is nobody's business."""
    split = [word.partition("=") for word in arguments]
    return [
        f"{name}{equals}{Path(value).name}"
        if value.startswith("/")
        else Path(name).name
        if name.startswith("/")
        else f"{name}{equals}{value}"
        for name, equals, value in split
    ]


def _write(run: report.Run, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    if options.json is not None:
        options.json.write_text(report.raw(run), encoding="utf-8")
        say(f"wrote {options.json}")
    if options.out is not None:
        picture = options.out.with_suffix(".svg")
        picture.write_text(report.chart(run), encoding="utf-8")
        options.out.write_text(report.markdown(run, picture.name), encoding="utf-8")
        say(f"wrote {options.out} and {picture}")


def _is_complete(run: report.Run, effort: Effort) -> bool:
    """True if nothing was left out and everybody has the figures of each chosen phase."""
    chosen = {
        "http": Metric.CPU_US_PER_REQUEST,
        "tcp": Metric.TCP_CPU_S_PER_GIB,
        "memory": Metric.RSS_LOADED_MIB,
    }
    return not figures.faults(run.samples) and all(
        figures.of(run.samples, entrant.name, chosen[phase]) is not None
        for entrant in run.entrants
        for phase in effort.phases
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Progress:
    """On a terminal one line that changes, elsewhere only what stays; always on stderr."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._width = 0

    def show(self, text: str) -> None:
        if self._is_terminal:
            print(f"\r{text.ljust(self._width)}", end="", file=sys.stderr, flush=True)
            self._width = len(text)

    def say(self, text: str) -> None:
        self.end()
        print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._width:
            print(f"\r{' ' * self._width}\r", end="", file=sys.stderr, flush=True)
            self._width = 0
