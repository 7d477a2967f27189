"""What is built is what runs: the wheel has the templates, and nothing that is not the product."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index",
         "--no-build-isolation", "--wheel-dir", into, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (path,) = into.glob("meshctl-*.whl")
    return path


def test_it_carries_the_templates_and_only_the_product(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for template in (ROOT / "templates").iterdir():
        assert f"meshctl/_templates/{template.name}" in names
    for part in (ROOT / "meshctl" / "dashboard" / "page").iterdir():
        assert f"meshctl/dashboard/page/{part.name}" in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"meshctl", "proxy"}


def test_it_runs_where_there_is_no_checkout(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import meshctl, meshctl.artifacts as artifacts\n"
        f"assert meshctl.__file__.startswith({str(installed)!r}), meshctl.__file__\n"
        "print(artifacts._templates().get_template('meshctl-proxy.service.j2').filename)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(
        installed / "meshctl" / "_templates" / "meshctl-proxy.service.j2"
    )
