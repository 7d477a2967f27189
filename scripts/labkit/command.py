"""Run a program with a deadline; its failure becomes one readable sentence."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

OUTPUT_SHOWN_CHARS = 2000
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """An expected failure; ``str(error)`` is for the person who typed the command."""

    exit_code = 1


class Unavailable(LabError):
    """This machine cannot run a lab, or not yet; the message says what is missing."""

    exit_code = 3


def say(message: str) -> None:
    """Progress, on stderr: stdout carries only results."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, or an empty text when there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's, with the administrator's directories on PATH and a plain locale."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}:{TOOL_PATH}", "LC_ALL": "C.UTF-8", **(extra or {})}


def run(
    command: Sequence[str | Path],
    *,
    timeout_s: float = 30,
    check: bool = True,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    holding: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to completion, output captured (or appended to ``log``); LabError when it fails.

    ``holding`` is a lock's descriptor that the program gets too: should this process be killed,
    the lock stays taken until the program has ended.
    """
    descriptors = () if holding is None else (holding,)
    words = [str(word) for word in command]
    try:
        if log is None:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                env=environment(env),
                pass_fds=descriptors,
            )
        else:
            with log.open("ab") as sink:
                done = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=timeout_s,
                    check=False,
                    env=environment(env),
                    pass_fds=descriptors,
                )
    except FileNotFoundError as error:
        raise Unavailable(f"{words[0]} is not installed; run `scripts/lab install`") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(words)}` did not end within {timeout_s:g} s") from error
    if check and done.returncode != 0:
        said = tail(log) if log else (done.stderr or done.stdout or "").strip()
        raise LabError(
            f"`{' '.join(words)}` ended with {done.returncode}: {said[-OUTPUT_SHOWN_CHARS:]}"
        )
    return done
