"""``meshctl dashboard`` as a process: its address, its way to a browser, its end."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from commands import WEB_AND_API, mesh_in, registry

PATIENCE_S = 60.0


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Path]:
    with registry() as url:
        mesh_in(tmp_path, url, WEB_AND_API)
        yield tmp_path


@contextmanager
def running(
    mesh: Path, *words: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    own = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "BROWSER")}
    process = subprocess.Popen(
        [sys.executable, "-c", "from meshctl.cli import main; main()", "dashboard", *words],
        cwd=mesh,
        env={**own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_it_tells_its_address_shows_who_does_not_answer_and_ends_well(mesh: Path) -> None:
    with running(mesh, "--no-open", "--interval", "0.5") as (process, url):
        address, _, token = url.partition("?token=")
        assert len(token) > 40
        assert token not in Path(f"/proc/{process.pid}/cmdline").read_text()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}live", timeout=PATIENCE_S)
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        browser.open(url, timeout=PATIENCE_S)
        wanted = {"mesh", "view", "status", "history", "denials"}
        found = {}
        with browser.open(f"{address}live", timeout=PATIENCE_S) as events:
            for line in events:
                if line.startswith(b"event: "):
                    name = line.removeprefix(b"event: ").decode().strip()
                if line.startswith(b"data: "):
                    found[name] = json.loads(line.removeprefix(b"data: "))
                if wanted <= found.keys() and found["view"]["data"]["hosts"]:
                    break
        assert found["mesh"]["data"]["trust_domain"] == "mesh.test"
        (host,) = found["view"]["data"]["hosts"]
        assert (host["host"], bool(host["fault"])) == ("one", True)
        assert found["status"]["data"]["findings"]
        assert found["history"]["data"]["entries"] == []
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE_S) == 0


def test_no_argument_of_the_browser_has_the_token(mesh: Path, tmp_path: Path) -> None:
    said, seen = tmp_path / "said", tmp_path / "seen"
    os.mkfifo(said)
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\ncat "${{1#file://}}" > {seen}\necho "$@" > {said}\n')
    script.chmod(0o755)
    with running(mesh, DISPLAY=":7", BROWSER=str(script)) as (_, url):
        words = said.read_text()
        token = url.partition("token=")[2]
        assert token not in words
        assert words.startswith("file://")
        assert token in seen.read_text()
        folder = Path(words.strip().removeprefix("file://")).parent
        assert folder.stat().st_mode & 0o077 == 0


def test_without_a_screen_it_says_how_to_get_there(mesh: Path) -> None:
    with running(mesh, "--port", "0") as (process, url):
        port = url.partition("127.0.0.1:")[2].partition("/")[0]
        assert process.stderr is not None
        said = process.stderr.readline() + process.stderr.readline()
        assert f"ssh -L {port}:127.0.0.1:{port}" in said


def test_without_a_mesh_it_says_what_to_do(tmp_path: Path) -> None:
    with running(tmp_path, "--no-open") as (process, url):
        assert url == ""
        assert process.wait(timeout=PATIENCE_S) == 2
        assert process.stderr is not None
        assert "meshctl init" in process.stderr.read()
