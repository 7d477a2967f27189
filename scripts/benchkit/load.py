"""wrk, the load tool: its command, its script, its answer. It is what counts successes."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchkit.contestants import REQUEST_PREFIX, ROUTING_HEADER
from benchkit.processes import Failed

_GRACE_S = 20.0  # for connections, a tool's calibration and its last answers
_RESPONSE_TIMEOUT_S = 10
VARIETY = 509
"""Different requests, a prime; sent in turn, again and again."""
TENANTS = 127
"""Different values of the header, a prime too."""

_SCRIPT = f"""\
-- One JSON object with what was counted; with a pause, each connection waits before it asks again.
local low, high = tonumber(os.getenv("BENCH_PAUSE_LOW")), tonumber(os.getenv("BENCH_PAUSE_HIGH"))
if high then
  function delay()
    return math.random(low, high)
  end
end

-- All requests are made before the first is sent: what is left to do for each is one table lookup.
if os.getenv("BENCH_VARIED") then
  local requests, last = {{}}, 0
  function init(args)
    for number = 1, {VARIETY} do
      requests[number] = wrk.format("GET", "{REQUEST_PREFIX}/" .. number, {{
        ["Host"] = wrk.headers["Host"],
        ["User-Agent"] = "wrk",
        ["Accept"] = "*/*",
        ["{ROUTING_HEADER}"] = "t" .. number % {TENANTS},
      }})
    end
  end
  function request()
    last = last % {VARIETY} + 1
    return requests[last]
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{{"requests": %d, "bytes": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, ' ..
    '"errors": {{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}}}\\n',
    summary.requests, summary.bytes, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What wrk counted."""

    succeeded: int
    """Responses read to their end with a status below 400."""
    failures: tuple[str, ...]
    """Each kind of failure with its number; empty if every request succeeded."""
    received_bytes: int
    duration_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """How long a connection waits between an answer and its next request, drawn evenly."""

    low_ms: int
    high_ms: int


def pause_for(rate_per_s: float, connections: int) -> Pause:
    """The pause with which ``connections`` together offer close to ``rate_per_s``."""
    mean_ms = connections / rate_per_s * 1000
    return Pause(low_ms=max(round(mean_ms * 0.5), 1), high_ms=max(round(mean_ms * 1.5), 2))


def parse(output: str) -> Outcome:
    """Raises Failed if the line that the script writes is not there or is not whole."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    try:
        answer = json.loads(lines[-1])
        errors = {kind: int(count) for kind, count in answer["errors"].items()}
        return Outcome(
            succeeded=int(answer["requests"]) - errors["status"],
            failures=tuple(f"{count} x {kind}" for kind, count in errors.items() if count),
            received_bytes=int(answer["bytes"]),
            duration_s=int(answer["duration_us"]) / 1e6,
            p50_ms=int(answer["p50_us"]) / 1000,
            p99_ms=int(answer["p99_us"]) / 1000,
        )
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise Failed(f"wrk's answer cannot be read: {output[-500:]!r}") from error


class Load:
    """wrk with its script on disk, pinned to the load core."""

    def __init__(self, directory: Path, *, core: int) -> None:
        self._core = core
        self._script = directory / "wrk.lua"
        self._script.write_text(_SCRIPT, encoding="utf-8")

    def run(
        self,
        url: str,
        *,
        connections: int,
        duration_s: float,
        pause: Pause | None = None,
        is_varied: bool = False,
    ) -> Outcome:
        """Blocks for the duration. Raises Failed if wrk itself fails or hangs.

        ``is_varied``: the path of ``url`` is replaced by ``VARIETY`` others, in turn.
        """
        environment = dict(os.environ)
        if pause is not None:
            environment |= {
                "BENCH_PAUSE_LOW": str(pause.low_ms),
                "BENCH_PAUSE_HIGH": str(pause.high_ms),
            }
        if is_varied:
            environment["BENCH_VARIED"] = "1"
        words = [
            *("wrk", "-t", "1", "-c", str(connections), "-d", f"{max(round(duration_s), 1)}s"),
            *("--timeout", f"{_RESPONSE_TIMEOUT_S}s", "-s", str(self._script), url),
        ]
        return parse(
            run_tool(words, core=self._core, duration_s=duration_s, environment=environment)
        )


def run_tool(
    words: Sequence[str],
    *,
    core: int,
    duration_s: float,
    environment: Mapping[str, str] | None = None,
) -> str:
    """A load tool on a core of its own, to its end; what it printed. Raises Failed if the tool
    itself fails or hangs."""
    name = words[0]
    try:
        ended = subprocess.run(
            ["taskset", "-c", str(core), "setpriv", "--pdeathsig", "KILL", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=duration_s + _GRACE_S,
            env=environment,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{name} was still running {_GRACE_S:.0f} s after its end") from error
    output = ended.stdout.decode(errors="replace")
    if ended.returncode != 0:
        said = ended.stderr.decode(errors="replace").strip() or output.strip()
        raise Failed(f"{name} ended with code {ended.returncode}: {said}")
    return output
