"""The demo: three hosts' worth of services on one machine, through the real commands.

Each scene states what is to be seen, does it, shows it, and holds or fails. The mesh is made and
deployed by the same `meshctl` commands that an operator types, over the local transport.
"""

import argparse
import asyncio
import collections
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

APP = Path(__file__).with_name("app.py")
MESHCTL = str(Path(sys.executable).with_name("meshctl"))
START_DEADLINE_S = 30.0
REQUEST_DEADLINE_S = 10.0
LOAD_WORKERS = 8

console = Console(highlight=False, soft_wrap=True)


class SceneFailed(Exception):
    """What a scene set out to show did not hold."""


def free_ports(count: int) -> list[int]:
    """Ports below the ephemeral range, so that no outgoing connection takes them meanwhile."""
    found: list[int] = []
    for port in range(18000 + os.getpid() % 4000, 32000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise SceneFailed("no free ports on loopback")


@dataclass
class Ports:
    registry: int
    admin: list[int]
    inbound: list[int]
    web: int
    api_1: int
    api_2: int
    users: int
    cache: int
    web_to_api: int
    web_to_cache: int
    api_to_users: int
    api_2_to_users: int

    @classmethod
    def pick(cls) -> "Ports":
        ports = free_ports(16)
        return cls(ports[0], ports[1:4], ports[4:7], *ports[7:16])


def inventory(base: Path, ports: Ports) -> str:
    def proxy(host: int) -> str:
        inbound, admin = ports.inbound[host], ports.admin[host]
        return f"{{inbound_address: 127.0.0.1, inbound_port: {inbound}, admin_port: {admin}}}"

    return f"""\
version: 1
consul:
  mode: embedded
  address: http://127.0.0.1:{ports.registry}

hosts:
  - name: front
    address: 127.0.0.1
    transport: local
    root: {base}/front
    proxy: {proxy(0)}
    services:
      - name: web
        port: {ports.web}
        protocol: http
        health: {{http: /healthz, interval: 1s}}
        upstreams:
          - {{service: api, port: {ports.web_to_api}}}
          - {{service: cache, port: {ports.web_to_cache}}}

  - name: back-1
    address: 127.0.0.1
    transport: local
    root: {base}/back-1
    proxy: {proxy(1)}
    services:
      - name: api
        version: v1
        port: {ports.api_1}
        protocol: http
        health: {{http: /healthz, interval: 1s}}
        upstreams:
          - {{service: users, port: {ports.api_to_users}}}
      - name: users
        port: {ports.users}
        protocol: http
        health: {{http: /healthz, interval: 1s}}

  - name: back-2
    address: 127.0.0.1
    transport: local
    root: {base}/back-2
    proxy: {proxy(2)}
    services:
      - name: api
        version: v2
        port: {ports.api_2}
        protocol: http
        health: {{http: /healthz, interval: 1s}}
        upstreams:
          - {{service: users, port: {ports.api_2_to_users}}}
      - name: cache
        port: {ports.cache}
        protocol: tcp
        health: {{tcp: true, interval: 1s}}
"""


@dataclass
class Apps:
    """The services: plain processes that know nothing of the mesh."""

    ports: Ports
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        p = self.ports
        arguments = {
            "web": [
                "http",
                "--name=web",
                f"--port={p.web}",
                f"--call=api=http://127.0.0.1:{p.web_to_api}/",
            ],
            "api v1": [
                "http",
                "--name=api",
                "--version=v1",
                f"--port={p.api_1}",
                f"--call=users=http://127.0.0.1:{p.api_to_users}/",
            ],
            "api v2": [
                "http",
                "--name=api",
                "--version=v2",
                f"--port={p.api_2}",
                f"--call=users=http://127.0.0.1:{p.api_2_to_users}/",
            ],
            "users": ["http", "--name=users", f"--port={p.users}"],
            "cache": ["tcp", "--name=cache", f"--port={p.cache}"],
        }[name]
        self.running[name] = subprocess.Popen([sys.executable, str(APP), *arguments])

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait(5)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)


