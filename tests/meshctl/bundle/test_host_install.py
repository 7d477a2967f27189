"""The script that makes a release on a host, run as a host runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshctl.bundle import Bundle
from meshctl.bundle.install import install_request, install_script

Push = Callable[[Bundle], Path]


class Host:
    def __init__(self, folder: Path, bundle: Bundle, wheels: Path) -> None:
        self.release = folder / "releases" / bundle.digest
        self.wheels = wheels
        self._request = install_request(
            bundle, wheels_dir=str(wheels), release=str(self.release), probe=("proxy", "alpha")
        )
        self.script = install_script()

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", self.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], **environment},
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(self._request)
        process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=60)
        return process.returncode, out.decode(), err.decode()

    def install(self, **environment: str) -> tuple[int, str, str]:
        return self.finish(self.start(**environment))

    def python(self, code: str) -> str:
        return subprocess.run(
            [self.release / "bin" / "python", "-I", "-c", code],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    @property
    def is_complete(self) -> bool:
        return (self.release / ".complete").is_file()


@pytest.fixture
def host(tmp_path: Path, small_bundle: Bundle, pushed: Push) -> Host:
    return Host(tmp_path / "host", small_bundle, pushed(small_bundle))


def test_a_release_is_made_once_and_holds_what_the_proxy_runs_with(host: Host) -> None:
    code, out, err = host.install()

    assert (code, err) == (0, "")
    assert json.loads(out) == {"release": str(host.release), "changed": True}
    assert host.python("import proxy, alpha; print(alpha.VALUE)") == "1\n"
    assert str(host.release) in host.python("import proxy; print(proxy.__file__)")
    # Neither the installer nor anything of the operator's side.
    absent = "import importlib.util as u; print([u.find_spec(n) for n in ('pip', 'meshctl')])"
    assert host.python(absent) == "[None, None]\n"
    # Compiled ahead: a hardened unit cannot write there.
    assert list(host.release.glob("lib/python*/site-packages/proxy/__pycache__/*.pyc"))

    code, out, _ = host.install()
    assert json.loads(out)["changed"] is False


def test_the_hosts_own_pip_settings_are_not_heard(host: Host, tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[install]\ntarget = /nonexistent/elsewhere\n")

    code, _, err = host.install(PIP_CONFIG_FILE=str(config), PIP_TARGET="/nonexistent/x")

    assert (code, err) == (0, "")
    assert host.is_complete


def test_a_damaged_wheel_is_refused_and_removed_so_that_it_is_pushed_again(host: Host) -> None:
    damaged = next(host.wheels.glob("alpha-*"))
    damaged.write_bytes(damaged.read_bytes() + b"x")

    code, out, err = host.install()

    assert code == 1
    assert out == ""
    assert err == f"the wheel {damaged.name} was damaged and has been removed; deploy again\n"
    assert not damaged.exists()
    assert not host.release.exists()


def test_a_missing_wheel_is_named(host: Host) -> None:
    missing = next(host.wheels.glob("alpha-*"))
    missing.unlink()

    assert host.install()[2] == f"the wheel {missing.name} is missing\n"


def test_a_release_that_does_not_load_is_not_complete(
    tmp_path: Path, small_bundle: Bundle, pushed: Push
) -> None:
    request = install_request(
        small_bundle,
        wheels_dir=str(pushed(small_bundle)),
        release=str(tmp_path / "releases" / "x"),
        probe=("no_such_module",),
    )

    done = subprocess.run(
        [sys.executable, "-I", "-c", install_script()],
        input=request,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 1
    assert b"does not load: ModuleNotFoundError: No module named 'no_such_module'" in done.stderr
    assert not (tmp_path / "releases" / "x").exists()


@pytest.mark.parametrize("after", ["pyvenv.cfg", "lib/python*/site-packages/proxy/__init__.py"])
def test_an_installation_killed_at_any_point_converges_on_the_next_run(
    host: Host, after: str
) -> None:
    process = host.start()
    deadline = time.monotonic() + 30
    while not list(host.release.glob(after)):
        assert time.monotonic() < deadline
        assert process.poll() is None
    # The script alone, not the pip it started: that one is orphaned and still writes.
    process.kill()
    process.communicate(timeout=10)
    assert not host.is_complete

    code, out, err = host.install()

    assert (code, err) == (0, "")
    assert json.loads(out)["changed"] is True
    assert host.python("import proxy, alpha; print(alpha.VALUE)") == "1\n"


def test_a_stopped_installation_leaves_nothing(host: Host) -> None:
    process = host.start()
    deadline = time.monotonic() + 30
    while not host.release.exists():
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGTERM)

    code, _, err = host.finish(process)

    assert (code, err) == (1, "the installation was stopped; deploy again\n")
    assert not host.release.exists()


def test_two_installations_at_once_make_one_release(host: Host) -> None:
    first, second = host.start(), host.start()

    outcomes = [host.finish(first), host.finish(second)]

    assert [code for code, _, _ in outcomes] == [0, 0]
    assert sorted(json.loads(out)["changed"] for _, out, _ in outcomes) == [False, True]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """26 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=26m", "none", disk]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_too_little_space_is_told_before_anything_is_made(
    small_disk: Path, small_bundle: Bundle, pushed: Push
) -> None:
    host = Host(small_disk, small_bundle, pushed(small_bundle))
    (small_disk / "filler").write_bytes(bytes(20 << 20))

    code, _, err = host.install()

    assert code == 1
    assert re.fullmatch(r"the disk of \S+ has \d+ MiB free; \d+ MiB are needed\n", err)
    assert not host.release.exists()


def test_a_disk_that_fills_in_the_middle_is_one_sentence_and_leaves_nothing(
    small_disk: Path, small_bundle: Bundle, pushed: Push
) -> None:
    host = Host(small_disk, small_bundle, pushed(small_bundle))
    filler = small_disk / "filler"
    check = "        check_space(releases, paths)\n"
    fill = f"        open({str(filler)!r}, 'wb').write(bytes((26 << 20) - (128 << 10)))\n"
    host.script = install_script().replace(check, check + fill)
    assert fill in host.script

    code, _, err = host.install()

    assert code == 1
    assert re.fullmatch(r"the disk is full \(\S+\); the unfinished release was removed\n", err)
    assert filler.exists()
    assert not host.release.exists()
