"""The command line: what to measure, where to write it, and how it went."""

import argparse
import datetime
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType

from benchkit import (
    asked,
    connections,
    figures,
    machine,
    multiplexed,
    needs,
    observability,
    profile,
    report,
    rounds,
    scale,
    targets,
)
from benchkit.asked import TREE
from benchkit.contestants import Contestant, Group
from benchkit.contestants.consul import ConsulConnect
from benchkit.contestants.envoy import Envoy
from benchkit.contestants.haproxy import HAProxy
from benchkit.contestants.nginx import STREAM_MODULE, Nginx
from benchkit.contestants.ours import Ours, version_of
from benchkit.figures import Metric, Sample
from benchkit.processes import Failed
from benchkit.turn import Bench, Effort

_INTERRUPTED = 130
_PROFILE_AFTER_S = 6.0
_RATE_WITHOUT_ENVOY = 2000.0
_OF_SATURATION = 1 / 3


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every contestant has its figures; 1: something failed or was left out; 130: stopped."""
    options = asked.parser().parse_args(arguments)
    if problem := asked.problem(options):
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    connections.allow_files(asked.effort(options).held_connections)
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
    needs.programs(progress.say, _programs(options))
    installed = needs.python_packages(progress.say, TREE)
    contestants = _contestants(installed, options.contestants, progress.say)
    if options.before is not None:
        contestants.insert(1, _before(options.before, progress.say))
    facts = machine.facts(machine.observe(_python_version(installed.host_python)))
    effort = asked.effort(options)
    samples: list[Sample] = []

    def note(sample: Sample) -> None:
        samples.append(sample)
        progress.say(_line(sample))
        for fault in sample.faults:
            progress.say(f"  not counted: {fault}")

    with ExitStack() as cleanup:
        site = cleanup.enter_context(
            rounds.bench(
                installed.host_python, proxy_core=options.proxy_core, load_core=options.load_core
            )
        )
        rate_per_s = _rate(options, site, contestants, effort, progress)
        if effort.phases:
            for sample in rounds.run(
                site, contestants, options.rounds, effort, rate_per_s, progress.show
            ):
                note(sample)
        groups = frozenset(options.only) & frozenset(multiplexed.PHASES)
        for sample in multiplexed.run(
            site, contestants, options.rounds, effort, groups, progress.show
        ):
            note(sample)
        ours = next((one for one in contestants if isinstance(one, Ours)), None)
        if "scale" in options.only and ours is not None:
            for number in range(1, options.scale_rounds + 1):
                note(scale.take(site, ours, number, effort, rate_per_s, progress.show))
        if "observability" in options.only and ours is not None:
            for number in range(1, options.rounds + 1):
                note(observability.take(site, ours, number, effort, rate_per_s, progress.show))
        missed = [target for target in targets.judge(samples) if target.is_met is False]
        text = ""
        if missed and options.out is not None and ours is not None:
            progress.show("recording where the time goes")
            short = replace(effort, duration_s=min(effort.duration_s, _PROFILE_AFTER_S))
            text = _recorded(site, ours, short, installed, progress.say)
    progress.end()
    run = report.Run(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["scripts/bench", *_public(sys.argv[1:])]),
        rounds=options.rounds,
        duration_s=effort.duration_s,
        connections=effort.connections,
        tcp_connections=effort.tcp_connections,
        rate_per_s=rate_per_s,
        entrants=[
            report.Entrant(
                name=one.name,
                version=one.version,
                group=one.group,
                features=one.features,
                omissions=one.omissions,
            )
            for one in contestants
        ],
        tools=_tools(installed.host_python),
        facts=facts,
        samples=samples,
        profile=text,
    )
    print(report.terminal(run))
    _write(run, options, progress.say)
    return 0 if _is_complete(run, contestants, options.only) else 1


def _rate(
    options: argparse.Namespace,
    site: Bench,
    contestants: Sequence[Contestant],
    effort: Effort,
    progress: "_Progress",
) -> float:
    """Of the latency phase: as asked for, or a third of what Envoy reaches here and now."""
    if not {"latency", "scale", "observability"} & set(options.only):
        return 0.0
    if options.rate is not None:
        return float(options.rate)
    envoy = next((one for one in contestants if one.name == targets.REFERENCE), None)
    if envoy is None:
        return _RATE_WITHOUT_ENVOY
    progress.show("how much Envoy can take")
    reached = rounds.calibrate(site, envoy, effort, lambda _: None)
    progress.say(f"envoy takes {reached:,.0f} requests/s; the fixed rate is a third of it")
    return reached * _OF_SATURATION


def _profile(options: argparse.Namespace, progress: "_Progress") -> int:
    needs.programs(progress.say, ("wrk", "nginx"))
    installed = needs.python_packages(progress.say, TREE)
    (ours,) = _contestants(installed, (targets.OURS,), progress.say)
    with rounds.bench(
        installed.host_python, proxy_core=options.proxy_core, load_core=options.load_core
    ) as site:
        progress.show("recording")
        text = _recorded(site, ours, asked.effort(options), installed, progress.say)
    progress.end()
    print(text, end="")
    return 0


def _recorded(
    site: Bench,
    ours: Contestant,
    effort: Effort,
    installed: needs.Installed,
    say: Callable[[str], None],
) -> str:
    """HTTP and TCP; a failure is the text, as a run is worth more than its profile."""
    try:
        tools = profile.Recorders(py_spy=needs.py_spy(say, installed.peers_python), perf=_perf(say))
        parts = [
            profile.record(site, ours, effort, tools, is_tcp=is_tcp) for is_tcp in (False, True)
        ]
    except (Failed, subprocess.SubprocessError) as error:
        return f"no profile: {error}\n"
    return "\n".join(parts)


def _perf(say: Callable[[str], None]) -> Path | None:
    try:
        needs.programs(say, ("perf",))
    except Failed as error:
        say(f"without perf: {error}")
        return None
    found = shutil.which("perf")
    return Path(found) if found else None


def _programs(options: argparse.Namespace) -> tuple[str, ...]:
    """Programs and files of the machine that the chosen contestants need."""
    wanted = ["wrk", "nginx"]
    wanted += ["h2load", "nghttpd"] if set(multiplexed.PHASES) & set(options.only) else []
    wanted += ["haproxy"] if "haproxy" in options.contestants else []
    wanted += [str(STREAM_MODULE)] if "nginx" in options.contestants else []
    return tuple(wanted)


def _contestants(
    installed: needs.Installed, names: Sequence[str], say: Callable[[str], None]
) -> list[Contestant]:
    """In the order to show: with every feature, TCP only, bare."""
    version = version_of(installed.host_python, installed.revision)

    def ours(group: Group) -> Ours:
        return Ours(
            host_python=installed.host_python,
            operator_python=installed.operator_python,
            version=version,
            group=group,
        )

    made: dict[str, Callable[[Group], Contestant]] = {
        "meshctl": ours,
        "envoy": lambda group: Envoy(installed.envoy, group),
        "haproxy": HAProxy,
        "nginx": lambda _: Nginx(),
        "consul": lambda _: ConsulConnect(needs.consul(say, TREE)),
    }
    found = [make(Group.FULL) for name, make in made.items() if name in names]
    if "bare" in names:
        with_bare = [name for name in ("meshctl", "envoy", "haproxy") if name in names]
        found += [made[name](Group.BARE) for name in with_bare]
    return found


def _before(tree: Path, say: Callable[[str], None]) -> Contestant:
    installed = needs.python_packages(say, tree, prefix="before-")
    return Ours(
        host_python=installed.host_python,
        operator_python=installed.operator_python,
        version=version_of(installed.host_python, installed.revision),
        is_before=True,
    )


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
        **(
            {"nghttp2": _said(["h2load", "--version"]).rpartition("/")[2]}
            if shutil.which("h2load")
            else {}
        ),
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
            (Metric.P99_ADDED_MS, "ms p99 added"),
            (Metric.P99_DIRECT_MS, "ms p99"),
            (Metric.RSS_HELD_MIB, "MiB"),
            (Metric.TCP_CPU_S_PER_GIB, "CPU-s/GiB"),
            (Metric.UNARY_US, "us/call"),
            (Metric.FLOOD_US, "us/message at full speed"),
            (Metric.ECHO_US, "us/message one at a time"),
            (Metric.DOWNLOAD_CPU_S_PER_GIB, "CPU-s/GiB of download"),
            (Metric.PSS_STREAMS_MIB, "MiB with idle streams"),
            (Metric.PSS_WEBSOCKETS_MIB, "MiB with WebSockets"),
            (Metric.APPLY_MS, "ms to apply"),
            (Metric.POLICY_AFTER_MIB, "MiB of policy"),
            (Metric.OBSERVED_NOT_US, "us/request with all off"),
            (Metric.OBSERVED_US, "with all on"),
            (Metric.SCRAPE_MS, "ms a scrape"),
            (Metric.SCRAPE_P99_RATIO, "times the p99"),
            (Metric.TOP_MS, "ms a refresh of top"),
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
        soaked = options.out.with_name("soak.md")  # takes an hour, so it is a run of its own
        text = soaked.read_text(encoding="utf-8") if soaked.exists() else ""
        options.out.write_text(report.markdown(run, picture.name, soaked=text), encoding="utf-8")
        say(f"wrote {options.out} and {picture}")


def _is_complete(run: report.Run, contestants: Sequence[Contestant], phases: Sequence[str]) -> bool:
    """True if nothing was left out and everybody has the figures of each chosen phase."""
    of_phase = {
        "http": Metric.CPU_US_PER_REQUEST,
        "latency": Metric.P99_ADDED_MS,
        "tcp": Metric.TCP_CPU_S_PER_GIB,
        "memory": Metric.RSS_HELD_MIB,
        "unary": Metric.UNARY_US,
        "streaming": Metric.ECHO_US,
        "download": Metric.DOWNLOAD_CPU_S_PER_GIB,
        "streams": Metric.PSS_STREAMS_MIB,
        "websockets": Metric.PSS_WEBSOCKETS_MIB,
    }
    return not figures.faults(run.samples) and all(
        figures.of(run.samples, one.name, of_phase[phase]) is not None
        for one in contestants
        for phase in one.phases & set(phases)
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
