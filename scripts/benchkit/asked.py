"""What can be asked of the benchmark: options, their defaults, and which of them make no sense."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from benchkit.multiplexed import PHASES as MULTIPLEXED_PHASES
from benchkit.turn import PHASES as TURN_PHASES
from benchkit.turn import Effort

TREE = Path(__file__).resolve().parents[2]
PHASES = (*TURN_PHASES, *MULTIPLEXED_PHASES, "scale", "observability")
CONTESTANTS = ("meshctl", "envoy", "haproxy", "nginx", "consul", "bare")
"""``bare``: those of ours, Envoy and HAProxy that were chosen, once more without the features."""

_PROFILE_S = 10.0
_QUICK_DOWNLOAD_BYTES = 256 * 1024**2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure two mTLS hops through this project's proxy, Envoy, HAProxy, nginx "
        "and, for TCP, consul connect proxy, interleaved, on loopback. Needs two cores; installs "
        "what is missing and says so.",
    )
    parser.add_argument("--rounds", type=int, help="goes of each contestant (5; --quick: 1)")
    parser.add_argument("--duration", type=float, metavar="S", help="full load per go (4; 2)")
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
    parser.add_argument(
        "--rate", type=float, help="of the latency phase, per s (a third of Envoy's saturation)"
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="TREE",
        help="a checkout of an earlier commit, as one more contestant over HTTP/1.1 and TCP",
    )
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
        "--profile", action="store_true", help="instead: look into our two proxies under load"
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


def problem(options: argparse.Namespace) -> str:
    """What is wrong with the options on this machine, or nothing; fills in the defaults."""
    if options.rounds is None:
        options.rounds = 1 if options.quick else 5
    options.scale_rounds = min(options.rounds, 3)
    if options.duration is None:
        options.duration = _PROFILE_S if options.profile else 2.0 if options.quick else 4.0
    is_whole = options.only == PHASES and options.contestants == CONTESTANTS
    if options.out is None and is_whole and not options.quick:
        options.out = TREE / "docs" / "benchmarks.md"
    if options.before is not None and not (options.before / "pyproject.toml").is_file():
        return f"--before: {options.before} is no tree of this project"
    if (
        options.rounds < 1
        or not 1 <= options.duration <= 600
        or (options.rate is not None and options.rate <= 0)
    ):
        return "--rounds from 1, --duration from 1 to 600, --rate above 0"
    cores = os.sched_getaffinity(0)
    if options.proxy_core == options.load_core or not {
        options.proxy_core,
        options.load_core,
    } <= set(cores):
        return f"two different cores are needed, of {sorted(cores)}"
    return ""


def effort(options: argparse.Namespace) -> Effort:
    return Effort(
        phases=frozenset(options.only) & frozenset(TURN_PHASES),
        duration_s=options.duration,
        warmup_s=1.0 if options.quick else 2.0,
        paced_s=2.0 if options.quick else 4.0,
        tcp_s=1.0 if options.quick else 3.0,
        download_bytes=_QUICK_DOWNLOAD_BYTES if options.quick else 1024**3,
    )
