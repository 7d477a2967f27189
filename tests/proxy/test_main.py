"""``python -m proxy`` as a process: exit codes, signals, logs, and what it carries in memory."""

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy import __main__ as main_module
from proxy import query
from proxy.model.codec import decode
from proxy.model.status import ProxyStatus


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def document(mesh_pki: Any) -> dict[str, Any]:
    """A good ``proxy.json``, with an identity on disk and nobody behind it."""
    admin, inbound, upstream, app, consul = free_ports(5)
    mesh_pki.issue("web")
    # Warm, so that the start does not wait for a registry that is not there.
    endpoint = {"service": "api", "host": "h2", "address": "127.0.0.1", "port": 1}
    (mesh_pki.state_dir / "last-good.json").write_text(
        json.dumps(
            {
                "trust_domain": mesh_pki.domain,
                "snapshot": None,
                "catalogue": {"endpoints": {"api": [endpoint]}},
            }
        )
    )
    return {
        "host": "h1",
        "trust_domain": mesh_pki.domain,
        "advertise": "127.0.0.1",
        "release": "r1",
        "config": "c1",
        "admin": {"host": "127.0.0.1", "port": admin},
        "inbound": {"host": "127.0.0.1", "port": inbound},
        "consul": {"url": f"http://127.0.0.1:{consul}"},
        "state_dir": str(mesh_pki.state_dir),
        "trust_bundle": str(mesh_pki.trust_bundle),
        "drain_s": 1.0,
        "workloads": [
            {
                "service": "web",
                "protocol": "http",
                "version": "v1",
                "app": {"host": "127.0.0.1", "port": app},
                "health": {"kind": "tcp"},
                "allow": [],
                "upstreams": [
                    {
                        "service": "api",
                        "protocol": "http",
                        "listen": {"host": "127.0.0.1", "port": upstream},
                    }
                ],
            }
        ],
    }


def write(tmp_path: Path, document: Any) -> str:
    path = tmp_path / "proxy.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


