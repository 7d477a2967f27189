"""h2load, the load tool for HTTP/2, and nghttpd, the application behind it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchkit import wire
from benchkit.backend import BODY_BYTES, Backend, body
from benchkit.contestants import CALLED, ROUTING_HEADER
from benchkit.load import run_tool
from benchkit.processes import Failed, Process
from benchkit.streaming_load import METHODS, path

MESSAGE_BYTES = 100
"""Of a unary call's message, either way, without the five bytes before it."""
LARGE = f"{CALLED}/large"

_COUNTS = re.compile(
    r"^requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, "
    r"(\d+) failed, (\d+) errored, (\d+) timeout$",
    re.MULTILINE,
)
_STATUSES = re.compile(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", re.MULTILINE)
_TRAFFIC = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s), ", re.MULTILINE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What h2load counted."""

    succeeded: int
    failures: tuple[str, ...]
    """Each kind of failure with its number; empty if every request succeeded."""
    received_bytes: int
    """Of bodies."""
    duration_s: float


def parse(output: str, *, body_bytes: int) -> Counted:
    """``body_bytes``: what each answer must have at least. Raises Failed if lines are missing."""
    counts, statuses = _COUNTS.search(output), _STATUSES.search(output)
    traffic, finished = _TRAFFIC.search(output), _FINISHED.search(output)
    if counts is None or statuses is None or traffic is None or finished is None:
        raise Failed(f"h2load's answer cannot be read: {output[-500:]!r}")
    succeeded, failed, errored, timeout = (int(counts[at]) for at in (3, 4, 5, 6))
    kinds = {
        "failed": failed,
        "errored": errored,
        "timeout": timeout,
        "status": sum(int(statuses[at]) for at in (2, 3, 4)),
    }
    failures = [f"{count} x {kind}" for kind, count in kinds.items() if count]
    # A gRPC error has status 200 as well, and no body.
    if int(traffic[1]) < succeeded * body_bytes:
        failures.append(f"{traffic[1]} bytes in {succeeded} answers of {body_bytes}")
    return Counted(
        succeeded=succeeded,
        failures=tuple(failures),
        received_bytes=int(traffic[1]),
        duration_s=float(finished[1]) * _SECONDS[finished[2]],
    )


class H2Load:
    """With its files on disk, pinned to the load core."""

    def __init__(self, directory: Path, *, core: int) -> None:
        self._core = core
        directory.mkdir(exist_ok=True)
        self._message = directory / "message"
        self._message.write_bytes(wire.message(MESSAGE_BYTES))
        self._methods = directory / "methods"

    def calls(self, port: int, *, connections: int, streams: int, duration_s: float) -> Counted:
        """Unary calls of ``METHODS`` methods in turn, ``streams`` at a time on each connection."""
        base = f"http://127.0.0.1:{port}"
        self._methods.write_text("\n".join(base + path(number) for number in range(METHODS)))
        fields = ("content-type: application/grpc", "te: trailers", "user-agent: grpc-bench/1")
        return self._run(
            [
                *("-i", str(self._methods), "-d", str(self._message)),
                *("-c", str(connections), "-m", str(streams), "-D", f"{duration_s:g}s"),
                *(word for field in fields for word in ("-H", field)),
            ],
            duration_s=duration_s,
            body_bytes=len(wire.message(MESSAGE_BYTES)),
        )

    def download(self, port: int, *, size: int, most_s: float) -> Counted:
        """One body of ``size`` bytes, alone on one connection."""
        return self._run(
            ["-n", "1", "-c", "1", "-m", "1", f"http://127.0.0.1:{port}{LARGE}"],
            duration_s=most_s,
            body_bytes=size,
        )

    def _run(self, arguments: Sequence[str], *, duration_s: float, body_bytes: int) -> Counted:
        words = ["h2load", "-t", "1", "-H", f"{ROUTING_HEADER}: t1", *arguments]
        output = run_tool(words, core=self._core, duration_s=duration_s)
        return parse(output, body_bytes=body_bytes)


def serve(directory: Path, *, port: int, core: int, large_bytes: int) -> Process:
    """nghttpd: for each method a message and trailers, a large body, the small one of others."""
    files = directory / "files"
    for number in range(METHODS):
        method = files / path(number)[1:]
        method.parent.mkdir(parents=True, exist_ok=True)
        method.write_bytes(wire.message(MESSAGE_BYTES))
    (files / Backend(port=port).small[1:]).write_bytes(body(BODY_BYTES))
    with (files / LARGE[1:]).open("wb") as file:
        file.truncate(large_bytes)  # holes: they cost no disk
    types = directory / "mime.types"
    types.write_text("application/grpc grpc\n", encoding="utf-8")
    return Process(
        "nghttpd",
        [
            *("nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", str(files), "-n", "1"),
            *("--trailer", "grpc-status: 0", "--no-content-length", "-w", "24", "-W", "24"),
            *("-m", "1000", "--mime-types-file", str(types), str(port)),
        ],
        core=core,
        log=directory / "nghttpd.log",
    )
