"""Log files of local hosts, read once and followed, by the programs that are there."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ports import free_ports

from meshctl.apply.steps import log_file
from meshctl.errors import MeshError
from meshctl.inventory.model import Inventory
from meshctl.inventory.parse import parse
from meshctl.layout import Layout
from meshctl.telemetry.lines import Line
from meshctl.telemetry.logs import following, look, sources
from meshctl.transport.connect import Connections
from proxy.model.names import HostName

DEADLINE_S = 60
NOW = datetime.now(UTC)


def stamp(seconds_ago: float) -> str:
    moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def call(ago: float, service: str = "api", **more: Any) -> str:
    fields = {"ts": stamp(ago), "log": "access", "caller": "web", "service": service, **more}
    return json.dumps(fields) + "\n"


def own(ago: float, msg: str) -> str:
    return json.dumps({"ts": stamp(ago), "level": "info", "logger": "x", "msg": msg}) + "\n"


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    ports = free_ports(6)
    hosts = "".join(
        f"""\
  - name: {name}
    transport: local
    root: {tmp_path}/{name}
    proxy: {{admin_port: {ports[3 * number]}, inbound_port: {ports[3 * number + 1]}}}
    services: [{{name: {service}, port: {ports[3 * number + 2]}}}]
"""
        for number, (name, service) in enumerate((("one", "api"), ("two", "db")))
    )
    text = f'version: 1\nconsul: {{mode: embedded, address: "http://127.0.0.1:1"}}\nhosts:\n{hosts}'
    made = parse(text, tmp_path / "inventory.yaml")
    for host in made.hosts:
        for path in (access(host.root), Path(log_file(host))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return made


def access(root: str) -> Path:
    return Path(Layout(root).access_log)


@pytest.fixture
def connections(inventory: Inventory, tmp_path: Path) -> Connections:
    return Connections(inventory.hosts, known_hosts=tmp_path / "known_hosts")


def names(lines: tuple[Line, ...] | list[Line]) -> list[str]:
    return [str(line.fields.get("n") or line.fields.get("msg") or line.text) for line in lines]


async def test_files_of_all_hosts_are_one_list_by_time(
    inventory: Inventory, connections: Connections
) -> None:
    one, two = inventory.hosts
    rotated = access(one.root)
    rotated.with_name("access.log.1").write_text(call(50, n=1))
    rotated.write_text(call(9000, n=0) + call(30, n=3) + call(20, n=4))
    Path(log_file(one)).write_text(own(40, "mine"))
    access(two.root).write_text(call(25, n="between") + "GET /a 200 by a template\n")
    looked = await look(
        inventory.hosts, connections, since_s=600, most=100, is_wanted=lambda _: True, parallel=2
    )
    assert names(looked.lines) == [
        "1", "mine", "3", "between", "GET /a 200 by a template", "4",
    ]  # fmt: skip
    assert (looked.left_out, looked.failures) == (0, {})
    some = await look(
        inventory.hosts, connections, since_s=600, most=2, parallel=2,
        is_wanted=lambda line: line.fields.get("service") == "api",
    )  # fmt: skip
    assert names(some.lines) == ["between", "4"]
    assert some.left_out == 2


async def test_lines_are_followed_over_a_rotation_and_late_ones_are_put_in_place(
    inventory: Inventory, connections: Connections
) -> None:
    one, two = inventory.hosts
    access(one.root).write_text(call(100, n="before"))
    failures: list[tuple[HostName, MeshError]] = []
    seen: list[Line] = []
    async with (
        asyncio.timeout(DEADLINE_S),
        following(
            inventory.hosts, connections, since_s=0.0, is_wanted=lambda _: True,
            failed=lambda host, error: failures.append((host, error)),
        ) as lines,
    ):  # fmt: skip
        # Until every tail has begun, nobody knows of what is written: say it again.
        numbers = iter(range(100_000))
        writing = asyncio.create_task(_write(one.root, two.root, numbers))
        await _until(lines, seen, {"one", "two"})
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        path = access(one.root)
        path.rename(path.with_name("access.log.1"))
        path.write_text(call(0.0, n="after the rotation"))
        async for line in lines:
            seen.append(line)
            if line.fields.get("n") == "after the rotation":
                break
    assert failures == []
    assert "before" not in names(seen)
    for host in ("one", "two"):
        told = [line.fields["n"] for line in seen if line.host == host]
        told = [each for each in told if isinstance(each, int)]
        assert told == sorted(told)


async def _write(one: str, two: str, numbers: Any) -> None:
    while True:
        for root in (one, two):
            with access(root).open("a") as file:
                file.write(call(0.0, n=next(numbers)))
        await asyncio.sleep(0.05)


async def _until(lines: Any, seen: list[Line], hosts: set[str]) -> None:
    async for line in lines:
        seen.append(line)
        if hosts <= {each.host for each in seen}:
            return


async def test_a_host_that_cannot_be_asked_is_named_and_the_others_are_read(
    inventory: Inventory, tmp_path: Path
) -> None:
    one, two = inventory.hosts
    access(one.root).write_text(call(5, n=1))
    only_one = Connections([one], known_hosts=tmp_path / "known_hosts")
    looked = await look(
        [one, two], only_one, since_s=600, most=10, is_wanted=lambda _: True, parallel=2
    )
    assert names(looked.lines) == ["1"]
    assert list(looked.failures) == ["two"]


def test_a_host_with_systemd_is_asked_by_its_journal_and_for_its_file(inventory: Inventory) -> None:
    text = inventory.source.parent / "ssh.yaml"
    ssh = parse(
        "version: 1\nconsul: {mode: existing}\nhosts: [{name: a, address: 10.0.0.1,"
        " services: [{name: api, port: 80}]}]\n",
        text,
    ).hosts[0]
    journal, file = sources(ssh, 90.0, is_following=True)
    assert journal.argv[:3] == ("journalctl", "--unit", "meshctl-proxy.service")
    assert "--since=-90000ms" in journal.argv
    assert "--follow" in journal.argv
    assert file.argv[-1] == "/var/log/meshctl/access.log"
    assert "--follow" not in sources(ssh, 90.0, is_following=False)[0].argv