class Process:
    def __init__(self, settings: str, *command: str, **environment: str) -> None:
        argv = command or ("-m", "proxy")
        self.process = subprocess.Popen(
            [sys.executable, *argv, "--settings", settings],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def end(self) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and log lines, each of which must be JSON."""
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, [json.loads(line) for line in err.splitlines()]


@pytest.fixture
def run() -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(*args: str, **environment: str) -> Process:
        processes.append(Process(*args, **environment))
        return processes[-1]

    yield start
    for process in processes:
        if process.process.poll() is None:
            process.process.kill()
            process.process.communicate()


def until(condition: Callable[[], Any], deadline_s: float = 15.0) -> None:
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, "not in time"
        time.sleep(0.02)


def ask(document: Any, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "proxy.query"),
            *("--admin", f"127.0.0.1:{document['admin']['port']}"),
            *words,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def is_ready(document: Any) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", document["admin"]["port"])):
            return False
    return ask(document, "GET", "/ready")[0] == 0


class Systemd:
    """The notification socket, read as it fills: its queue is short."""

    def __init__(self, directory: Path) -> None:
        self.name = str(directory / "notify")
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.name)
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while (data := self._socket.recv(4096)) != b"end":
            self.said.append(data.decode())

    def __enter__(self) -> "Systemd":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", self.name)
        self._thread.join()
        self._socket.close()


def test_the_life_of_a_proxy(document: Any, tmp_path: Path, run: Any, mesh_pki: Any) -> None:
    assert ask(document, "GET", "/status")[0] == 3
    with Systemd(tmp_path) as systemd:
        settings = write(tmp_path, document)
        process = run(settings, NOTIFY_SOCKET=systemd.name, WATCHDOG_USEC="300000")
        until(lambda: is_ready(document))
        code, body = ask(document, "GET", "/status")
        assert code == 0
        status = decode(body.encode(), ProxyStatus)
        assert (status.host, status.state, status.release, status.config) == (
            "h1", "ready", "r1", "c1"
        )  # fmt: skip
        directory = mesh_pki.issue("web")
        process.process.send_signal(signal.SIGHUP)
        until(lambda: directory.name in ask(document, "GET", "/status")[1])
        process.process.send_signal(signal.SIGTERM)
        code, lines = process.end()
    said = [first.partition("\n")[0] for first in systemd.said]
    assert code == 0
    assert "WATCHDOG=1" in said
    assert [word for word in said if word != "WATCHDOG=1"] == [
        "READY=1", "RELOADING=1", "READY=1", "STOPPING=1"
    ]  # fmt: skip
    assert [line["msg"] for line in lines if line["msg"] in {"ready", "draining", "drained"}] == [
        "ready", "draining", "drained"
    ]  # fmt: skip
    assert all({"ts", "level", "logger", "msg"} <= set(line) for line in lines)


def test_a_running_proxy_carries_neither_cryptography_nor_aiohttp(
    document: Any, tmp_path: Path, run: Any
) -> None:
    code = (
        "import sys, signal; from proxy.__main__ import main; code = main();"
        "print(*sorted(sys.modules), sep='\\n'); sys.exit(code)"
    )
    process = run(write(tmp_path, document), "-c", code)
    until(lambda: is_ready(document))
    process.process.send_signal(signal.SIGTERM)
    out, err = process.process.communicate(timeout=20)
    assert process.process.returncode == 0, err
    loaded = {name.partition(".")[0] for name in out.split()}
    assert "uvloop" in loaded
    assert loaded & {"cryptography", "aiohttp", "meshctl", "yaml", "requests", "unittest"} == set()
    assert "http.client" not in out.split()


def test_a_taken_port_is_named_with_who_wants_it(document: Any, tmp_path: Path, run: Any) -> None:
    listen = document["workloads"][0]["upstreams"][0]["listen"]
    with socket.socket() as squatter:
        squatter.bind((listen["host"], listen["port"]))
        squatter.listen()
        code, lines = run(write(tmp_path, document)).end()
    assert code == 1
    (line,) = [line for line in lines if line["level"] == "critical"]
    for word in (f"127.0.0.1:{listen['port']}", "web", "api"):
        assert word in line["msg"]


def check(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main_module.main(["--settings", path, "--check"])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err.splitlines()


def test_good_settings_with_good_identities_pass_the_check(
    document: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(write(tmp_path, document), capsys) == (0, [])


def test_an_identity_that_is_missing_or_over_fails_the_check(
    document: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], mesh_pki: Any
) -> None:
    second = {**document["workloads"][0], "service": "mob", "upstreams": []}
    document["workloads"].append(second)
    hour = datetime.timedelta(hours=1)
    mesh_pki.issue("web", starts_in=-2 * hour, ends_in=-hour)
    code, lines = check(write(tmp_path, document), capsys)
    assert code == 1
    assert len(lines) == 2
    assert "web's certificate expired at" in lines[0]
    assert lines[1] == "mob has no certificate in force"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"host": "Not A Host"}, "$.host"),
        ({"admin": {"host": "127.0.0.1", "port": "x"}}, "$.admin.port"),
        ({"admin": {"host": "0.0.0.0", "port": 15000}}, "$.admin.host"),
        ({"surprise": 1}, "surprise"),
        ({"consul": {"url": "https://x"}}, "$.consul.url"),
        ({"consul": {"url": "http://127.0.0.1:1", "token_file": "/gone"}}, "$.consul.token_file"),
        ("{", "truncated"),
        ("", "truncated"),
        ("[" * 100_000, "valid"),
    ],
)
@pytest.mark.parametrize("argv", [[], ["--check"]])
def test_wrong_settings_are_named_and_nothing_is_started(
    document: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    path: str,
    argv: list[str],
) -> None:
    wrong = change if isinstance(change, str) else document | change
    file = write(tmp_path, wrong)
    assert main_module.main(["--settings", file, *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert file in line
    assert path in line


def test_settings_that_are_not_there_are_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_module.main(["--settings", str(tmp_path / "gone")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_token_is_read_from_its_file_and_never_shown(
    document: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    document["consul"]["token_file"] = str(token)
    settings, read = main_module.load(Path(write(tmp_path, document)))
    assert read == "s3cret"
    assert "s3cret" not in repr(settings)
    token.write_bytes(b"s3cr\xe9t")
    assert main_module.main(["--settings", write(tmp_path, document)]) == 2
    assert "s3cr" not in capsys.readouterr().err


def test_the_query_module_needs_nothing_of_the_server() -> None:
    assert query.__doc__ is not None
    done = subprocess.run(
        [sys.executable, "-c", "import proxy.query, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"uvloop", "httptools", "asyncio", "cryptography"} & set(done.stdout.split()) == set()
