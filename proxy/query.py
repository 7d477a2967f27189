"""``python -m proxy.query --admin HOST:PORT GET /status``: asks the local proxy's admin port.

For meshctl over SSH: hosts need not have curl. Prints the body. Exit code 0 for 2xx, 1 for
another status or an answer that is not HTTP, 2 for wrong usage, 3 when nothing listens.

``--every SECONDS`` asks again and again: each body is one line, and what goes wrong is a line
``{"error": ...}``. It ends when nobody reads any more, when standard input (a pipe) ends, when its
parent is gone, or after ``--for SECONDS``. ``--follow`` puts the answer's field ``next`` in the
place of the path's last segment.
"""

import argparse
import http.client
import json
import os
import select
import stat
import sys
import time
from collections.abc import Sequence

MAX_BODY_BYTES = 64 * 1024 * 1024
DEADLINE_S = 40.0
"""Above what the admin port gives its own handlers."""
_SHOWN_CHARACTERS = 300


class _Fault(Exception):
    """Why there is no answer, and the exit code that says so."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proxy.query", description=__doc__)
    parser.add_argument("--admin", required=True, metavar="HOST:PORT", type=_address)
    parser.add_argument("--every", metavar="SECONDS", type=_seconds)
    parser.add_argument("--for", dest="for_s", metavar="SECONDS", type=_seconds)
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("method", choices=["GET", "POST"])
    parser.add_argument("path")
    chosen = parser.parse_args(argv)
    if chosen.every is None and (chosen.for_s is not None or chosen.follow):
        parser.error("--for and --follow need --every")
    host, port = chosen.admin
    if chosen.every is not None:
        return _repeat(host, port, chosen)
    try:
        status, body = _ask(host, port, chosen.method, chosen.path)
    except _Fault as fault:
        print(fault, file=sys.stderr)
        return fault.code
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return 0 if _is_good(status) else 1


def _ask(host: str, port: int, method: str, path: str) -> tuple[int, bytes]:
    """Status and body, over a connection of its own. Raises _Fault."""
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_S)
    try:
        connection.connect()
    except OSError as error:
        text = f"nothing listens on {host}:{port}: {error.strerror or error}"
        raise _Fault(text, 3) from error
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read(MAX_BODY_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = str(error) or type(error).__name__
        raise _Fault(f"no usable answer from {host}:{port}: {text}", 1) from error
    finally:
        connection.close()
    if len(body) > MAX_BODY_BYTES:
        raise _Fault(f"the answer of {host}:{port} is too large", 1)
    return answer.status, body


def _repeat(host: str, port: int, chosen: argparse.Namespace) -> int:
    parent = os.getppid()
    started = time.monotonic()
    path: str = chosen.path
    due = started
    while True:
        line = _line(host, port, chosen.method, path)
        try:
            sys.stdout.buffer.write(line + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            # Else the interpreter would try again, and complain, when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if chosen.follow:
            path = _following(path, line)
        now = time.monotonic()
        if chosen.for_s is not None and now - started + chosen.every > chosen.for_s:
            return 0
        # One that took long is not made up for by a burst.
        due = max(due + chosen.every, now)
        if _is_abandoned(due - now) or os.getppid() != parent:
            return 0


def _line(host: str, port: int, method: str, path: str) -> bytes:
    try:
        status, body = _ask(host, port, method, path)
    except _Fault as fault:
        return json.dumps({"error": str(fault)}).encode()
    if not _is_good(status):
        said = body[:_SHOWN_CHARACTERS].decode("utf-8", "replace").strip()
        return json.dumps({"error": f"{method} {path}: {status} {said}"}).encode()
    # In JSON a line break stands between things only, never within one.
    return body.strip().replace(b"\n", b" ")


def _following(path: str, line: bytes) -> str:
    """``path`` with the place to go on from; as it was after an error."""
    try:
        following = json.loads(line).get("next")
    except (ValueError, AttributeError):
        return path
    return path if following is None else f"{path.rpartition('/')[0]}/{following}"


def _is_abandoned(wait_s: float) -> bool:
    """After at most ``wait_s``. A pipe or socket as standard input belongs to whoever started
    this: its end is theirs. Anything else says nothing.
    """
    try:
        is_theirs = stat.S_ISFIFO(mode := os.fstat(0).st_mode) or stat.S_ISSOCK(mode)
    except OSError:
        is_theirs = False
    if not is_theirs:
        time.sleep(wait_s)
        return False
    readable, _, _ = select.select([0], [], [], wait_s)
    return bool(readable) and not os.read(0, 4096)


def _is_good(status: int) -> bool:
    return 200 <= status < 300


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


if __name__ == "__main__":
    sys.exit(main())
