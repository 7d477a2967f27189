"""The one command, run for real against a directory that looks like a host, and its parser."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ports import free_ports

from meshctl.facts import request
from meshctl.facts.model import HostFacts
from meshctl.inventory.model import Inventory
from meshctl.layout import PROXY_UNIT
from proxy.model.codec import Malformed

INVENTORY = """\
version: 1
consul: {{mode: embedded, address: "http://127.0.0.1:{consul}"}}
hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: {root}
    proxy: {{inbound_port: {inbound}, admin_port: {admin}}}
    services: [{{name: web, port: 8080}}]
"""


@pytest.fixture
def inventory(tmp_path: Path, world_of: Any) -> Inventory:
    consul, inbound, admin = free_ports(3)
    text = INVENTORY.format(root=tmp_path / "root", consul=consul, inbound=inbound, admin=admin)
    found: Inventory = world_of(text).inventory
    return found


def ask(inventory: Inventory, *interpreters: str, **environment: str) -> HostFacts:
    sent_at = time.time()
    done = subprocess.run(
        request.command(interpreters or (sys.executable,)),
        input=request.stdin(inventory, inventory.hosts[0]),
        capture_output=True,
        timeout=30,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.stderr == b""
    return request.parse(done.stdout, sent_at=sent_at, received_at=time.time())


@contextmanager
def answering(port: int, bodies: dict[str, bytes]) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_empty_host_has_nothing_of_ours(inventory: Inventory) -> None:
    facts = ask(inventory)
    seen = facts.seen
    assert seen.python is not None
    assert seen.python.version[:2] == sys.version_info[:2]
    assert seen.libc.startswith("glibc")
    assert (seen.current, seen.wheels, seen.releases, seen.configs) == ("", {}, {}, {})
    assert facts.proxy is None
    assert facts.release == ""
    assert min(seen.disks.values()) > 0
    assert not seen.units[PROXY_UNIT].is_active
    assert abs(facts.clock_offset_s) < 2


def test_a_host_with_a_release_is_described_completely(inventory: Inventory) -> None:
    root = Path(inventory.hosts[0].root)
    prefix = root / "opt/meshctl"
    (prefix / "wheels").mkdir(parents=True)
    (prefix / "wheels/a-1.whl").write_bytes(b"wheel")
    (prefix / "wheels/.a-1.whl.x.partial").write_bytes(b"half")
    (prefix / "releases/r1").mkdir(parents=True)
    (prefix / "releases/r1/.complete").touch()
    (prefix / "releases/r2").mkdir()
    config = prefix / "configs/c1"
    config.mkdir(parents=True)
    (config / "proxy.json").write_bytes(b"{}")
    (config / "release").symlink_to(prefix / "releases/r1")
    (prefix / "current").symlink_to(config)
    (root / "var/lib/meshctl").mkdir(parents=True, mode=0o700)

    facts = ask(inventory)

    assert set(facts.seen.wheels) == {"a-1.whl"}
    assert facts.seen.wheels["a-1.whl"].size == 5
    assert facts.seen.releases == {"r1": True, "r2": False}
    assert facts.seen.configs["c1"].release == "r1"
    assert set(facts.seen.configs["c1"].files) == {"proxy.json"}
    assert (facts.seen.current, facts.release) == ("c1", "r1")
    assert facts.seen.paths[str(root / "var/lib/meshctl")].mode == 0o700


def test_a_listener_is_named_with_its_process(inventory: Inventory) -> None:
    port = inventory.hosts[0].proxy.inbound_port
    with socket.create_server(("127.0.0.1", port)):
        (found,) = ask(inventory).seen.listeners
    assert (found.port, found.pid) == (port, os.getpid())


def test_the_running_proxy_and_the_published_policy_are_read(inventory: Inventory) -> None:
    status = {"release": "r1", "config": "c1", "state": "ready", "generation": 2, "new": "field"}
    consul = int(inventory.consul.address.rpartition(":")[2])
    with (
        answering(inventory.hosts[0].proxy.admin_port, {"/status": json.dumps(status).encode()}),
        answering(
            consul,
            {
                "/v1/status/leader": b'"10.0.0.1:8300"',
                "/v1/kv/meshctl/snapshot?raw&stale": b"snapshot",
            },
        ),
    ):
        facts = ask(inventory)
    assert facts.proxy is not None
    assert (facts.proxy.config, facts.proxy.generation) == ("c1", 2)
    assert facts.seen.consul.is_answering
    assert facts.seen.consul.leader == "10.0.0.1:8300"
    assert facts.seen.consul.snapshot == b"snapshot"


def test_what_is_not_our_proxy_on_the_admin_port_is_no_proxy(inventory: Inventory) -> None:
    with answering(inventory.hosts[0].proxy.admin_port, {"/status": b"<html>"}):
        facts = ask(inventory)
    assert facts.proxy is None


@pytest.mark.parametrize("content", ["", "x", "999999999", "1"])
def test_a_stale_process_id_is_not_a_running_proxy(inventory: Inventory, content: str) -> None:
    path = Path(request.pid_file(inventory.hosts[0]))
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert not ask(inventory).seen.units[PROXY_UNIT].is_active


def test_the_lock_of_a_deploy_is_read(inventory: Inventory) -> None:
    path = Path(request.lock_path(inventory.hosts[0]))
    path.parent.mkdir(parents=True)
    path.write_text('{"owner": "somebody", "until": 1e12}')
    lock = ask(inventory).seen.lock
    assert lock is not None
    assert (lock.owner, lock.is_busy) == ("somebody", False)
    path.write_text("garbage")
    assert ask(inventory).seen.lock is None


def test_without_a_python_the_shell_answers(inventory: Inventory) -> None:
    facts = ask(inventory, "no-such-python", "/bin/false")
    assert facts.seen.python is None
    assert facts.seen.found == ""
    assert facts.seen.machine == os.uname().machine


def test_an_old_python_is_named(inventory: Inventory, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\ncase "$*" in *print*) echo 3.7.3;; *) exit 1;; esac\n')
    old.chmod(0o755)
    facts = ask(inventory, str(old))
    assert facts.seen.python is None
    assert facts.seen.found == "3.7.3"


def test_the_first_interpreter_that_serves_is_taken(inventory: Inventory) -> None:
    facts = ask(inventory, "/bin/false", sys.executable)
    assert facts.seen.python is not None
    assert facts.seen.python.executable == sys.executable


def test_the_clock_offset_is_taken_from_the_middle(inventory: Inventory) -> None:
    facts = ask(inventory)
    answer = {"python": None, "found": "", "machine": "", "libc": "", "os": "", "systemd": None}
    answer |= {"is_root": True, "started": 1100.0, "ended": 1102.0}
    parsed = request.parse(json.dumps(answer).encode(), sent_at=1000.0, received_at=1010.0)
    assert parsed.clock_offset_s == 1101 - 1005
    assert replace(facts, clock_offset_s=0).clock_offset_s == 0


@pytest.mark.parametrize("text", [b"", b"Welcome!\n{}", b"{}", b"[1]", b'{"python": 1}', b"\xff"])
def test_another_answer_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed):
        request.parse(text, sent_at=0, received_at=0)


def test_every_port_of_the_proxy_is_asked_for_and_no_other(world_of: Any) -> None:
    inventory = world_of("""\
version: 1
consul: {mode: existing}
hosts:
  - name: front
    address: 10.0.0.1
    services:
      - {name: web, port: 8080, upstreams: [api, {users: 9002}]}
      - {name: api, port: 8081, protocol: http}
      - {name: users, port: 5432}
""").inventory
    asked, _, _ = request.stdin(inventory, inventory.hosts[0]).partition(b"\n")
    assert json.loads(asked)["ports"] == [9002, 15000, 15001, 15006]
