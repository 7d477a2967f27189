"""The proxy's own wheel: complete, deterministic, and without anything of the operator's."""

import base64
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import proxy
from meshctl.bundle import proxywheel


@pytest.fixture(scope="module")
def archive() -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(proxywheel.build()))


def test_the_same_source_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from meshctl.bundle import proxywheel;"
        "print(hashlib.sha256(proxywheel.build()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )  # fmt: skip

    assert done.stdout.strip() == hashlib.sha256(proxywheel.build()).hexdigest()


def test_it_holds_the_whole_package_and_nothing_else(archive: zipfile.ZipFile) -> None:
    root = Path(proxy.__file__).parent.parent
    sources = {str(path.relative_to(root)) for path in (root / "proxy").rglob("*.py")}

    inside = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert inside == sources | {"proxy/py.typed"}


def test_names_and_metadata_agree(archive: zipfile.ZipFile) -> None:
    info = f"meshctl_proxy-{proxy.__version__}.dist-info"

    assert proxywheel.file_name() == f"meshctl_proxy-{proxy.__version__}-py3-none-any.whl"
    assert f"Version: {proxy.__version__}\n" in archive.read(f"{info}/METADATA").decode()
    assert "Tag: py3-none-any\n" in archive.read(f"{info}/WHEEL").decode()


def test_the_record_names_every_file_with_its_hash(archive: zipfile.ZipFile) -> None:
    info = f"meshctl_proxy-{proxy.__version__}.dist-info"
    recorded = {}
    for line in archive.read(f"{info}/RECORD").decode().splitlines():
        name, digest, size = line.split(",")
        recorded[name] = (digest, size)

    assert recorded.pop(f"{info}/RECORD") == ("", "")
    for name, (digest, size) in recorded.items():
        content = archive.read(name)
        found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        assert (digest, size) == (f"sha256={found}", str(len(content)))
    assert set(recorded) | {f"{info}/RECORD"} == set(archive.namelist())
