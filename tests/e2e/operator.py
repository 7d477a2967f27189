"""An operator at work on the lab's hosts: commands and files, and nothing else.

Commands run in the lab's operator namespace, where there are the hosts and no internet.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).with_name("programs")
APP = REPOSITORY / "scripts" / "demokit" / "app.py"
BIN = Path(sys.executable).parent
COMMAND_S = 300.0
WEB_TO_API, WEB_TO_CACHE, WEB_TO_NGINX = 9001, 9002, 9003
INBOUND = 15006


@dataclass(frozen=True, kw_only=True)
class Operator:
    """A mesh's directory, and the ``meshctl`` that works in it."""

    lab: Any
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def words(self, *arguments: str, program: Path | None = None) -> list[str]:
        command = [str(BIN / "meshctl")] if program is None else [sys.executable, str(program)]
        return list(self.lab.operator_command([*command, *arguments]))

    def run(
        self, *arguments: str, expect: int | None = 0, program: Path | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(*arguments, program=program),
            cwd=self.directory,
            env={**os.environ, **self.environment, **extra, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        if expect is not None:
            assert done.returncode == expect, (
                f"meshctl {shlex.join(arguments)}: exit code {done.returncode}, not {expect}\n"
                f"{done.stdout}\n{done.stderr}"
            )
        return done

    def json(self, *arguments: str, expect: int | None = 0) -> Any:
        return json.loads(self.run(*arguments, "-o", "json", expect=expect).stdout)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """In the background, to be interrupted."""
        return subprocess.Popen(
            self.words(*arguments),
            cwd=self.directory,
            env={**os.environ, **self.environment, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def inventory(self, text: str) -> None:
        (self.directory / "inventory.yaml").write_text(text)

    def wait_well(self, deadline_s: float = 60.0) -> Any:
        """The first ``status`` without a problem; what was wrong last, if there is none."""
        deadline = time.monotonic() + deadline_s
        while True:
            done = self.run("status", "-o", "json", expect=None)
            if done.returncode == 0:
                return json.loads(done.stdout)
            assert time.monotonic() < deadline, f"never well: {done.stdout}{done.stderr}"
            time.sleep(0.5)


def wait_for(condition: Callable[[], bool], what: str, deadline_s: float = 30.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.2)


def inventory(
    lab: Any, consul: str, *, drain: str = "10s", extra: str = "", control: int = 3
) -> str:
    """web on mesh1; api on mesh2 and mesh3; nginx on mesh2; cache (TCP) on mesh3. The first
    ``control`` of them are control hosts."""
    one, two, three = (host.address for host in lab.hosts[:3])
    roles = ["[control, workload]" if number < control else "[workload]" for number in range(3)]
    return f"""\
version: 1
ssh: {{user: admin, key: {lab.key}, known_hosts: {lab.known_hosts}}}
consul:
{consul}
proxy: {{drain: {drain}}}
defaults:
  health: {{tcp: true, interval: 1s}}
hosts:
  - name: {lab.hosts[0].name}
    address: {one}
    roles: {roles[0]}
    services:
      - name: web
        port: 8080
        protocol: http
        upstreams:
          - {{service: api, port: {WEB_TO_API}}}
          - {{service: cache, port: {WEB_TO_CACHE}}}
          - {{service: static, port: {WEB_TO_NGINX}}}
  - name: {lab.hosts[1].name}
    address: {two}
    roles: {roles[1]}
    services:
      - name: api
        port: 8081
        protocol: http
        version: v1
        health: {{http: /healthz, interval: 1s}}
      - {{name: static, port: 80, protocol: http}}
  - name: {lab.hosts[2].name}
    address: {three}
    roles: {roles[2]}
    services:
      - name: api
        port: 8081
        protocol: http
        version: v2
        health: {{http: /healthz, interval: 1s}}
      - {{name: cache, port: 7000, protocol: tcp}}
{extra}"""


def install_applications(lab: Any) -> None:
    """As units of their own, which start at boot, after the mesh, as the README says."""
    app = APP.read_text()
    load = (PROGRAMS / "load.py").read_text()
    for host, name, arguments in (
        (lab.hosts[0], "web", "http --name web --port 8080"),
        (lab.hosts[1], "api", "http --name api --version v1 --port 8081"),
        (lab.hosts[2], "api", "http --name api --version v2 --port 8081"),
        (lab.hosts[2], "cache", "tcp --name cache --port 7000"),
    ):
        host.write("/srv/app.py", app)
        host.write("/srv/load.py", load)
        host.write(
            f"/etc/systemd/system/app-{name}.service",
            "[Unit]\nWants=meshctl-proxy.service\nAfter=meshctl-proxy.service\n"
            f"[Service]\nExecStart=/usr/bin/python3 /srv/app.py {arguments}\nRestart=always\n"
            "RestartSec=0.2\n[Install]\nWantedBy=multi-user.target\n",
        )
        host.run(f"systemctl daemon-reload && systemctl enable --quiet --now app-{name}")
    lab.hosts[1].run("systemctl enable --quiet --now nginx")


def fetch_wheels(operator: Operator) -> None:
    """Outside the operator's namespace, which has no internet: as on a machine with one."""
    subprocess.run(
        [BIN / "meshctl", "bundle", "fetch", "--python", "3.11", "--glibc", "2.36"],
        cwd=operator.directory,
        check=True,
        capture_output=True,
        timeout=COMMAND_S,
    )


def push(lab: Any, host: Any, file: Path, path: str) -> None:
    """Copy a program to a host, as root."""
    with file.open("rb") as data:
        subprocess.run(
            [str(REPOSITORY / "scripts" / "lab"), "ssh", "-l", "root", host.name,
             f"cat >{path}.new && chmod 755 {path}.new && mv {path}.new {path}"],
            stdin=data,
            check=True,
            timeout=COMMAND_S,
        )  # fmt: skip


def remove_applications(lab: Any) -> None:
    for host in lab.hosts[:3]:
        host.run(
            "for unit in /etc/systemd/system/app-*.service; do [ -e $unit ] || continue; "
            'systemctl disable --quiet --now $(basename $unit); rm -f "$unit"; done; '
            "systemctl daemon-reload; rm -f /srv/app.py /srv/load.py",
        )
    lab.hosts[1].run("systemctl disable --quiet --now nginx")


def call(lab: Any, port: int = WEB_TO_API, path: str = "/") -> Any:
    """As the application web on its host calls an upstream; the answer's document."""
    done = lab.hosts[0].run(f"curl -sS --max-time 20 -f http://127.0.0.1:{port}{path}")
    return json.loads(done.stdout)


@contextlib.contextmanager
def load(
    host: Any,
    *,
    requests: int,
    port: int = WEB_TO_API,
    extra: str = "",
    scheme: str = "http",
    name: str = "load",
) -> Iterator[Any]:
    """Requests from an external client on ``host`` while the block runs, and until there were
    enough; yields a mapping that has the client's own count afterwards."""
    flag = f"/run/{name}-ends"
    host.run(f"rm -f {flag}")
    words = (
        f"python3 /srv/load.py {scheme}://127.0.0.1:{port}/ --requests {requests} "
        f"--until {flag} {extra}"
    )
    client = subprocess.Popen(
        [str(REPOSITORY / "scripts" / "lab"), "ssh", "-l", "root", host.name, words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    result: dict[str, Any] = {}
    try:
        yield result
    finally:
        host.run(f"touch {flag}")
        out, err = client.communicate(timeout=300)
        assert client.returncode == 0, err
        result.update(json.loads(out))


@contextlib.contextmanager
def mixed_load(host: Any, *, pause_s: float = 0.02) -> Iterator[dict[str, Any]]:
    """Reads, uploads, short TCP sessions, and one TCP session that lives as long as the block;
    yields each client's own count by its name afterwards."""
    pause = f"--pause {pause_s}"
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for name, port, scheme, extra in (
            ("reads", WEB_TO_API, "http", f"--workers 6 {pause}"),
            ("uploads", WEB_TO_API, "http", f"--workers 2 {pause} --method POST --body 65536"),
            ("sessions", WEB_TO_CACHE, "tcp", f"--workers 4 {pause} --lines 50"),
            ("one-session", WEB_TO_CACHE, "tcp", f"--workers 1 {pause} --lines 0"),
        ):
            results[name] = stack.enter_context(
                load(host, requests=100, port=port, scheme=scheme, extra=extra, name=name)
            )
        yield results


def count_keys(data: bytes) -> int:
    """Private keys of any encoding in PEM form."""
    return len(re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", data))


def many(lab: Any, count: int, url: str = f"http://127.0.0.1:{WEB_TO_API}/") -> list[str]:
    """Versions of the instances that answered, and statuses other than 200; eight callers."""
    one = f"curl -sS --max-time 20 -w '\\n%{{http_code}}\\n' {shlex.quote(url)}"
    lines = lab.hosts[0].run(f"seq {count} | xargs -P 8 -I+ {one}").stdout.splitlines()
    versions = [json.loads(line)["version"] for line in lines if line.startswith("{")]
    return versions + [line for line in lines if line.isdigit() and line != "200"]
