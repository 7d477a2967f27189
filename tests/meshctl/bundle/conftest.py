"""A small package index in a folder, so that most tests need no network."""

import base64
import hashlib
import importlib.metadata
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from meshctl.bundle import Bundle, BundleCache, Target
from meshctl.bundle import cache as cache_module
from meshctl.bundle import index as index_module
from meshctl.bundle.closure import Candidate, read

THIS = Target.of_this_machine()


def write_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    requires: tuple[str, ...] = (),
    content: str = "",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    members = {
        f"{name}.py": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {line}\n" for line in requires),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = [f"{info}/RECORD,,"]
    for member, text in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{member},sha256={digest.decode()},{len(text)}")
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
        archive.writestr(f"{info}/RECORD", "\n".join(record) + "\n")
    return path


def pip_wheel(folder: Path) -> Path:
    """pip's own wheel, packed from the pip that runs the tests."""
    folder.mkdir(parents=True, exist_ok=True)
    distribution = importlib.metadata.distribution("pip")
    path = folder / f"pip-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in distribution.files or ():
            if file.suffix != ".pyc" and not str(file).startswith(".."):
                archive.write(str(file.locate()), str(file))
    return path


@pytest.fixture(scope="session")
def packed_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pip_wheel(tmp_path_factory.mktemp("pip"))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed_pip: Path) -> Path:
    """pip sees this folder and nothing else; it holds pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    shutil.copy(packed_pip, folder)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def host_needs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces what the ``host`` extra of meshctl asks for."""

    def set_lines(*lines: str) -> None:
        marked = [
            f"{line} and extra == 'host'" if ";" in line else f"{line}; extra == 'host'"
            for line in lines
        ]
        monkeypatch.setattr(
            cache_module.importlib.metadata, "requires", lambda _: ["rich", "alpha", *marked]
        )

    return set_lines


@pytest.fixture
def cache(tmp_path: Path) -> BundleCache:
    return BundleCache(tmp_path / "cache", tmp_path / "state" / "bundle.lock.json")


@pytest.fixture
def quick_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``index`` without pip, whose start takes most of a test's time; pip is held to the same
    expectations by the tests that use ``index`` alone.
    """

    def fetch(
        requirements: Iterable[Requirement], target: Target, into: Path
    ) -> tuple[Candidate, ...]:
        found = [read(path) for path in index.glob("*.whl")]
        best = [
            max(
                (one for one in found if one.name == each.name and one.version in each.specifier),
                key=lambda one: one.version,
            )
            for each in requirements
        ]
        return tuple(read(Path(shutil.copy(one.path, into))) for one in best)

    monkeypatch.setattr(index_module, "fetch", fetch)
    return index


@pytest.fixture
def small_bundle(quick_index: Path, host_needs: Callable[..., None], cache: BundleCache) -> Bundle:
    """pip, the proxy and one other wheel, for this machine."""
    write_wheel(quick_index, "alpha", content="VALUE = 1\n")
    host_needs("alpha")
    return cache.resolve(THIS)


@pytest.fixture
def pushed(tmp_path: Path) -> Callable[[Bundle], Path]:
    """Puts a bundle's wheels where a host would have them."""

    def push(bundle: Bundle) -> Path:
        folder = tmp_path / "host" / "wheels"
        folder.mkdir(parents=True, exist_ok=True)
        for wheel in bundle.wheels:
            shutil.copy(wheel.path, folder / wheel.name)
        return folder

    return push


@pytest.fixture
def make_wheel() -> Callable[..., Path]:
    return write_wheel
