"""``top``, ``edges``, ``endpoints`` and ``graph`` as an operator runs them."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest
from telemetry.made import MadeMesh
from telemetry.serving import Serving, serving
from typer.testing import CliRunner, Result

from meshctl.cli.app import app
from meshctl.pki.store import CaStore
from meshctl.state import StateDir
from proxy.model.names import TrustDomain

NAMES = ("web", "api", "db", "payments")
DEADLINE_S = 60.0
AS_IN_A_TERMINAL = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from meshctl.cli import main; main()"
)
"""Whoever runs the tests in the background may have them ignore Ctrl-C, and all that they start."""
Run = Callable[..., Result]
"""The words of a command, and ``expect``: its exit code, 0 unless said otherwise."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(MadeMesh(4, 5, names=NAMES), tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="module")
def folder(served: Serving, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("operator")
    (made / "inventory.yaml").write_text(served.inventory)
    now = datetime.now(UTC)
    CaStore.create(StateDir.create(made / ".meshctl", TrustDomain("mesh.test"), now), None, now)
    return made


@pytest.fixture
def run(served: Serving, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(folder)

    def call(*words: str, expect: int = 0) -> Result:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == expect, done.output
        return done

    yield call
    served.silent = set()


def test_top_once_has_a_line_for_each_service(run: Run) -> None:
    done = run("top", "--once", "--interval", "0.5", "--sort", "name")
    titles, *lines = done.stdout.splitlines()
    assert titles.split()[:4] == ["SERVICE", "REQ/S", "SUCCESS", "P50"]
    assert [line.split()[0] for line in lines] == sorted(NAMES)
    assert done.stderr == ""


@pytest.mark.parametrize("by", ["route", "endpoint", "edge"])
def test_top_can_be_of_something_else_and_of_one_service(run: Run, by: str) -> None:
    words = ("top", "payments", "--once", "--interval", "0.5", "--by", by)
    titles, *lines = run(*words).stdout.splitlines()
    place = titles.split().index("SERVICE")
    assert lines
    assert {line.split()[place] for line in lines} == {"payments"}


def test_top_as_json_is_one_document_of_everything(run: Run) -> None:
    made = json.loads(run("top", "-o", "json", "--interval", "0.5").stdout)
    assert made.keys() == {
        *("at", "denials", "edges", "endpoints", "hosts", "routes", "services", "window_s"),
    }
    assert {row["service"] for row in made["services"]} == set(NAMES)
    assert made["window_s"] > 0


def test_edges_tell_who_is_secured_in_words(run: Run) -> None:
    said = run("edges", "web", "--interval", "0.5").stdout
    assert re.search(r"^unknown +web +PLAINTEXT .* called$", said, re.MULTILINE)
    assert re.search(r"^web +api +mTLS .* caller and called$", said, re.MULTILINE)
    made = json.loads(run("edges", "web", "-o", "json", "--since-start").stdout)
    assert made["window_s"] == 0
    assert all("web" in (edge["caller"], edge["service"]) for edge in made["edges"])


def test_endpoints_tell_why_one_is_not_used(run: Run, served: Serving) -> None:
    ejected = [call for call in served.mesh.calls if call.failing > 0.15]
    assert ejected
    said = run("endpoints", ejected[0].service, "--since-start").stdout
    line = next(line for line in said.splitlines() if " ejected " in line)
    assert line.split()[4:6] == [ejected[0].caller, f"host-{ejected[0].caller}"]
    assert line.endswith("too many failures (2 times in a row)")
    assert " 17s " in line


def test_a_host_that_does_not_answer_is_told_and_the_rest_is_shown(
    run: Run, served: Serving
) -> None:
    served.silent = {"host-api"}
    done = run("top", "--once", "--interval", "0.5", expect=1)
    assert "the proxy on host-api does not answer" in done.stderr
    assert "hint:" in done.stderr
    assert "web" in done.stdout
    for words in (("edges",), ("endpoints", "api"), ("graph", "-f", "json"), ("edges", "web")):
        assert "host-api" in run(*words, "--since-start", expect=1).stderr
    made = json.loads(run("top", "-o", "json", "--interval", "0.5", expect=1).stdout)
    assert [row["host"] for row in made["hosts"] if row["fault"]] == ["host-api"]


def test_if_nobody_answers_the_code_says_so(run: Run, served: Serving) -> None:
    served.silent = set(served.ports)
    run("edges", expect=4)
    run("graph", expect=4)


def test_only_some_hosts_can_be_asked(run: Run, served: Serving) -> None:
    served.silent = set(served.ports) - {"host-web"}
    made = json.loads(run("top", "-o", "json", "--interval", "0.5", "--host", "host-web").stdout)
    assert [row["host"] for row in made["hosts"]] == ["host-web"]
    assert "--host" in run("edges", "--host", "nope", expect=2).stderr


@pytest.mark.parametrize("command", ["top", "edges", "endpoints", "graph"])
def test_a_service_that_does_not_exist_is_refused_with_a_suggestion(run: Run, command: str) -> None:
    assert "payments" in run(command, "payment", expect=2).stderr


def test_the_graph_comes_in_four_forms(run: Run) -> None:
    assert "└─" in run("graph", "--since-start").stdout
    assert run("graph", "--since-start", "-f", "dot").stdout.startswith("digraph mesh {")
    root = ElementTree.fromstring(run("graph", "--since-start", "-f", "svg").stdout)
    assert root.tag.endswith("svg")
    made = json.loads(run("graph", "--since-start", "-o", "json").stdout)
    assert {node["service"] for node in made["nodes"]} == {*NAMES, "unknown"}


def test_what_is_declared_is_drawn_without_asking_a_host(run: Run, served: Serving) -> None:
    served.silent = set(served.ports)
    looks = served.looks
    assert "web" in run("graph", "--declared").stdout
    assert served.looks == looks


def test_live_top_fits_the_terminal_and_ends_with_ctrl_c(
    run: Run, served: Serving, folder: Path
) -> None:
    served.silent = {"host-api"}
    process, terminal = on_terminal(folder, 80, 8, "top", "--interval", "0.5")
    try:
        seen = read_until(terminal, "more: ", "over ")
        process.send_signal(signal.SIGINT)
        rest = drain(terminal, process)
    finally:
        if process.poll() is None:
            process.kill()
        os.close(terminal)
    assert process.wait(timeout=DEADLINE_S) == 0, rest
    assert "3 of 4 hosts answer" in seen
    assert "the proxy on host-api does not answer" in seen
    drawn = re.split(r"\x1b\[[0-9;?]*[HJhl]|\r|\n", seen)
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()) for line in drawn) <= 80
    assert "\x1b[?1049h" in seen
    assert "\x1b[?1049l" in seen + rest


def on_terminal(
    folder: Path, width: int, height: int, *words: str
) -> tuple[subprocess.Popen[bytes], int]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-c", AS_IN_A_TERMINAL, *words],
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    return process, ours


def read_until(terminal: int, *wanted: str) -> str:
    """Everything read by the time all of ``wanted`` was."""
    seen, deadline = "", time.monotonic() + DEADLINE_S
    while not all(word in seen for word in wanted):
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 65536).decode("utf-8", "replace")
    return seen


def drain(terminal: int, process: subprocess.Popen[bytes]) -> str:
    seen, deadline = "", time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            read = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        seen += read.decode("utf-8", "replace")
    return seen
