"""``apply`` and ``config`` against the embedded registry, as an operator runs them."""

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import Run

from meshctl.cli.options import open_mesh
from meshctl.consul import ConsulEdge
from proxy.model.policy import Snapshot


@pytest.fixture
def registry() -> Iterator[str]:
    with commands.registry() as url:
        yield url


@pytest.fixture
def run(tmp_path: Path, registry: str) -> Run:
    return commands.mesh_in(tmp_path, registry, commands.WEB_AND_API)


def write(folder: Path, request: str) -> None:
    (folder / "mesh.yaml").write_text(
        f"version: 1\nservices: {{api: {{timeouts: {{request: {request}}}}}}}\n"
    )


def said(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def alive(registry: str, generation: int) -> None:
    """A proxy that carries api says what it runs; its status flips, so that all see it."""
    acknowledgement = json.dumps(
        {"generation": generation, "release": "r", "config": "c", "state": "ready"}
    )
    body = {
        "ID": "mesh-api-one", "Name": "mesh-api", "Address": "127.0.0.1", "Port": 15006,
        "Meta": {"mesh": "meshctl", "mesh-trust-domain": "mesh.test", "mesh-host": "one"},
        "Checks": [{"CheckID": "mesh-api-one:proxy", "Name": "p", "TTL": "60s"}],
    }  # fmt: skip
    put(f"{registry}/v1/agent/service/register", body)
    check = {"Status": "passing", "Output": acknowledgement}
    put(f"{registry}/v1/agent/check/update/mesh-api-one:proxy", check)


def put(url: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), method="PUT")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def test_a_dry_run_shows_what_changes_for_whom_and_publishes_nothing(
    run: Run, tmp_path: Path
) -> None:
    write(tmp_path, "5s")
    found = said(run("apply", "--dry-run", "-o", "json"))["difference"]
    assert found["changes"] == [
        {"path": "services.api.timeouts.request", "before": "", "after": "5s"}
    ]
    assert (found["services"], found["hosts"]) == (["api"], ["one"])
    assert "no policy is published" in run("config", "show", expect=1).stderr


def test_what_was_applied_is_shown_listed_and_can_be_gone_back_to(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "5s")
    first = said(run("apply", "--yes", "-o", "json"))["generation"]
    write(tmp_path, "7s")
    assert "7s" in run("config", "diff", expect=1).stdout
    second = said(run("apply", "--yes", "-o", "json"))["generation"]
    assert second == first + 1
    run("config", "diff")
    assert "no change" in run("apply", "--yes").stderr

    run("config", "rollback", "--yes")
    shown = said(run("config", "show", "-o", "json"))
    assert shown["generation"] == second + 1
    assert shown["policy"]["services"]["api"]["timeouts"]["request_s"] == 5.0
    entries = said(run("config", "history", "-o", "json"))
    assert [entry["generation"] for entry in entries] == [second + 1, second, first]
    assert entries[0]["why"] == f"rollback to {first}"
    assert "not in the history" in run("config", "rollback", "99", "--yes", expect=1).stderr


def test_a_proxy_that_does_not_follow_is_named_and_fails_the_command(
    run: Run, tmp_path: Path, registry: str
) -> None:
    write(tmp_path, "5s")
    generation = said(run("apply", "--yes", "-o", "json"))["generation"]
    alive(registry, generation)
    write(tmp_path, "7s")
    found = said(run("apply", "--yes", "--wait", "0.5", "-o", "json", expect=1))
    assert found["late"] == {"one": f"it runs generation {generation}"}


