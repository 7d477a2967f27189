"""Deploys for real over the local transport, to a release that is a few lines of Python.

The programs on the host, the plan, the CA and the identities are the real ones; only the wheels
and the proxy itself are stand-ins, so that a whole deploy takes half a second.
"""

import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest
from ports import free_ports

from meshctl.apply import steps
from meshctl.apply.gather import gather
from meshctl.apply.means import Means
from meshctl.apply.observer import Silent
from meshctl.apply.preparation import issuer_fingerprint
from meshctl.apply.report import Report
from meshctl.apply.run import run
from meshctl.bundle.install import Installation
from meshctl.bundle.model import Bundle, Target, Wheel
from meshctl.errors import Unreachable
from meshctl.facts.request import pid_file
from meshctl.inventory.model import Inventory
from meshctl.inventory.parse import parse
from meshctl.pki.passphrase import Passphrase
from meshctl.pki.policykey import PolicyKey
from meshctl.pki.store import CaStore
from meshctl.plan.build import build
from meshctl.plan.desired import Desired
from meshctl.plan.model import Plan
from meshctl.state import StateDir
from meshctl.transport import Completed, Transport
from meshctl.transport.local import LocalTransport
from proxy.model.names import HostName, TrustDomain
from proxy.model.policy import Policy, Snapshot
from proxy.model.signed import Kind
from proxy.model.snapshot import pack

REPOSITORY = Path(__file__).parents[3]
STAND_IN = """\
import json, os, runpy, signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
sys.path[:0] = [{repository!r}, *{packages!r}]
module = sys.argv[sys.argv.index("-m") + 1]
def shown(state):
    # proxy.keys show in five milliseconds, for it is asked dozens of times.
    import pathlib, ssl, time
    found = []
    for folder in sorted(pathlib.Path(state, "identities").iterdir()):
        entry = dict(service=folder.name, identity=None, error="none")
        chain = folder / "current" / "chain.pem"
        if chain.exists():
            leaf = ssl._ssl._test_decode_cert(str(chain))
            moment = lambda text: time.strftime(
                "%Y-%m-%dT%H:%M:%SZ", time.gmtime(ssl.cert_time_to_seconds(text)))
            entry.update(error="", identity=dict(
                spiffe_id=leaf["subjectAltName"][0][1], serial=leaf["serialNumber"].lower(),
                not_before=moment(leaf["notBefore"]), not_after=moment(leaf["notAfter"])))
        found.append(entry)
    return found
if "show" in sys.argv:
    print(json.dumps(shown(sys.argv[-1])))
    sys.exit(0)
if module != "proxy":
    del sys.argv[1:sys.argv.index("-m") + 2]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)
settings = json.load(open(sys.argv[-1]))
FAULT = {fault!r}
if FAULT == "crash":
    sys.exit("stand-in: cannot start")
def serials():
    items = shown(settings["state_dir"])
    return {{item["service"]: item["identity"]["serial"] for item in items if item["identity"]}}
in_force = serials()
class Admin(BaseHTTPRequestHandler):
    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/ready":
            self.answer(503 if FAULT == "unready" else 200, "not yet" if FAULT else "ready")
        else:
            self.answer(200, dict(
                release=settings["release"], config=settings["config"], state="ready",
                generation=1, workloads=[
                    dict(service=w["service"], identity=dict(serial=in_force[w["service"]])
                    if w["service"] in in_force else None) for w in settings["workloads"]]))
    def do_POST(self):
        global in_force
        in_force = serials()
        self.answer(500 if FAULT == "reload" else 200, "")
    def log_message(self, *_): pass
class Server(ThreadingHTTPServer):
    daemon_threads = True
server = Server((settings["admin"]["host"], settings["admin"]["port"]), Admin)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(0.02)
"""


class Cut(Transport):
    """Breaks after the ``at``-th command was carried out, which nobody here gets to know."""

    def __init__(self, host: HostName, counter: "Counter") -> None:
        self._inner = LocalTransport(host)
        self._counter = counter
        self.host = host

    async def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0
    ) -> Completed:
        counter = self._counter
        counter.count += 1
        counter.commands.append(argv)
        counter.inputs.append(stdin)
        number = counter.count
        done = await self._inner.run(argv, stdin=stdin, timeout_s=timeout_s)
        if number == counter.at:
            raise Unreachable(f"{self.host} went away", hint="look at it")
        return done

    def lines(self, argv: Sequence[str], *, timeout_s: float | None = None) -> Any:
        return self._inner.lines(argv, timeout_s=timeout_s)

    def tunnel(self, target: Any) -> Any:
        return self._inner.tunnel(target)

    async def close(self) -> None: ...


@dataclass
class Counter:
    at: int = 0
    count: int = 0
    commands: list[Sequence[str]] = field(default_factory=list)
    inputs: list[bytes] = field(default_factory=list)


@dataclass
class Connector:
    counter: Counter

    async def connect(self, host: HostName) -> Transport:
        return Cut(host, self.counter)

    async def close(self) -> None: ...


