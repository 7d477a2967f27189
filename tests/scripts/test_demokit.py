"""The demo's own judgement: a demo that cannot fail shows nothing."""

import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from demokit import app, stage
from demokit.acts import ACTS, canary, ejection, rate_limit, retries
from demokit.inventory import Ports, inventory
from demokit.load import ask, send
from demokit.stage import ActFailed, holds

from meshctl.inventory.parse import parse as parse_inventory
from meshctl.policy import parse as parse_policy
from proxy.model.policy import Policy


@pytest.fixture
def port() -> Iterator[int]:
    """The demo's HTTP application, as api v2."""

    class Api(app.Answer):
        name, version = "api", "v2"

    server: ThreadingHTTPServer = app.Http(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        app.Answer.is_broken = False
        server.shutdown()
        thread.join(5)
        server.server_close()


def parsed(tmp_path: Path, services: str) -> Policy:
    mesh = parse_inventory(inventory(tmp_path, Ports.pick()), tmp_path / "inventory.yaml")
    return parse_policy("version: 1\n" + services, "mesh.yaml", mesh, datetime.now(UTC))


@pytest.mark.parametrize(
    "services",
    [
        *(canary.policy(old, new) for old, new in ((90, 10), (50, 50), (0, 100))),
        retries.WITHOUT,
        retries.WITHOUT + retries.RETRIES,
        ejection.POLICY,
        rate_limit.POLICY,
    ],
)
def test_each_policy_of_an_act_is_one_for_the_demos_inventory(
    tmp_path: Path, services: str
) -> None:
    assert parsed(tmp_path, services).services.keys() == {"api"}


def test_the_demo_shows_what_it_promises() -> None:
    claims = " ".join(text for text, _ in ACTS)
    for word in ("canary", "Retries hide", "ejected", "rate limit", "One port", "dies", "rotated"):
        assert word in claims


def test_load_tells_answers_from_failures(port: int) -> None:
    well = send(port, 20, "/hello")
    assert (well.answers, well.failed, well.total) == ({"api v2": 20}, 0, 20)
    assert ask(port, "/break", method="POST").status == 200
    broken = send(port, 20, "/hello")
    assert (broken.answers, broken.failed) == ({}, 20)
    assert all(failure.startswith("503") for failure in broken.failures)


def test_a_broken_application_is_healthy_by_its_own_account_until_it_is_mended(port: int) -> None:
    ask(port, "/break", method="POST")
    assert (ask(port, "/healthz").status, ask(port, "/hello").status) == (200, 503)
    ask(port, "/mend", method="POST")
    assert ask(port, "/hello").document["version"] == "v2"


def test_a_service_that_is_not_there_is_a_failure_and_no_exception(unused_tcp_port: int) -> None:
    assert send(unused_tcp_port, 5).failed >= 5


def test_what_does_not_hold_ends_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    holds(True, "this does")
    with pytest.raises(ActFailed, match="this does not"):
        holds(False, "this does not")
    printed = capsys.readouterr().out
    assert "ok   this does" in printed.replace("\n", "")
    assert "FAILED this does not" in printed.replace("\n", "")


def test_a_bar_shows_the_shares(capsys: pytest.CaptureFixture[str]) -> None:
    stage.shares("seen", {"v1": 90, "v2": 10})
    printed = capsys.readouterr().out
    full, empty = stage._CELLS
    assert full * 36 + empty * 4 in printed
    assert "v1  90.0%" in printed


def test_every_port_is_taken_once() -> None:
    ports: Any = Ports.pick()
    single = [value for value in vars(ports).values() if isinstance(value, int)]
    every = [*single, *ports.admin, *ports.inbound]
    assert len(every) == len(set(every)) == 17
