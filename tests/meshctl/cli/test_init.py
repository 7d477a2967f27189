"""``meshctl init`` as an operator meets it: exit codes, streams, what is asked."""

import getpass
import json
import os
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from cryptography import x509
from typer.testing import CliRunner, Result

from meshctl.cli import console
from meshctl.cli.init import init
from meshctl.pki import keyfile, passphrase
from meshctl.pki.passphrase import Passphrase
from meshctl.pki.store import CaStore
from meshctl.setup import initialise
from meshctl.state import StateDir

app = typer.Typer()
app.command()(init)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(passphrase.VARIABLE, raising=False)
    monkeypatch.setattr(keyfile, "_N", 16)  # Deriving keys is slow on purpose.
    for name in ("out", "err"):
        monkeypatch.setattr(getattr(console, name), "no_color", True)


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


def keys(folder: Path) -> list[bytes]:
    found = [path.read_bytes() for path in sorted(folder.glob(".meshctl/ca/*.key"))]
    assert len(found) == 3
    return found


def is_encrypted(folder: Path) -> bool:
    answers = {b"ENCRYPTED" in key for key in keys(folder)}
    assert len(answers) == 1
    return answers.pop()


class TestPassphrase:
    def test_without_a_terminal_and_a_decision_warns(self, tmp_path: Path) -> None:
        done = run(tmp_path)
        assert done.exit_code == 0
        assert "the CA's private keys are NOT encrypted" in done.stderr
        assert not is_encrypted(tmp_path)

    def test_decided_against_there_is_no_warning(self, tmp_path: Path) -> None:
        done = run(tmp_path, "--no-passphrase")
        assert done.exit_code == 0
        assert "warning" not in done.stderr
        assert not is_encrypted(tmp_path)

    def test_from_a_file(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.touch(mode=0o600)
        secret.write_text("correct horse\n")
        done = run(tmp_path / "mesh", "--passphrase-file", secret)
        assert done.exit_code == 0, done.output
        assert is_encrypted(tmp_path / "mesh")
        ca = CaStore.open(StateDir.open(tmp_path / "mesh" / ".meshctl"))
        ca.unlock(lambda: Passphrase(b"correct horse"))
        assert "correct horse" not in done.output

    def test_from_a_readable_file_is_refused_and_nothing_is_made(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("x")
        secret.chmod(0o644)
        done = run(tmp_path / "mesh", "--passphrase-file", secret)
        assert done.exit_code == 3
        assert f"chmod 600 {secret}" in done.stderr
        assert list((tmp_path / "mesh").iterdir()) == []

    def test_from_the_environment(self, tmp_path: Path) -> None:
        done = run(tmp_path, env={passphrase.VARIABLE: "correct horse"})
        assert done.exit_code == 0
        assert is_encrypted(tmp_path)

    def test_no_passphrase_wins_over_the_environment(self, tmp_path: Path) -> None:
        assert run(tmp_path, "--no-passphrase", env={passphrase.VARIABLE: "x"}).exit_code == 0
        assert not is_encrypted(tmp_path)

    @pytest.mark.parametrize(("typed", "encrypted"), [("secret", True), ("", False)])
    def test_from_the_terminal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, encrypted: bool
    ) -> None:
        monkeypatch.setattr(passphrase, "can_prompt", lambda: True)
        monkeypatch.setattr(getpass, "getpass", lambda question, stream=None: typed)
        assert run(tmp_path).exit_code == 0
        assert is_encrypted(tmp_path) is encrypted

    def test_cannot_be_given_as_an_argument(self, tmp_path: Path) -> None:
        assert run(tmp_path, "--passphrase", "x").exit_code == 2

    def test_both_decisions_are_a_mistake(self, tmp_path: Path) -> None:
        done = run(tmp_path / "mesh", "--no-passphrase", "--passphrase-file", "x")
        assert done.exit_code == 2
        assert "contradicts" in done.stderr
        assert not (tmp_path / "mesh").exists()


class TestRuns:
    def test_first_says_what_it_made_and_what_is_next(self, tmp_path: Path) -> None:
        done = run(tmp_path, "--no-passphrase", "--trust-domain", "mesh.example.com")
        assert done.exit_code == 0
        assert "mesh.example.com" in done.stdout
        for name in (".meshctl/", "inventory.yaml", "mesh.yaml", ".gitignore"):
            assert any(line.split()[:2] == ["made", name] for line in done.stdout.splitlines())
        assert "meshctl deploy" in done.stderr

    def test_second_says_that_nothing_changed(self, tmp_path: Path) -> None:
        run(tmp_path, "--no-passphrase")
        done = run(tmp_path)
        assert done.exit_code == 0
        assert "Nothing to do" in done.stdout
        assert "made" not in done.stdout
        assert "NOT encrypted" not in done.stderr

    def test_default_folder_is_the_current_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert run("--no-passphrase").exit_code == 0
        assert (tmp_path / ".meshctl" / "ca" / "root.pem").exists()

    def test_force_beside_a_ca_is_refused(self, tmp_path: Path) -> None:
        run(tmp_path, "--no-passphrase")
        before = keys(tmp_path)
        done = run(tmp_path, "--force", "--no-passphrase")
        assert done.exit_code == 3
        assert "move it away first" in done.stderr
        assert keys(tmp_path) == before

    def test_bad_trust_domain_is_a_violation(self, tmp_path: Path) -> None:
        done = run(tmp_path / "mesh", "--trust-domain", "Not One")
        assert done.exit_code == 2
        assert "--trust-domain: 'Not One' is not a trust domain" in done.stderr
        assert not (tmp_path / "mesh").exists()

    def test_corrupt_state_is_reported(self, tmp_path: Path) -> None:
        run(tmp_path, "--no-passphrase")
        (tmp_path / ".meshctl" / "ca" / "root.pem").write_text("-----BEGIN")
        done = run(tmp_path)
        assert done.exit_code == 1
        assert "root.pem is damaged" in done.stderr
        assert "hint:" in done.stderr

    def test_nothing_but_keys_has_private_parts(self, tmp_path: Path) -> None:
        run(tmp_path, "--no-passphrase")
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        private = [path for path in files if b"PRIVATE KEY" in path.read_bytes()]
        assert sorted(path.name for path in private) == ["issuing.key", "policy.key", "root.key"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


class TestJson:
    def test_is_one_document(self, tmp_path: Path) -> None:
        done = run(tmp_path, "--no-passphrase", "-o", "json")
        document = json.loads(done.stdout)
        assert document["changed"] is True
        assert document["trust_domain"] == "mesh.internal"
        assert document["ca"]["encrypted"] is False
        root = x509.load_pem_x509_certificate(
            (tmp_path / ".meshctl" / "ca" / "root.pem").read_bytes()
        )
        ends = f"{root.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        assert document["ca"]["root_not_after"] == ends

    def test_of_a_second_run_says_unchanged(self, tmp_path: Path) -> None:
        run(tmp_path, "--no-passphrase")
        document = json.loads(run(tmp_path, "-o", "json").stdout)
        assert document["changed"] is False
        assert document["made"] == []


class TestRenewIssuing:
    def test_makes_a_new_issuing_ca(self, tmp_path: Path) -> None:
        run(tmp_path, "--no-passphrase")
        before = CaStore.open(StateDir.open(tmp_path / ".meshctl"))
        done = run(tmp_path, "--renew-issuing")
        after = CaStore.open(StateDir.open(tmp_path / ".meshctl"))
        assert done.exit_code == 0
        assert "certs rotate" in done.stderr
        assert (after.root, after.issuing != before.issuing) == (before.root, True)

    def test_speaks_json(self, tmp_path: Path) -> None:
        run(tmp_path, "--no-passphrase")
        document = json.loads(run(tmp_path, "--renew-issuing", "-o", "json").stdout)
        assert document["trust_domain"] == "mesh.internal"

    def test_needs_a_mesh_and_makes_none(self, tmp_path: Path) -> None:
        done = run(tmp_path, "--renew-issuing")
        assert done.exit_code == 3
        assert list(tmp_path.iterdir()) == []

    def test_is_refused_while_another_command_runs(self, tmp_path: Path) -> None:
        run(tmp_path, "--no-passphrase")
        with StateDir.open(tmp_path / ".meshctl").lock("meshctl deploy"):
            done = run(tmp_path, "--renew-issuing")
        assert done.exit_code == 3
        assert "meshctl deploy" in done.stderr

    def test_is_advised_when_the_end_is_near(self, tmp_path: Path) -> None:
        then = datetime.now(UTC) - timedelta(days=330)
        initialise(tmp_path, trust_domain=None, passphrase=lambda: None, force=False, now=then)
        assert "meshctl init --renew-issuing" in run(tmp_path).stderr


def test_passphrase_does_not_reach_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, passphrase.VARIABLE, "x")
    assert run(tmp_path).exit_code == 0
    assert passphrase.VARIABLE not in os.environ
    assert sys.stdin is not None
