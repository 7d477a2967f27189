"""What of a host's facts stands in the way of deploying to it: each with its fix. Pure.

A finding blocks its own host only. What a deploy would repair by itself is not a finding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from meshctl.facts.model import HostFacts, Listener, Observation
from meshctl.facts.request import lock_path, uses_systemd
from meshctl.inventory.model import ConsulMode, Host, Inventory, Role
from meshctl.layout import CONSUL_UNIT, PROXY_UNIT, SIGNER_ADMIN_PORT, SIGNER_UNIT

MIN_SYSTEMD = 247
"""Debian 11, the oldest whose sandboxing options the units use (ProtectProc=, 247)."""
MIN_FREE_BYTES = 300 * 1024 * 1024
"""Two releases of about 50 MB, a managed Consul of 120 MB, and room to write a state."""
MAX_CLOCK_OFFSET_S = 30.0
"""Leaves are backdated by a minute; half of it leaves the same to the other end."""
MACHINES = ("x86_64", "aarch64")
_SYSTEMD_STATES = ("running", "degraded", "starting", "initializing")


class Code(StrEnum):
    """Stable names, for programs that read ``-o json``."""

    PYTHON = "python"
    MACHINE = "machine"
    LIBC = "libc"
    SYSTEMD = "systemd"
    ROOT = "root"
    PORT = "port"
    DISK = "disk"
    CLOCK = "clock"
    CONSUL = "consul"
    BUNDLE = "bundle"
    LOCK = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    code: Code
    message: str
    """What is wrong, with the observed value."""
    fix: str
    """What to do about it, as an instruction."""


def examine(inventory: Inventory, host: Host, facts: HostFacts, owner: str) -> tuple[Finding, ...]:
    """All findings of ``host``; ``owner`` is our name in deploy locks."""
    seen = facts.seen
    findings = [*_interpreter(seen), *_privilege(host, seen)]
    if seen.python is not None:
        findings += [
            *_systemd(host, seen),
            *_ports(inventory, host, facts),
            *_disk(seen),
            *_consul(inventory, host, seen),
            *_lock(host, seen, owner),
        ]
    findings += _clock(facts)
    return tuple(findings)


def _interpreter(seen: Observation) -> Iterator[Finding]:
    if seen.python is None:
        has = f"Python {seen.found} only" if seen.found else "no Python"
        yield Finding(
            code=Code.PYTHON,
            message=f"{has}: CPython 3.11 or later is needed",
            fix="install python3.11 or later from the distribution, on PATH",
        )
    if seen.machine not in MACHINES:
        yield Finding(
            code=Code.MACHINE,
            message=f"the architecture is {seen.machine}",
            fix=f"use a host that is {' or '.join(MACHINES)}",
        )
    if seen.python is not None and not seen.libc.startswith("glibc"):
        yield Finding(
            code=Code.LIBC,
            message=f"the C library is {seen.libc.strip() or 'not glibc'}",
            fix="use a distribution with glibc; musl is not supported yet",
        )


def _privilege(host: Host, seen: Observation) -> Iterator[Finding]:
    if uses_systemd(host) and not seen.is_root:
        yield Finding(
            code=Code.ROOT,
            message=f"{host.ssh.user} is not root and did not become root",
            fix="set ssh.become: sudo, and allow the user to run sudo without a password",
        )


def _systemd(host: Host, seen: Observation) -> Iterator[Finding]:
    if not uses_systemd(host):
        return
    if seen.systemd is None:
        yield Finding(
            code=Code.SYSTEMD,
            message="systemd does not run this host",
            fix=f"use a host that boots with systemd {MIN_SYSTEMD} or later",
        )
    elif seen.systemd.version < MIN_SYSTEMD:
        yield Finding(
            code=Code.SYSTEMD,
            message=f"systemd is version {seen.systemd.version}",
            fix=f"upgrade to a distribution with systemd {MIN_SYSTEMD} or later",
        )
    elif seen.systemd.state not in _SYSTEMD_STATES:
        yield Finding(
            code=Code.SYSTEMD,
            message=f"systemd is in state {seen.systemd.state or 'unknown'}",
            fix="see what `systemctl is-system-running` and `systemctl list-jobs` say on the host",
        )


def _ports(inventory: Inventory, host: Host, facts: HostFacts) -> Iterator[Finding]:
    for listener in facts.seen.listeners:
        if _is_ours(listener, facts):
            continue
        what = next(
            (
                f"port {listener.port}, which reaches {use.service} for {service.name},"
                for service in host.services
                for use in service.upstreams
                if use.port == listener.port
            ),
            f"port {listener.port}, which the mesh proxy needs,",
        )
        fix = f"stop that process, or give {host.name} another port in the inventory"
        for service in host.services:
            if service.outbound_port == listener.port:
                what = f"port {listener.port}, which reaches {service.name}'s upstreams by name,"
                fix = f"stop that process, or set outbound_port of {service.name} (a port, or none)"
            if service.plaintext_port == listener.port:
                what = f"port {listener.port}, where {service.name} is served in plain text,"
        if host.metrics.sources and listener.port == host.metrics.port:
            what = f"port {listener.port}, where the proxy's metrics are read,"
            fix = "stop that process, or set metrics.port"
        if host in inventory.signer_hosts:
            if listener.port == inventory.certificates.signer_port:
                what = f"port {listener.port}, where the signer listens,"
                fix = "stop that process, or set certificates.signer_port"
            elif listener.port == SIGNER_ADMIN_PORT:
                what = f"port {listener.port}, the signer's admin port,"
                fix = "stop that process"
        by = f"{listener.process} (process {listener.pid})" if listener.process else "a process"
        yield Finding(code=Code.PORT, message=f"{what} is in use by {by}", fix=fix)


def _is_ours(listener: Listener, facts: HostFacts) -> bool:
    unit = facts.unit(PROXY_UNIT)
    if listener.pid == 0 and unit is not None and unit.active in ("activating", "deactivating"):
        return True  # gone while it was being looked at: our own, which is just starting or ending
    # The control group too: an old process still draining is not the unit's main one.
    return (unit is not None and unit.pid != 0 and unit.pid == listener.pid) or any(
        listener.group.endswith(f"/{name}") for name in (PROXY_UNIT, CONSUL_UNIT, SIGNER_UNIT)
    )


def _disk(seen: Observation) -> Iterator[Finding]:
    for path, free in seen.disks.items():
        if free < MIN_FREE_BYTES:
            yield Finding(
                code=Code.DISK,
                message=f"{free // 1024**2} MB are free for {path}",
                fix=f"free at least {MIN_FREE_BYTES // 1024**2} MB on that file system",
            )


def _clock(facts: HostFacts) -> Iterator[Finding]:
    offset = facts.clock_offset_s
    if abs(offset) > MAX_CLOCK_OFFSET_S:
        side = "ahead of" if offset > 0 else "behind"
        yield Finding(
            code=Code.CLOCK,
            message=f"the clock is {abs(offset):.0f} s {side} this machine's",
            fix="synchronise the clocks of both (chrony, systemd-timesyncd): certificates need it",
        )


def _consul(inventory: Inventory, host: Host, seen: Observation) -> Iterator[Finding]:
    consul = inventory.consul
    is_missing = consul.mode is ConsulMode.EXISTING and not seen.consul.is_answering
    # Blocks an installation only: a mesh that runs must stay repairable with Consul gone.
    # A signer alone needs nothing of it.
    if is_missing and not seen.current and Role.WORKLOAD in host.roles:
        yield Finding(
            code=Code.CONSUL,
            message=f"no Consul agent answers at {consul.address}",
            fix="start the agent on the host, correct consul.address, or set consul.mode: managed",
        )


def _lock(host: Host, seen: Observation, owner: str) -> Iterator[Finding]:
    lock = seen.lock
    if lock is not None and lock.owner and lock.owner != owner and lock.until > seen.ended:
        yield Finding(
            code=Code.LOCK,
            message=f"{lock.owner} is deploying to this host",
            fix=f"wait until it has ended; if it is gone, the lock ends in"
            f" {lock.until - seen.ended:.0f} s, or remove {lock_path(host)} on the host",
        )