def test_an_invalid_policy_is_never_published(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text("version: 1\nservices: {apu: {}}\ndefault: {}\n")
    done = run("apply", "--yes", expect=2)
    assert "2 violation(s)" in done.stderr
    assert "no policy is published" in run("config", "show", expect=1).stderr


def test_without_a_terminal_and_without_yes_nothing_is_published(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "5s")
    assert "--yes" in run("apply", expect=2).stderr
    assert "no policy is published" in run("config", "show", expect=1).stderr


def intend(folder: Path, *intentions: str) -> None:
    (folder / "mesh.yaml").write_text(
        f"version: 1\nservices: {{api: {{intentions: [{', '.join(intentions)}]}}}}\n"
    )


READS = "{name: reads, allow: [web], match: {methods: [GET]}}"
NOBODY = "{name: nobody, deny: '*'}"


def is_cutting(registry: str, folder: Path) -> bool:
    """Of what is published."""
    trust = open_mesh(folder / "inventory.yaml", None).policy_trust

    async def fetch() -> Snapshot | None:
        async with ConsulEdge(registry) as edge:
            return (await edge.fetch_snapshot(trust))[0]

    snapshot = asyncio.run(fetch())
    assert snapshot is not None
    return snapshot.cut_denied


def test_who_loses_access_is_named_and_told_what_becomes_of_its_connections(
    run: Run, tmp_path: Path, registry: str
) -> None:
    intend(tmp_path, READS)
    part = run("apply", "--dry-run").stdout
    assert "api: web may not ask for all of it any more" in part
    assert "--cut" not in part
    intend(tmp_path, NOBODY)
    stay = run("apply", "--dry-run").stdout
    assert "api: web may not call it any more" in stay
    assert "live connections stay" in stay
    assert "live connections are ended" in run("apply", "--dry-run", "--cut").stdout
    found = said(run("apply", "--yes", "--wait", "0", "--cut", "-o", "json"))
    assert found["losses"] == [
        {"service": "api", "wholly": ["web"], "partly": [], "anonymous": False}
    ]
    assert found["live_connections"] == "cut"
    assert is_cutting(registry, tmp_path)
    again = run("apply", "--yes", "--cut")
    assert "nothing is cut" in again.stderr
    assert "may not" not in again.stdout
    assert said(run("apply", "--yes", "--cut", "-o", "json"))["live_connections"] == "stay"
    intend(tmp_path, READS)
    run("apply", "--yes", "--wait", "0")
    assert not is_cutting(registry, tmp_path)


def test_where_nobody_loses_access_nothing_is_said_of_it(run: Run, tmp_path: Path) -> None:
    intend(tmp_path, "{name: all, allow: '*'}")
    shown = run("apply", "--dry-run", "--cut").stdout
    assert "may not" not in shown
    assert "connections" not in shown
    assert said(run("apply", "--dry-run", "-o", "json"))["losses"] == []


@pytest.fixture
def locked(run: Run, tmp_path: Path) -> Path:
    """The same mesh with a passphrase on its keys; the file that has it."""
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    inventory = (tmp_path / "inventory.yaml").read_text()
    (tmp_path / ".meshctl").rename(tmp_path / "old")
    run("init", ".", "--trust-domain", "mesh.test", "--passphrase-file", "passphrase")
    (tmp_path / "inventory.yaml").write_text(inventory)
    return secret


def test_the_passphrase_is_needed_only_to_publish(run: Run, tmp_path: Path, locked: Path) -> None:
    write(tmp_path, "5s")
    run("apply", "--dry-run")
    refused = run("apply", "--yes", "--wait", "0", expect=3)
    assert "no terminal to ask for the passphrase" in refused.stderr
    assert "--passphrase-file" in refused.stderr
    assert "no policy is published" in run("config", "show", expect=1).stderr
    run("apply", "--yes", "--wait", "0", "--passphrase-file", "passphrase")
    assert said(run("config", "show", "-o", "json"))["generation"] == 1
    assert "no change" in run("apply", "--yes", "--wait", "0").stderr
    write(tmp_path, "6s")
    run("apply", "--yes", "--wait", "0", "--passphrase-file", "passphrase")
    assert "no terminal" in run("config", "rollback", "--yes", expect=3).stderr
    run("config", "rollback", "--yes", "--wait", "0", "--passphrase-file", "passphrase")
    assert said(run("config", "show", "-o", "json"))["generation"] == 3


def test_a_wrong_passphrase_publishes_nothing(run: Run, tmp_path: Path, locked: Path) -> None:
    locked.write_text("corect horse\n")
    write(tmp_path, "5s")
    refused = run("apply", "--yes", "--passphrase-file", "passphrase", expect=3)
    assert "the passphrase does not open" in refused.stderr
    assert "corect" not in refused.stderr
    assert "no policy is published" in run("config", "show", expect=1).stderr


def test_a_mesh_from_before_policy_was_signed_gets_a_key_by_apply(run: Run, tmp_path: Path) -> None:
    for name in ("policy.key", "policy.pub"):
        (tmp_path / ".meshctl" / "ca" / name).unlink()
    write(tmp_path, "5s")
    run("apply", "--yes", "--wait", "0")
    assert said(run("config", "show", "-o", "json"))["generation"] == 1
    assert (tmp_path / ".meshctl" / "ca" / "policy.key").stat().st_mode & 0o777 == 0o600


def test_explain_takes_the_published_policy_and_lines_only_of_a_file_that_says_the_same(
    run: Run, tmp_path: Path
) -> None:
    write(tmp_path, "5s")
    assert "no policy is published" in run("explain", "web", "api", "--published", expect=1).stderr
    generation = said(run("apply", "--yes", "-o", "json"))["generation"]
    same = run("explain", "web", "api", "--published").stdout
    assert f"generation {generation}" in same
    assert "timeouts.request: 5s  (mesh.yaml:2, service)" in same
    write(tmp_path, "7s")
    differs = run("explain", "web", "api", "--published").stdout
    assert "differs from the file at hand" in differs
    assert "timeouts.request: 5s  (service)" in differs
    assert "timeouts.request: 7s" in run("explain", "web", "api").stdout
