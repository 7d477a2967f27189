"""The signer's wheel: all that it imports, nothing else of the operator's side."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from meshctl.bundle import proxywheel, signerwheel

NOT_THERE = ("asyncssh", "consul", "jinja2", "packaging", "pip", "re2", "rich", "typer", "yaml")
CODE = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import importlib
for name in {modules!r}:
    importlib.import_module(name)
found = {{module.__file__ for name, module in sys.modules.items()
         if name.partition(".")[0] in ("meshctl", "proxy")}}
print(*sorted(found), sep="\\n")
"""


def test_the_program_starts_from_its_wheels_alone(tmp_path: Path) -> None:
    for build in (proxywheel.build, signerwheel.build):
        zipfile.ZipFile(io.BytesIO(build())).extractall(tmp_path)
    modules = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in signerwheel.sources()
    ]
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(blocked=NOT_THERE, modules=modules)],
        capture_output=True, text=True, cwd="/", env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert {Path(line).is_relative_to(tmp_path) for line in done.stdout.split()} == {True}


def test_it_carries_no_more_of_the_operators_side_than_this() -> None:
    others = {path for path in signerwheel.sources() if not path.startswith("meshctl/signer/")}

    assert others == {
        *("meshctl/__init__.py", "meshctl/durable.py", "meshctl/errors.py"),
        *("meshctl/pki/__init__.py", "meshctl/pki/authority.py", "meshctl/pki/certificates.py"),
        *("meshctl/pki/issued.py", "meshctl/pki/record.py"),
    }


def test_it_carries_the_whole_signer() -> None:
    folder = Path(signerwheel.__file__).parent.parent / "signer"

    inside = {path for path in signerwheel.sources() if path.startswith("meshctl/signer/")}

    assert inside == {f"meshctl/signer/{path.name}" for path in folder.glob("*.py")}


def test_the_same_source_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from meshctl.bundle import signerwheel;"
        "print(hashlib.sha256(signerwheel.build()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )  # fmt: skip

    assert done.stdout.strip() == hashlib.sha256(signerwheel.build()).hexdigest()
