"""``deploy`` and ``uninstall`` as commands: what is refused at once, and what is shown."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from meshctl.cli import deploy as module
from meshctl.cli import plan_view
from meshctl.cli import uninstall as removal_module
from meshctl.pki.store import CaStore
from meshctl.plan.build import build
from meshctl.plan.model import Plan
from meshctl.state import StateDir
from proxy.model.names import TrustDomain

INVENTORY = """\
version: 1
consul: {mode: embedded, address: "http://127.0.0.1:1"}
hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: ROOT
    services: [{name: web, port: 8080}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inventory.yaml").write_text(INVENTORY.replace("ROOT", str(tmp_path / "root")))
    now = datetime.now(UTC)
    CaStore.create(StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), now), None, now)
    return tmp_path


@pytest.fixture
def invoke(folder: Path) -> Callable[..., Result]:
    app = typer.Typer()
    app.command()(module.deploy)
    app.command()(removal_module.uninstall)

    def call(command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, [command, "-i", str(folder / "inventory.yaml"), *arguments])

    return call


@pytest.fixture
def plan(world: Any, monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """What ``prepare`` answers; nobody is asked."""
    plans = [
        build(
            world.desired,
            {"front": world.fresh("front"), "back": world.fresh("back", machine="s390x")},  # type: ignore[dict-item]
            failures={},
            findings={},
        )
    ]

    async def prepare(*_: object, **__: object) -> Plan:
        return plans[0]

    monkeypatch.setattr(module, "prepare", prepare)
    return plans


@pytest.mark.parametrize("command", ["deploy", "uninstall"])
def test_nobody_to_ask_and_no_yes_is_a_usage_error(
    invoke: Callable[..., Result], command: str
) -> None:
    result = invoke(command)
    assert result.exit_code == 2
    assert "there is no terminal to ask on" in result.stderr
    assert "--yes" in result.stderr


@pytest.mark.parametrize("command", ["deploy", "uninstall"])
def test_an_unknown_host_is_refused_with_a_suggestion(
    invoke: Callable[..., Result], command: str
) -> None:
    result = invoke(command, "--yes", "--limit", "frnot")
    assert result.exit_code == 2
    assert "did you mean front?" in result.stderr


@pytest.mark.parametrize("command", ["deploy", "uninstall"])
def test_a_second_meshctl_is_refused(
    invoke: Callable[..., Result], folder: Path, command: str
) -> None:
    with StateDir.open(folder / ".meshctl").lock():
        result = invoke(command, "--yes")
    assert result.exit_code == 3
    assert "another meshctl" in result.stderr


def test_a_policy_file_that_was_named_has_to_be_there(
    invoke: Callable[..., Result], folder: Path
) -> None:
    result = invoke("deploy", "--dry-run", "-m", str(folder / "absent.yaml"))
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr


def test_a_wrong_policy_is_refused_before_any_host_is_asked(
    invoke: Callable[..., Result], folder: Path
) -> None:
    (folder / "mesh.yaml").write_text("version: 1\nnonsense: true\n")
    result = invoke("deploy", "--yes")
    assert result.exit_code == 2
    assert "nonsense" in result.stderr


def test_a_dry_run_shows_the_plan_and_what_stands_in_the_way(
    invoke: Callable[..., Result], plan: list[Plan]
) -> None:
    result = invoke("deploy", "--dry-run")
    assert result.exit_code == 1  # a host that was asked for is left out
    for text in (
        "front (10.0.0.1): install",
        "issue the identity of web: the host has none",
        "only if current does not exist",
        "back (10.0.0.2): blocked",
        "machine: the architecture is s390x",
        "fix: use a host that is x86_64 or aarch64",
        "plan: 1 to install, 0 to change, 0 unchanged, 1 blocked",
    ):
        assert text in result.stdout


def test_the_json_of_a_dry_run_is_one_document(
    invoke: Callable[..., Result], plan: list[Plan]
) -> None:
    result = invoke("deploy", "--dry-run", "-o", "json")
    document = json.loads(result.stdout)
    assert document["plan"]["summary"] == plan[0].summary
    assert [host["verdict"] for host in document["plan"]["hosts"]] == ["install", "blocked"]


def test_no_change_says_so_and_exits_with_zero(
    invoke: Callable[..., Result], plan: list[Plan], world: Any
) -> None:
    plan[0] = build(
        world.desired,
        {"front": world.deployed("front"), "back": world.deployed("back")},  # type: ignore[dict-item]
        failures={},
        findings={},
    )
    for arguments in (("--dry-run",), ("--yes",)):
        result = invoke("deploy", *arguments)
        assert result.exit_code == 0, result.output
        assert "no change: 0 to install, 0 to change, 2 unchanged" in result.stdout


def test_an_uninstall_of_a_clean_host_does_nothing(invoke: Callable[..., Result]) -> None:
    result = invoke("uninstall", "--yes", "-o", "json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["hosts"][0]["removed"] == []


@pytest.mark.parametrize(
    ("size", "text"), [(10, "0.1 kB"), (999_999, "1000.0 kB"), (12_345_678, "12.3 MB")]
)
def test_sizes_are_told_in_units_that_people_use(size: int, text: str) -> None:
    assert plan_view.megabytes(size) == text
