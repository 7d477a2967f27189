"""Hosts as they should not be: refused before anything is sent, or reported with the fix."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture
def operator(lab: Any, tmp_path: Path) -> Iterator[Operator]:
    operator = Operator(lab=lab, directory=tmp_path)
    operator.run("init", ".", "--trust-domain", "lab.mesh", "--no-passphrase")
    yield operator
    # Nothing in here gets so far as to install anything.
    for host in lab.hosts[:1]:
        assert host.run("ls -d /opt/meshctl /etc/meshctl 2>/dev/null || true").stdout == ""


def one_host(lab: Any, *, user: str = "admin", known_hosts: str | None = "lab") -> str:
    known = f", known_hosts: {lab.known_hosts}" if known_hosts == "lab" else ""
    return f"""\
version: 1
ssh: {{user: {user}, key: {lab.key}{known}, connect_timeout: 5s}}
consul: {{mode: managed, package: {{binary: /bin/true}}}}
hosts:
  - name: one
    address: {lab.hosts[0].address}
    roles: [control, workload]
    services: [{{name: web, port: 8080, protocol: http, health: {{tcp: true}}}}]
"""


def findings(operator: Operator) -> list[dict[str, str]]:
    done = operator.run("check", "-o", "json", expect=1)
    entry = next(e for e in json.loads(done.stdout)["checked"] if e["subject"] == "one")
    return list(entry["findings"])


def test_an_unknown_host_key_is_refused_with_the_command_that_accepts_it(
    lab: Any, operator: Operator
) -> None:
    operator.inventory(one_host(lab, known_hosts=None))
    done = operator.run("deploy", "--yes", expect=3)
    assert "nothing was sent" in done.stdout + done.stderr
    assert "meshctl hosts trust one" in done.stdout + done.stderr
    trusted = json.loads(operator.run("hosts", "trust", "one", "--yes", "-o", "json").stdout)
    assert trusted[0]["fingerprint"].startswith("SHA256:")
    assert "Consul" not in operator.run("hosts", "trust", "one", "--yes").stderr
    assert operator.run("check", expect=None).returncode in (0, 1)


def test_a_changed_host_key_is_refused(lab: Any, operator: Operator) -> None:
    operator.inventory(one_host(lab, known_hosts=None))
    other = lab.hosts[1].host_key.split()
    known = operator.directory / ".meshctl" / "known_hosts"
    known.write_text(f"{lab.hosts[0].address} {other[0]} {other[1]}\n")
    known.chmod(0o600)
    done = operator.run("deploy", "--yes", expect=3)
    assert "HAS CHANGED" in done.stdout + done.stderr
    operator.run("hosts", "trust", "one", "--yes", expect=3)
    operator.run("hosts", "trust", "one", "--yes", "--replace")


def test_a_user_without_sudo_is_told_what_to_allow(lab: Any, operator: Operator) -> None:
    operator.inventory(one_host(lab, user="nosudo"))
    done = operator.run("deploy", "--yes", expect=None)
    assert done.returncode != 0
    assert "NOPASSWD" in done.stdout + done.stderr


def test_a_host_that_is_away_is_unreachable(lab: Any, operator: Operator) -> None:
    operator.inventory(one_host(lab))
    lab.hosts[0].cut()
    try:
        operator.run("deploy", "--yes", expect=4)
    finally:
        lab.hosts[0].heal()


@pytest.mark.parametrize(
    ("replacement", "says"),
    [
        (None, "no Python"),
        ('#!/bin/sh\ncase "$*" in *version.split*) echo 3.9.2;; *) exit 1;; esac\n', "3.9.2 only"),
    ],
)
def test_a_host_without_a_good_python_is_told_what_to_install(
    lab: Any, operator: Operator, replacement: str | None, says: str
) -> None:
    operator.inventory(one_host(lab))
    host = lab.hosts[0]
    host.run("mkdir /usr/bin/away && mv /usr/bin/python3* /usr/bin/away/")
    try:
        if replacement is not None:
            host.write("/usr/bin/python3", replacement, mode="0755")
        found = findings(operator)
        done = operator.run("deploy", "--yes", "-o", "json", expect=1)
    finally:
        host.run("rm -f /usr/bin/python3; mv /usr/bin/away/* /usr/bin/ && rmdir /usr/bin/away")
    assert any(says in finding["message"] for finding in found), found
    assert any("install python3.11" in finding["fix"] for finding in found)
    assert json.loads(done.stdout)["plan"]["hosts"][0]["verdict"] == "blocked"


def test_a_clock_that_is_off_blocks_a_deploy(lab: Any, operator: Operator) -> None:
    operator.inventory(one_host(lab))
    lab.hosts[0].set_clock(-300)
    try:
        found = findings(operator)
    finally:
        lab.hosts[0].set_clock(0)
    assert any("300 s behind" in finding["message"] for finding in found), found


def test_a_port_that_is_taken_names_who_has_it(lab: Any, operator: Operator) -> None:
    operator.inventory(one_host(lab))
    host = lab.hosts[0]
    host.run("systemd-run --quiet --unit=squatter python3 -m http.server 15006")
    try:
        ops.wait_for(
            lambda: any("15006" in finding["message"] for finding in findings(operator)),
            "the taken port is found",
        )
        taken = next(f for f in findings(operator) if "15006" in f["message"])
    finally:
        host.run("systemctl stop squatter")
    assert "python3" in taken["message"]


def test_a_disk_that_is_too_small_blocks_a_deploy(lab: Any, operator: Operator) -> None:
    operator.inventory(one_host(lab))
    host = lab.hosts[0]
    host.run("mount -t tmpfs -o size=50m tmpfs /opt")
    try:
        found = findings(operator)
    finally:
        host.run("umount /opt")
    assert any("are free for /opt/meshctl" in finding["message"] for finding in found), found


def test_a_second_meshctl_at_the_same_time_is_refused(lab: Any, operator: Operator) -> None:
    operator.inventory(one_host(lab))
    holder = subprocess.Popen(
        [ops.BIN / "python", "-c",
         "import sys, pathlib; from meshctl.state import StateDir\n"
         "with StateDir.open(pathlib.Path('.meshctl')).lock('meshctl deploy'):\n"
         "    print('held', flush=True); sys.stdin.read()"],
        cwd=operator.directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = operator.run("deploy", "--yes", expect=3)
        assert f"process {holder.pid}" in done.stderr
    finally:
        holder.communicate(timeout=10)
