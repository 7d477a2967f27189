"""``meshctl bundle fetch``: whatever the inventory needs, so that a deploy needs no network."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from meshctl.bundle.model import Bundle, Kind, Target, Wheel
from meshctl.cli import bundle as bundle_module
from meshctl.inventory.parse import parse

app = typer.Typer()
app.command()(bundle_module.fetch)

INVENTORY = """\
version: 1
consul: {mode: existing}
hosts:
- {name: ctl, address: 10.0.0.1, roles: [control]}
- {name: one, address: 10.0.0.2}
"""


class Cache:
    """Resolves to one wheel that names the kind."""

    def resolve(self, target: Target, *, kind: Kind = "proxy", offline: bool = False) -> Bundle:
        wheel = Wheel(name=f"{kind}-1-py3-none-any.whl", sha256="0" * 64, size=1, path=Path("/x"))
        return Bundle(target=target, kind=kind, wheels=(wheel,))


@pytest.mark.parametrize(
    ("certificates", "kinds"), [("auto", {"proxy", "signer"}), ("none", {"proxy"})]
)
def test_a_mesh_with_signers_gets_their_wheels_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificates: str, kinds: set[str]
) -> None:
    monkeypatch.setattr(bundle_module, "bundle_cache", lambda _: Cache())
    text = f"{INVENTORY}certificates: {{signer: {certificates}}}\n"
    mesh = SimpleNamespace(inventory=parse(text, tmp_path / "inventory.yaml"), state=None)
    monkeypatch.setattr(bundle_module, "open_mesh", lambda *_: mesh)
    host = ("--python", "3.11", "--machine", "x86_64", "--glibc", "2.36")

    done = CliRunner().invoke(app, ["--output", "json", *host])

    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert set(said["releases"]) == kinds
    assert {wheel["name"].partition("-")[0] for wheel in said["wheels"]} == kinds
    assert said["digest"] == said["releases"]["proxy"]
