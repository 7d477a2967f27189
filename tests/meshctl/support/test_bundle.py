"""A bundle of a mesh whose every source has secrets planted in it has none of them."""

import json
import os
import socket
import stat
import sys
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meshctl.apply.steps import log_file
from meshctl.errors import Refused
from meshctl.inventory.model import Inventory
from meshctl.inventory.parse import parse
from meshctl.layout import Layout
from meshctl.state import StateDir
from meshctl.support import collect
from meshctl.support.archive import creating
from meshctl.support.scrub import Scrubber
from meshctl.transport.connect import Connections
from proxy.model.names import TrustDomain
from proxy.net.admin import Admin, Answer, Route

CANARY = "CANARY0123456789"
UNNAMED = "operator-token-CANARY"
PLANTED = (
    f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
    f"Authorization: Bearer {CANARY}",
    f"x-consul-token: {CANARY}",
    f"https://u:{CANARY}@host/",
    f"passphrase={CANARY}",
    f"something {UNNAMED} without a name",
)


def _planted() -> dict[str, str]:
    return {f"field{number}": text for number, text in enumerate(PLANTED)} | {"token": CANARY}


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """``one`` answers; ``two`` has nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = f"""\
version: 1
# password: {CANARY}
consul: {{mode: embedded, address: "http://127.0.0.1:1"}}
hosts:
  - name: one
    transport: local
    root: {tmp_path}/one
    proxy: {{admin_port: {port}, inbound_port: {port + 1}}}
    services: [{{name: api, port: {port + 2}}}]
  - name: two
    transport: local
    root: {tmp_path}/two
    proxy: {{admin_port: {port + 3}, inbound_port: {port + 4}}}
    services: [{{name: db, port: {port + 5}}}]
"""
    (tmp_path / "inventory.yaml").write_text(text)
    (tmp_path / "mesh.yaml").write_text("\n".join(f"# {text}" for text in PLANTED) + "\n")
    python = Path(Layout(f"{tmp_path}/one").python)
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return parse(text, tmp_path / "inventory.yaml")


@pytest.fixture
async def admin(inventory: Inventory) -> AsyncIterator[None]:
    async def answer() -> Answer:
        return Answer(body=json.dumps({"ok": 1, "a": _planted()}).encode())

    async def metrics() -> Answer:
        return Answer(body="\n".join(PLANTED).encode())

    paths = ("/status", "/stats", "/clusters", "/endpoints", "/config")
    routes = {path: Route(method="GET", handler=answer) for path in paths}
    server = Admin({**routes, "/metrics": Route(method="GET", handler=metrics)})
    await server.start("127.0.0.1", inventory.hosts[0].proxy.admin_port)
    yield
    await server.close()


@pytest.fixture
def logs(inventory: Inventory) -> None:
    host = inventory.hosts[0]
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    calls = [
        {"ts": now, "log": "access", "caller": "web", "service": "api", "status": status,
         "flag": flag, **_planted()}
        for status, flag in ((200, ""), (503, "UF"), (404, ""))
    ]  # fmt: skip
    own = {"ts": now, "level": "info", "logger": "x", "msg": "own", **_planted()}
    old = own | {"ts": "2001-01-01T00:00:00.000Z", "msg": "long ago"}
    access = Path(Layout(host.root).access_log)
    for path, lines in ((access, calls), (Path(log_file(host)), [old, own])):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        path.write_text(f"{text}Traceback: {PLANTED[1]}\n")


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    made = StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), datetime.now(UTC))
    (made.path / "consul").mkdir(mode=0o700)
    (made.path / "consul" / "operator.token").write_text(f"{UNNAMED}\n")
    return made


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        files = {}
        for member in tar.getmembers():
            assert member.isfile()
            assert member.mode == 0o600
            data = tar.extractfile(member)
            assert data is not None
            files[member.name.partition("/")[2]] = data.read()
        return files


@pytest.mark.usefixtures("admin", "logs")
async def test_no_planted_secret_of_any_source_is_in_it(
    inventory: Inventory, state: StateDir, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.tar.gz"
    scrubber = Scrubber(collect.known_secrets(state, ()))
    connections = Connections(inventory.hosts, known_hosts=state.known_hosts)
    done: list[None] = []
    try:
        with creating(path, scrubber) as archive:
            collect.from_here(archive, inventory, state, tmp_path / "mesh.yaml")
            archive.add("status.json", json.dumps(_planted()).encode())
            await collect.proxy_logs(
                archive, inventory.hosts, connections, since_s=3600, parallel=2
            )
            await collect.from_hosts(
                archive, inventory.hosts, connections, since_s=3600, parallel=2,
                done=lambda: done.append(None),
            )  # fmt: skip
            archive.lack("something", f"it said: {PLANTED[-1]}, {PLANTED[1]}")
            archive.finish("1h")
    finally:
        await connections.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(done) == 2
    files = read(path)
    for name, data in files.items():
        assert b"CANARY" not in data, name
    expected = {
        *("manifest.json", "status.json", "operator/inventory.yaml", "operator/mesh.yaml"),
        *("hosts/one/proxy-log.jsonl", "hosts/one/system.txt", "hosts/two/system.txt"),
    }
    for name in ("status.json", "stats.json", "metrics.txt", "clusters.json", "config.json"):
        expected.add(f"hosts/one/{name}")
    assert expected <= set(files)
    manifest: dict[str, Any] = json.loads(files["manifest.json"])
    told = {entry["file"]: entry for entry in manifest["entries"]}
    assert set(told) == set(files) - {"manifest.json"}
    assert all(told[name]["bytes"] == len(files[name]) for name in told)
    assert told["hosts/one/config.json"]["removed"] >= len(PLANTED)
    missing = {each["file"] for each in manifest["missing"]}
    assert {"hosts/two/status.json", "something", "operator/issued.jsonl"} <= missing
    # Calls that went well, and what is older than was asked for, are not its business.
    lines = [json.loads(line) for line in files["hosts/one/proxy-log.jsonl"].splitlines()]
    assert sorted(line["status"] for line in lines if "status" in line) == [404, 503]
    assert [line["msg"] for line in lines if "msg" in line] == ["own"]


def test_one_that_exists_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "there.tar.gz"
    path.write_text("mine")
    with pytest.raises(Refused), creating(path, Scrubber()):
        raise AssertionError
    assert path.read_text() == "mine"


def test_one_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with creating(tmp_path / "a.tar.gz", Scrubber()) as archive:
            archive.add("x", b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path) == []


def test_of_too_much_the_end_is_kept_and_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshctl.support.archive.MAX_ITEM_BYTES", 1000)
    monkeypatch.setattr("meshctl.support.archive.MAX_FOLDER_BYTES", 4000)
    path = tmp_path / "a.tar.gz"
    with creating(path, Scrubber()) as archive:
        archive.add("hosts/one/big", b"x" * 1000 + b"the end")
        for number in range(4):
            archive.add(f"hosts/one/{number}", b"y" * 1000)
        archive.finish("1h")
    files = read(path)
    assert files["hosts/one/big"].endswith(b"the end")
    manifest = json.loads(files["manifest.json"])
    big = next(entry for entry in manifest["entries"] if entry["file"] == "hosts/one/big")
    assert big["cut_bytes"] == len("the end")
    assert [each["file"] for each in manifest["missing"]] == ["hosts/one/3"]
