"""``meshctl certs`` without a host: what is refused, and what is said of a CA."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from meshctl.cli.app import app
from meshctl.pki import keyfile
from meshctl.pki.authority import create_issuing, create_root, pem
from meshctl.pki.rotation import ROTATION_FILE, Phase, Rotation
from meshctl.pki.store import CaStore
from meshctl.state import StateDir
from proxy.model.names import TrustDomain

DOMAIN = TrustDomain("mesh.test")
INVENTORY = """\
version: 1
consul: {mode: embedded, address: "http://127.0.0.1:8500"}
hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: ROOT
    services: [{name: web, port: 8080}]
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    """Of a mesh that was never deployed."""
    (tmp_path / "inventory.yaml").write_text(INVENTORY.replace("ROOT", str(tmp_path / "front")))
    made = StateDir.create(tmp_path / ".meshctl", DOMAIN, datetime.now(UTC))
    CaStore.create(made, None, datetime.now(UTC))
    return made


def run(state: StateDir, *words: str) -> Result:
    return CliRunner().invoke(
        app, ["certs", *words, "-i", str(state.path.parent / "inventory.yaml")]
    )


def put_ca(state: StateDir, *, root_left: timedelta, issuing_left: timedelta) -> None:
    """A CA of a year, with so much left of it."""
    now = datetime.now(UTC)
    year = timedelta(days=365)
    root = create_root(DOMAIN, now - year, life_s=(year + root_left).total_seconds())
    issuing = create_issuing(root, now - year, life_s=(year + issuing_left).total_seconds())
    for name, data in (
        ("root.key", keyfile.to_pem(root.key, None)),
        ("root.pem", pem(root.certificate)),
        ("issuing.key", keyfile.to_pem(issuing.key, None)),
        ("issuing.pem", pem(issuing.certificate)),
        ("trust-bundle.pem", pem(root.certificate)),
    ):
        (state.path / "ca" / name).write_bytes(data)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rotate", "--retire-now", "--yes"), "--retire-now: it goes with root only"),
        (("rotate", "intermediates", "--abort", "--yes"), "--abort: it goes with root only"),
        (("rotate", "root", "--host", "front", "--yes"), "--host: it does not go with root"),
        (("rotate", "root", "--abort", "--retire-now", "--yes"), "--abort: it contradicts"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_done(
    state: StateDir, words: tuple[str, ...], said: str
) -> None:
    done = run(state, *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (state.path / ROTATION_FILE).exists()


def test_a_rotation_wants_a_yes(state: StateDir) -> None:
    for words in (("rotate", "root"), ("rescue",)):
        done = run(state, *words)
        assert done.exit_code == 2
        assert "--yes" in done.stderr
    assert not (state.path / ROTATION_FILE).exists()


def test_there_is_nothing_to_abort(state: StateDir) -> None:
    done = run(state, "rotate", "root", "--abort", "--yes")
    assert done.exit_code == 3
    assert "no rotation of the root is under way" in done.stderr


def test_a_mesh_without_hosts_gets_a_new_root_at_once(state: StateDir) -> None:
    before = CaStore.open(state).root
    done = run(state, "rotate", "root", "--yes", "--retire-now")
    assert done.exit_code == 0, done.stderr
    assert "front was never deployed to: it was not waited for" in done.stderr
    assert CaStore.open(state).root != before


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("root_left", "issuing_left", "fault", "fix"),
    [
        (300 * DAY, 300 * DAY, "", ""),
        (300 * DAY, 6 * DAY, "the issuing CA ends on", "meshctl certs rotate intermediates"),
        (300 * DAY, -DAY, "the issuing CA ended on", "meshctl certs rescue"),
        (6 * DAY, 6 * DAY, "the current root ends on", "meshctl certs rotate root"),
        (-DAY, -2 * DAY, "the current root ended on", "meshctl certs rescue"),
    ],
)
def test_the_status_says_what_ends_and_what_to_do(
    state: StateDir, root_left: timedelta, issuing_left: timedelta, fault: str, fix: str
) -> None:
    put_ca(state, root_left=root_left, issuing_left=issuing_left)
    done = run(state, "status", "-o", "json")
    document = json.loads(done.stdout)
    assert done.exit_code == (1 if fault else 0)
    assert document["is_well"] is not bool(fault)
    assert document["next"] == fix
    assert fault in (document["faults"][0]["message"] if fault else "")
    shown = run(state, "status")
    assert shown.exit_code == done.exit_code
    assert fault in shown.stderr
    assert "root (current)" in shown.stdout


def test_the_status_shows_where_a_rotation_stands(state: StateDir) -> None:
    state.write(
        ROTATION_FILE,
        Rotation(
            phase=Phase.DISTRIBUTE,
            started="2026-05-01T12:00:00Z",
            since="2026-05-01T12:00:05Z",
            old_root="aa",
            new_root="bb",
        ),
    )
    shown = run(state, "status")
    assert shown.exit_code == 0
    assert "distribute since 2026-05-01T12:00:05Z, begun 2026-05-01T12:00:00Z" in shown.stdout
    assert "next: meshctl certs rotate root" in shown.stderr


def test_a_rotation_that_is_being_abandoned_is_not_gone_on_with(state: StateDir) -> None:
    state.write(ROTATION_FILE, Rotation(phase=Phase.ABORT, started="", since="", old_root="aa"))
    done = run(state, "rotate", "root", "--yes")
    assert done.exit_code == 3
    assert "meshctl certs rotate root --abort finishes that" in done.stderr
    assert run(state, "rotate", "root", "--abort", "--yes").exit_code == 0
    assert not (state.path / ROTATION_FILE).exists()