@dataclass
class Lab:
    """One mesh on this machine, and what is wanted of it right now."""

    inventory: Inventory
    state: StateDir
    ca: CaStore
    folder: Path
    fault: str = ""
    version: str = "1"
    policy: Policy = field(default_factory=Policy)
    published: list[Policy] = field(default_factory=list)
    policy_key: PolicyKey = field(default_factory=PolicyKey.generate)
    counter: Counter = field(default_factory=Counter)
    registry_starts: int = 0

    @property
    def connector(self) -> Connector:
        return Connector(self.counter)

    def bundle(self) -> Bundle:
        path = self.folder / f"stand_in-{self.version}{self.fault}-py3-none-any.whl"
        path.write_bytes(path.name.encode())
        return Bundle(
            target=Target.of_this_machine(),
            wheels=(
                Wheel(
                    name=path.name,
                    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                    size=path.stat().st_size,
                    path=path,
                ),
            ),
        )

    async def plan(self) -> Plan:
        seen = await gather(self.inventory, self.inventory.hosts, self.connector, parallel=4)
        facts = dict(seen.facts)
        if self.published:
            snapshot = Snapshot(
                generation=1, trust_domain=self.state.trust_domain, policy=self.published[-1]
            )
            for name, fact in facts.items():
                signed = self.policy_key.seal(Kind.POLICY, pack(snapshot))
                consul = type(fact.seen.consul)(is_answering=True, snapshot=signed)
                facts[name] = replace(fact, seen=msgspec.structs.replace(fact.seen, consul=consul))
        bundle = self.bundle()
        desired = Desired(
            inventory=self.inventory,
            trust_domain=self.state.trust_domain,
            bundles={host.name: bundle for host in self.inventory.hosts},
            trust_bundle=self.ca.trust_bundle_pem,
            issuer=issuer_fingerprint(self.ca),
            policy=self.policy,
            policy_key=self.policy_key.public,
            owner="me",
            now=datetime.now(UTC),
        )
        return build(desired, facts, failures=seen.failures, findings={})

    def means(self, plan: Plan, **changes: Any) -> Means:
        async def start_registry() -> None:
            self.registry_starts += 1

        async def publish(policy: Policy, through: HostName) -> int:
            self.published.append(policy)
            return 1

        usual: dict[str, Any] = {
            "inventory": self.inventory,
            "trust_domain": self.state.trust_domain,
            "connector": self.connector,
            "signer": self.ca.unlock(lambda: Passphrase(b"unused")),
            "record": plan.record,
            "owner": "me",
            "start_registry": start_registry,
            "publish": publish,
            "now": lambda: datetime.now(UTC),
            "observer": Silent(),
        }
        return Means(**{**usual, **changes})

    async def deploy(self, **changes: Any) -> Report:
        plan = await self.plan()
        return await run(plan, self.means(plan, **changes))

    def pids(self) -> list[int]:
        found = []
        for host in self.inventory.hosts:
            with contextlib.suppress(OSError, ValueError):
                pid = int(Path(pid_file(host)).read_text())
                os.kill(pid, 0)
                found.append(pid)
        return found

    def kill_all(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    ports = free_ports(6)
    text = f"""\
version: 1
consul: {{mode: embedded, address: "http://127.0.0.1:{ports[4]}"}}
hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: {tmp_path}/front
    proxy: {{inbound_port: {ports[0]}, admin_port: {ports[1]}, drain: 1s}}
    services: [{{name: web, port: {ports[5]}}}]
"""
    inventory = parse(text, tmp_path / "inventory.yaml")
    state = StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), datetime.now(UTC))
    ca = CaStore.create(state, None, datetime.now(UTC))
    made = Lab(inventory=inventory, state=state, ca=ca, folder=tmp_path)

    async def install(
        transport: Transport, bundle: Bundle, *, python: str, wheels_dir: str, release: str
    ) -> Installation:
        """What ``bundle.install`` leaves behind, with the stand-in for a proxy."""
        script = (
            'set -e; test -f "$2/$3"; mkdir -p "$1/bin"; cat > "$1/stand_in.py"; '
            'printf \'#!/bin/sh\\nexec %s %s "$@"\\n\' "$4" "$1/stand_in.py" > "$1/bin/python"; '
            'chmod 755 "$1/bin/python"; touch "$1/.complete"'
        )
        program = STAND_IN.format(
            repository=str(REPOSITORY),
            packages=[path for path in sys.path if path.endswith("-packages")],
            fault=made.fault,
        )
        done = await transport.run(
            ["sh", "-c", script, "sh", release, wheels_dir, bundle.wheels[0].name, sys.executable],
            stdin=program.encode(),
        )
        assert done.exit_status == 0, done.stderr
        return Installation(release=release, changed=True)

    monkeypatch.setattr(steps, "install", install)
    monkeypatch.setattr(steps, "START_TIMEOUT_S", 20)
    yield made
    made.kill_all()