@dataclass
class Load:
    """Keep-alive clients that count what came back; the judge of every zero."""

    port: int
    path: str = "/"
    answers: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + sum(self.failures.values())

    async def run(self, requests: int, until: asyncio.Event | None = None) -> None:
        """At least ``requests`` in all; goes on until ``until`` is set, if that is given."""
        left = requests

        async def client() -> None:
            nonlocal left
            streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
            while left > 0 or (until is not None and not until.is_set()):
                left -= 1
                try:
                    async with asyncio.timeout(REQUEST_DEADLINE_S):
                        streams = streams or await asyncio.open_connection("127.0.0.1", self.port)
                        document = await self.request(*streams)
                    self.answers[f"{document['service']} {document['version']}"] += 1
                except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                    self.failures[str(error) or type(error).__name__] += 1
                    if streams:
                        streams[1].close()
                    streams = None
            if streams:
                streams[1].close()

        await asyncio.gather(*(client() for _ in range(LOAD_WORKERS)))

    async def request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[str, str]:
        writer.write(f"GET {self.path} HTTP/1.1\r\nhost: api\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
        body = await reader.readexactly(length)
        status = head.split(" ", 2)[1]
        if status != "200":
            raise ValueError(f"{status}: {body.decode().strip()}")
        answer: dict[str, str] = json.loads(body)
        return answer


def get(port: int, path: str = "/") -> dict[str, object]:
    async def once() -> dict[str, object]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return dict(await Load(port, path).request(reader, writer))
        finally:
            writer.close()

    return asyncio.run(asyncio.wait_for(once(), REQUEST_DEADLINE_S))


def meshctl(*arguments: str, cwd: Path, quiet: bool = False) -> str:
    """Run the command as an operator would; its output is shown, and returned if quiet."""
    console.print(f"[bold cyan]$ meshctl {escape(' '.join(arguments))}[/]")
    done = subprocess.run(
        [MESHCTL, *arguments], cwd=cwd, text=True, stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.PIPE if quiet else None, timeout=180,
    )  # fmt: skip
    if done.returncode:
        raise SceneFailed(f"meshctl {arguments[0]} ended with exit code {done.returncode}: "
                          f"{(done.stdout or '') + (done.stderr or '')}")  # fmt: skip
    return done.stdout or ""


def scene(number: int, title: str) -> None:
    console.print(f"\n[bold]{number}. {title}[/]")


def holds(condition: bool, sentence: str) -> None:
    mark = "[bold green]ok[/]  " if condition else "[bold red]FAILED[/]"
    console.print(f"   {mark} {escape(sentence)}")
    if not condition:
        raise SceneFailed(sentence)


def identities(xfcc: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in xfcc.split(";") if "=" in part)


def show_deploy(printed: str) -> None:
    """The gist of plan and report; without ``-o json`` they come whole, as tables."""
    document = json.loads(printed)
    console.print(f"   plan: {document['plan']['summary']}")
    for host in document["plan"]["hosts"]:
        for step in host["steps"]:
            console.print(f"   [dim]{host['host']:8}{escape(step['title'])}[/]")
    if document["report"]:
        console.print(f"   report: {document['report']['summary']}")


def show_crossing(ports: Ports) -> None:
    answer = get(ports.web_to_api)
    ends = identities(str(answer["caller"]))
    console.print(f"   web --> [bold]proxy on front[/] ==mTLS==> [bold]proxy on {'back-1' if answer['version'] == 'v1' else 'back-2'}[/] --> api {answer['version']}")  # fmt: skip # noqa: E501
    console.print(f"   caller  {ends.get('URI', '?')}\n   callee  {ends.get('By', '?')}")
    holds(
        ends.get("URI", "").endswith("/svc/web") and ends.get("By", "").endswith("/svc/api"),
        "the application behind the second proxy was told both identities, proven by certificate",
    )
    users = dict(answer["called"])["users"]  # type: ignore[call-overload]
    holds(users.get("service") == "users", "api in turn reached users through its own proxy")


def show_refused_plaintext(ports: Ports) -> None:
    with socket.create_connection(("127.0.0.1", ports.inbound[1]), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n")
        received = b""
        with suppress(ConnectionResetError):
            while chunk := plain.recv(4096):
                received += chunk
    holds(
        b"HTTP/1" not in received,
        "plaintext on the mTLS port: closed, not one byte of HTTP came back",
    )


def show_balancing(ports: Ports) -> None:
    load = Load(ports.web_to_api)
    asyncio.run(load.run(200))
    console.print(f"   {dict(load.answers)}")
    holds(not load.failures and len(load.answers) == 2, "200 requests went to both versions of api")


def show_tcp(ports: Ports) -> None:
    with socket.create_connection(("127.0.0.1", ports.web_to_cache), timeout=5) as client:
        client.sendall(b"hello\nmesh\n")
        client.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := client.recv(4096):
            received += chunk
    console.print(f"   sent 2 lines, closed our side, received {received!r}")
    holds(received == b"HELLO\nMESH\n2 lines\n", "TCP crossed two proxies, half-close included")


def show_survival(ports: Ports, apps: Apps) -> None:
    async def kill_in_the_middle() -> Load:
        load = Load(ports.web_to_api)
        killed = asyncio.Event()
        running = asyncio.create_task(load.run(1000, killed))
        while load.total < 300:
            await asyncio.sleep(0.005)
        apps.kill("api v2")
        killed.set()
        await running
        return load

    load = asyncio.run(kill_in_the_middle())
    console.print(f"   api v2 killed after 300 requests; {dict(load.answers)}")
    for failure, count in load.failures.items():
        console.print(f"   {count} x {escape(failure)}")
    # What was inside the killed process may be lost with it; what came after may not.
    holds(
        sum(load.failures.values()) <= LOAD_WORKERS and load.answers["api v1"] > 500,
        f"traffic went on: {sum(load.failures.values())} of {load.total} failed, "
        "at most what the killed process was working on",
    )


def show_rotation(ports: Ports, directory: Path) -> None:
    async def rotate_under_load() -> tuple[Load, str]:
        load = Load(ports.web_to_api)
        done = asyncio.Event()
        running = asyncio.create_task(load.run(2000, done))
        try:
            printed = await asyncio.to_thread(
                meshctl, "certs", "rotate", "--yes", "-o", "json", cwd=directory, quiet=True
            )
        finally:
            done.set()
            await running
        return load, printed

    load, printed = asyncio.run(rotate_under_load())
    rotated = json.loads(printed)["rotated"]
    for entry in rotated:
        console.print(
            f"   {entry['service']:6} on {entry['host']:6} now serves {entry['serial'][:16]}"
        )
    holds(len(rotated) == 5, "five identities have new keys and certificates, seen on the wire")
    holds(
        not load.failures,
        f"{sum(load.failures.values())} of {load.total} requests failed meanwhile",
    )


def wait_healthy(directory: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        done = subprocess.run(
            [MESHCTL, "status", "-o", "json"], cwd=directory, capture_output=True, timeout=60
        )
        if done.returncode == 0:
            return
        time.sleep(0.2)
    raise SceneFailed("the mesh did not become healthy again")


def explain_keeping(directory: Path, ports: Ports) -> None:
    console.print(f"""
[bold]Left running.[/] To try:
   cd {directory}
   curl -s http://127.0.0.1:{ports.web_to_api}/   # as web calls api
   curl -s http://127.0.0.1:{ports.web}/   # the application web itself
   printf 'hello\\n' | nc -N 127.0.0.1 {ports.web_to_cache}   # as web calls cache, TCP
   curl -s http://127.0.0.1:{ports.admin[0]}/metrics   # what front's proxy counts
   {MESHCTL} status --watch
   {MESHCTL} uninstall --yes   # then end the applications: kill $(cat apps.pid)""")


def run(directory: Path, ports: Ports, apps: Apps) -> None:
    scene(1, "From an empty directory to a mesh")
    meshctl("init", ".", "--trust-domain", "demo.mesh", "--no-passphrase", cwd=directory)
    (directory / "inventory.yaml").write_text(inventory(directory / "hosts", ports))
    meshctl("bundle", "fetch", "-o", "json", cwd=directory, quiet=True)
    began = time.monotonic()
    for name in ("web", "api v1", "api v2", "users", "cache"):
        apps.start(name)
    show_deploy(meshctl("deploy", "--yes", "-o", "json", cwd=directory, quiet=True))
    wait_healthy(directory)
    console.print(f"   ready {time.monotonic() - began:.1f} s after the wheels were there")

    scene(2, "A request crosses two proxies; both ends have proven who they are")
    show_crossing(ports)
    scene(3, "Without a certificate, nothing gets in")
    show_refused_plaintext(ports)
    scene(4, "Load is balanced over the instances of a service")
    show_balancing(ports)
    scene(5, "TCP goes the same way")
    show_tcp(ports)
    scene(6, "An instance dies under load")
    show_survival(ports, apps)
    apps.start("api v2")
    wait_healthy(directory)
    scene(7, "Certificates are rotated under load")
    show_rotation(ports, directory)
    scene(8, "The whole mesh at a glance")
    meshctl("status", cwd=directory)
    scene(9, "Deploying again changes nothing")
    show_deploy(meshctl("deploy", "--yes", "-o", "json", cwd=directory, quiet=True))


def main() -> int:
    parser = argparse.ArgumentParser(description="Show the mesh on this machine.")
    parser.add_argument("--keep", action="store_true", help="leave it running and say what to try")
    keep: bool = parser.parse_args().keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="meshctl-demo-"))
    ports = Ports.pick()
    apps = Apps(ports)
    code = 1
    try:
        run(directory, ports, apps)
        code = 0
        console.print("\n[bold green]Everything held.[/]")
    except (SceneFailed, OSError, TimeoutError) as failure:
        console.print(f"\n[bold red]The demo failed:[/] {escape(str(failure))}")
        show_logs(directory)
    except KeyboardInterrupt:
        code = 130
    finally:
        if keep and code == 0:
            pids = " ".join(str(process.pid) for process in apps.running.values())
            (directory / "apps.pid").write_text(pids + "\n")
            explain_keeping(directory, ports)
        else:
            clean_up(directory, apps)
    return code


def show_logs(directory: Path) -> None:
    for log in sorted(directory.glob("hosts/*/var/log/*.log")):
        console.print(f"[dim]--- {log}[/]")
        for line in log.read_text(errors="replace").splitlines()[-15:]:
            console.print(f"[dim]{escape(line)}[/]")


def clean_up(directory: Path, apps: Apps) -> None:
    if (directory / "inventory.yaml").exists():
        subprocess.run(
            [MESHCTL, "uninstall", "--yes"], cwd=directory, capture_output=True, timeout=120
        )
    apps.stop()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
