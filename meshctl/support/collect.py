"""Asks all hosts, Consul and this machine for what a support bundle has.

Whatever cannot be had is noted, and the rest goes on: the bundle is wanted most when things fail.
"""

import asyncio
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from meshctl import __version__, durable
from meshctl.apply.consul_access import open_consul
from meshctl.apply.survey import Survey
from meshctl.errors import MeshError
from meshctl.facts.model import HostFacts
from meshctl.inventory.model import Host, Inventory
from meshctl.pki.store import CaStore
from meshctl.plan.desired import carries_proxy
from meshctl.state import RECORD_FILE, StateDir
from meshctl.support.archive import Archive
from meshctl.support.items import Item, items
from meshctl.telemetry import logs
from meshctl.telemetry.lines import Line
from meshctl.transport import Connector
from meshctl.transport.command import tail
from proxy.model.codec import encode, encode_readable
from proxy.model.names import HostName
from proxy.model.policy_keys import PolicyTrust

ITEM_S: Final = 45.0
HOST_S: Final = 240.0
LOG_LINES: Final = 20_000
"""Of all proxies together, the newest."""
ISSUED: Final = 5000
_MAX_FILE = 8 * 2**20
_KNOWN_FILES = ("consul/*.token", "consul/*/*.token", "**/gossip.key")


def known_secrets(state: StateDir, environment: Iterable[str]) -> Iterator[bytes]:
    """What stands nowhere on the list, but would be known if it came by another way.
    ``environment``: the values of variables that hold one."""
    for pattern in _KNOWN_FILES:
        for path in state.path.glob(pattern):
            try:
                yield durable.read(path, limit=4096).strip()
            except (OSError, MeshError):
                continue  # it cannot be read, so it has gone nowhere from here
    yield from (value.encode() for value in environment if value)


async def from_hosts(
    archive: Archive,
    hosts: tuple[Host, ...],
    connector: Connector,
    *,
    since_s: float,
    parallel: int,
    done: Callable[[], None],
) -> None:
    """``done`` is called after each host."""
    gate = asyncio.Semaphore(parallel)

    async def one(host: Host) -> None:
        async with gate:
            try:
                async with asyncio.timeout(HOST_S):
                    for item in items(host, since_s):
                        await _add(archive, host, item, connector)
            except TimeoutError:
                archive.lack(f"hosts/{host.name}", f"it took longer than {HOST_S:g} s")
            done()

    await asyncio.gather(*map(one, hosts))


async def _add(archive: Archive, host: Host, item: Item, connector: Connector) -> None:
    file = f"hosts/{host.name}/{item.file}"
    try:
        transport = await connector.connect(host.name)
        answer = await transport.run(item.argv, timeout_s=ITEM_S)
    except MeshError as error:
        archive.lack(file, str(error))
        return
    if answer.stdout:
        await archive.add_large(file, answer.stdout)
    if answer.exit_status:
        said = tail(answer.stderr).strip() or "it said nothing"
        archive.lack(file, f"exit code {answer.exit_status}: {said}")


async def proxy_logs(
    archive: Archive,
    hosts: tuple[Host, ...],
    connector: Connector,
    *,
    since_s: float,
    parallel: int,
) -> None:
    """The proxies' own lines, and those of calls that failed."""
    asked = tuple(host for host in hosts if carries_proxy(host))
    looked = await logs.look(
        asked, connector, since_s=since_s, most=LOG_LINES, is_wanted=_is_telling, parallel=parallel
    )
    lines: dict[HostName, list[bytes]] = {host.name: [] for host in asked}
    for line in looked.lines:
        lines[line.host].append(encode(line.document))
    for name, found in lines.items():
        file = f"hosts/{name}/proxy-log.jsonl"
        if name in looked.failures:
            archive.lack(file, str(looked.failures[name]))
        if found:
            await archive.add_large(file, b"\n".join(found) + b"\n")
    if looked.left_out:
        archive.lack("hosts/*/proxy-log.jsonl", f"{looked.left_out} older line(s) left out")


def _is_telling(line: Line) -> bool:
    if line.kind != "access":
        return True
    status, flag = line.fields.get("status"), line.fields.get("flag")
    is_good = isinstance(status, int) and 0 < status < 400
    return flag not in ("", "-", None) or not (is_good or line.fields.get("protocol") == "tcp")


def from_survey(archive: Archive, survey: Survey, status: object) -> None:
    """``status``: as ``meshctl status -o json`` has it."""
    archive.add("status.json", encode_readable(status))
    for name, facts in survey.gathered.facts.items():
        archive.add(f"hosts/{name}/facts.json", encode_readable(_facts(facts)))
    for name, error in survey.gathered.failures.items():
        archive.lack(f"hosts/{name}/facts.json", str(error))


def _facts(facts: HostFacts) -> dict[str, Any]:
    """What is encoded in them a second time is in the bundle as the proxy's own answer."""
    seen = facts.seen
    names = (
        *("python", "found", "machine", "libc", "os", "systemd", "is_root", "started", "ended"),
        *("disks", "listeners", "users", "releases", "configs", "consul_binaries", "current"),
        *("previous", "paths", "units", "identities", "lock"),
    )
    return {
        "clock_offset_s": facts.clock_offset_s,
        "consul": {
            "is_answering": seen.consul.is_answering,
            "leader": seen.consul.leader,
            "is_denied": seen.consul.is_denied,
        },
        **{name: getattr(seen, name) for name in names},
    }


async def from_consul(
    archive: Archive, inventory: Inventory, connector: Connector, trust: PolicyTrust
) -> None:
    """Through the first host whose agent answers."""
    why = "the inventory has no host"
    for host in inventory.hosts:
        try:
            async with (
                asyncio.timeout(ITEM_S),
                open_consul(inventory, connector, host.name) as edge,
            ):
                snapshot, _ = await edge.fetch_snapshot(trust)
                workloads = await edge.workloads()
                history = await edge.history(trust)
                leader = await edge.leader()
        except (MeshError, TimeoutError) as error:
            why = str(error) or f"{host.name} took longer than {ITEM_S:g} s"
            continue
        archive.add("consul/workloads.json", encode_readable(workloads))
        archive.add("consul/policy.json", encode_readable(snapshot))
        document = {"entries": history.entries, "unverified": history.unverified}
        archive.add("consul/history.json", encode_readable(document))
        archive.add("consul/leader.json", encode_readable({"leader": leader, "asked": host.name}))
        return
    archive.lack("consul", why)


def from_here(archive: Archive, inventory: Inventory, state: StateDir, mesh_file: Path) -> None:
    """From this machine: texts that the operator wrote, and what was signed."""
    versions = {
        "meshctl": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "trust_domain": state.trust_domain,
        "mesh_created": state.created,
    }
    archive.add("operator/versions.json", encode_readable(versions))
    for name, path in (
        ("inventory.yaml", inventory.source),
        ("mesh.yaml", mesh_file),
        (RECORD_FILE, state.path / RECORD_FILE),
    ):
        file = f"operator/{name}"
        try:
            archive.add(file, durable.read(path, limit=_MAX_FILE))
        except FileNotFoundError:
            continue  # the defaults hold, or nothing was deployed
        except MeshError as error:
            archive.lack(file, str(error))
    try:
        issued = CaStore.open(state).issued.newest(ISSUED)
        lines = b"".join(encode(each) + b"\n" for each in issued.entries)
        archive.add("operator/issued.jsonl", lines)
    except MeshError as error:
        archive.lack("operator/issued.jsonl", str(error))
