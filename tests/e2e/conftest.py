"""The lab for end-to-end tests: hosts that ``scripts/lab`` booted, reached as a person would.

A test that asks for ``lab`` gets the marker ``lab`` and time enough for the first build of the
base image. A lab that is up is used and left; one brought up here is taken down. Where no lab can
run the tests are skipped with the reason, unless MESHCTL_REQUIRE_LAB=1 says that this is a fault.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e import operator as ops

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "lab"
HOSTS = 3
UP_DEADLINE_S = 1500
UNAVAILABLE = 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.lab)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(UP_DEADLINE_S + 300))


def lab_command(*words: str, timeout_s: float = 150) -> subprocess.CompletedProcess[str]:
    """``scripts/lab WORDS``, to its end; the caller looks at the exit code."""
    return subprocess.run(
        [str(SCRIPT), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _done(*words: str, timeout_s: float = 150) -> str:
    result = lab_command(*words, timeout_s=timeout_s)
    assert result.returncode == 0, f"lab {' '.join(words)}: {result.stderr}"
    return result.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class LabHost:
    """One systemd host."""

    name: str
    address: str
    ssh_port: int
    user: str
    """A login that has to use sudo; ``run`` can also be root, or ``nosudo`` who may not."""
    key: str
    host_key: str

    def run(
        self, command: str, *, user: str = "root", check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host over SSH."""
        result = lab_command("ssh", "-l", user, self.name, command, timeout_s=timeout_s)
        if check:
            assert result.returncode == 0, f"{self.name}: {command}: {result.stderr}"
        return result

    def write(self, path: str, text: str, *, mode: str = "0644") -> None:
        """Put a file on the host."""
        quoted = shlex.quote(path)
        self.run(f"printf %s {shlex.quote(text)} >{quoted} && chmod {mode} {quoted}")

    def boot_id(self) -> str:
        return self.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()

    def reboot(self) -> None:
        _done("reboot", self.name)

    def stop(self, *, hard: bool = False) -> None:
        _done("stop", *(["--hard"] if hard else []), self.name)

    def start(self) -> None:
        _done("start", self.name)

    def cut(self) -> None:
        _done("cut", self.name)

    def heal(self) -> None:
        _done("heal", self.name)

    def set_clock(self, offset_s: int) -> None:
        _done("clock", self.name, str(offset_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The hosts, and the place of the operator among them."""

    hosts: tuple[LabHost, ...]
    namespace: str
    gateway: str
    """The operator's own address, as the hosts see it."""
    key: str
    known_hosts: str

    def operator(
        self, command: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine in the operator's network namespace."""
        result = lab_command("exec", *command, timeout_s=timeout_s)
        if check:
            assert result.returncode == 0, f"{' '.join(command)}: {result.stdout}{result.stderr}"
        return result

    def operator_command(self, command: Sequence[str]) -> list[str]:
        """The same as words, for a test that runs it in the background itself."""
        return [str(SCRIPT), "exec", *command]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three hosts or more that answer SSH; shared, so a test leaves them as it found them."""
    checked = lab_command("check")
    if checked.returncode == UNAVAILABLE:
        reason = f"no lab on this machine: {checked.stderr.strip().removeprefix('lab: ')}"
        if os.environ.get("MESHCTL_REQUIRE_LAB") == "1":
            pytest.fail(f"{reason} (MESHCTL_REQUIRE_LAB=1)", pytrace=False)
        pytest.skip(reason)
    up = lab_command("status", "--json")
    there = len(json.loads(up.stdout)) if up.returncode == 0 else 0
    try:
        described = json.loads(
            _done("up", str(max(HOSTS, there)), "--json", timeout_s=UP_DEADLINE_S)
        )
        yield Lab(
            hosts=tuple(LabHost(**host) for host in described["hosts"]),
            namespace=described["namespace"],
            gateway=described["gateway"],
            key=described["key"],
            known_hosts=described["known_hosts"],
        )
    finally:
        if not there:
            _done("down")


@pytest.fixture(scope="session")
def consul_binary() -> str:
    """A real Consul. Without one the tests are skipped, unless MESHCTL_REQUIRE_CONSUL=1."""
    found = subprocess.run(
        [str(SCRIPT.with_name("fetch-consul"))], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        reason = f"no Consul binary: {found.stderr.strip()}"
        if os.environ.get("MESHCTL_REQUIRE_CONSUL") == "1":
            pytest.fail(f"{reason} (MESHCTL_REQUIRE_CONSUL=1)", pytrace=False)
        pytest.skip(reason)
    return found.stdout.strip()


CONSUL_UNIT = """\
[Unit]
After=network-online.target
[Service]
ExecStart=/usr/local/bin/consul agent -config-dir=/etc/consul.d -data-dir=/var/lib/consul
Restart=always
[Install]
WantedBy=multi-user.target
"""


LEADER = "curl -sS http://127.0.0.1:8500/v1/status/leader | grep -q 8300 && echo true || true"


@pytest.fixture(scope="module")
def agents(lab: Any, consul_binary: str) -> Iterator[None]:
    """As an operator without meshctl would have set them up; with an api of their own."""
    ops.install_applications(lab)
    hosts = lab.hosts[:3]
    for number, host in enumerate(hosts):
        config: dict[str, Any] = {
            "node_name": f"node-{number}",
            "bind_addr": host.address,
            "retry_join": [hosts[0].address],
            "server": number == 0,
            "services": [{"name": "api", "port": 8081}] if number else [],
        }
        if number == 0:
            config["bootstrap_expect"] = 1
        host.run("mkdir -p /etc/consul.d")
        host.write("/etc/consul.d/agent.json", json.dumps(config))
        host.write("/etc/systemd/system/consul.service", CONSUL_UNIT)
        ops.push(lab, host, Path(consul_binary), "/usr/local/bin/consul")
        host.run("systemctl daemon-reload && systemctl enable --quiet --now consul")
    try:
        ops.wait_for(lambda: "true" in hosts[2].run(LEADER).stdout, "the agents have a leader")
        yield
    finally:
        for host in hosts:
            host.run(
                "systemctl disable --quiet --now consul; rm -rf /etc/consul.d /var/lib/consul "
                "/etc/systemd/system/consul.service /usr/local/bin/consul; systemctl daemon-reload"
            )
        ops.remove_applications(lab)
