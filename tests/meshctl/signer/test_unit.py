"""The signer's unit: systemd takes it as it is, and it is exposed to nothing that it can do
without."""

import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest

TEMPLATE = Path(__file__).parents[3] / "templates" / "meshctl-signer.service.j2"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture(params=["", "CAP_NET_BIND_SERVICE"], ids=["any-port", "low-port"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    text = jinja2.Template(TEMPLATE.read_text(), undefined=jinja2.StrictUndefined).render(
        host="one",
        user="meshctl-signer",
        python="/bin/true",
        settings="/etc/meshctl/signer/signer.json",
        start_timeout_s=30,
        stop_timeout_s=30,
        capabilities=request.param,
    )
    path = tmp_path / "meshctl-signer.service"
    path.write_text(text)
    return path


def run(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", *map(str, command)], capture_output=True, text=True, timeout=60
    )


def test_systemd_has_nothing_to_say_about_it(unit: Path) -> None:
    done = run("verify", "--man=no", unit)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_its_exposure_is_small(unit: Path) -> None:
    done = run("security", "--offline=true", "--threshold=16", unit)
    assert done.returncode == 0, done.stdout[-300:]
