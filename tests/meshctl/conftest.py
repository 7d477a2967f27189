"""A small mesh as values: inventory, what it should be, and facts of hosts in any condition."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest

from meshctl import artifacts
from meshctl.artifacts import ManagedConsul
from meshctl.bundle.model import Bundle, Target, Wheel
from meshctl.facts.model import (
    ConfigDirectory,
    ConsulFact,
    HostFacts,
    Identity,
    Interpreter,
    Observation,
    PathFact,
    RunningIdentity,
    RunningProxy,
    RunningWorkload,
    Systemd,
    Unit,
    WheelFile,
)
from meshctl.facts.request import layout_of, uses_systemd
from meshctl.inventory.model import Host, Inventory
from meshctl.inventory.parse import parse
from meshctl.layout import CONSUL_UNIT, CONSUL_USER, PROXY_UNIT, PROXY_USER
from meshctl.plan import consul as consul_plan
from meshctl.plan import proxy as proxy_plan
from meshctl.plan.desired import Desired
from proxy.model.codec import encode
from proxy.model.names import HostName, TrustDomain, spiffe_id
from proxy.model.policy import Policy, Snapshot
from proxy.model.status import IdentityStatus

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
TRUST_DOMAIN = TrustDomain("mesh.test")
ISSUER = "ab" * 32
TRUST_BUNDLE = b"-----BEGIN CERTIFICATE-----\nroot\n-----END CERTIFICATE-----\n"

INVENTORY = """\
version: 1
consul: {mode: existing}
hosts:
  - name: front
    address: 10.0.0.1
    services:
      - name: web
        port: 8080
        protocol: http
        upstreams: [{service: api, port: 9001}]
  - name: back
    address: 10.0.0.2
    services:
      - {name: api, port: 8090, protocol: http, version: v2}
      - {name: users, port: 5432}
"""
MANAGED = INVENTORY.replace(
    "{mode: existing}", "{mode: managed, package: {binary: ./consul}}"
).replace("    address: 10.0.0.1", "    address: 10.0.0.1\n    roles: [control, workload]")


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that a plan depends on; ``facts`` as if nothing had ever been deployed."""

    inventory: Inventory
    desired: Desired

    def host(self, name: str) -> Host:
        return next(host for host in self.inventory.hosts if host.name == name)

    def fresh(self, name: str, **changes: Any) -> HostFacts:
        host = self.host(name)
        layout = layout_of(host)
        seen = Observation(
            python=Interpreter(
                executable="/usr/bin/python3", version=(3, 11, 2), implementation="cpython"
            ),
            found="3.11.2",
            machine="x86_64",
            libc="glibc 2.36",
            os="Debian GNU/Linux 12 (bookworm)",
            systemd=Systemd(version=252, state="running"),
            is_root=True,
            started=NOW.timestamp(),
            ended=NOW.timestamp(),
            disks={layout.prefix: 10**10, layout.state: 10**10},
            consul=ConsulFact(is_answering=True, leader="10.0.0.1:8300", is_snapshot_known=True),
        )
        return HostFacts(
            seen=msgspec.structs.replace(seen, **changes), clock_offset_s=0.1, proxy=None
        )

    def deployed(self, name: str, **changes: Any) -> HostFacts:
        """As the probe finds it after a successful deploy."""
        host = self.host(name)
        layout = layout_of(host)
        bundle = self.desired.bundles[host.name]
        settings = artifacts.settings(
            self.inventory, host, trust_domain=TRUST_DOMAIN, release=bundle.digest
        )
        files = artifacts.config_files(settings, self.desired.trust_bundle, layout)
        directories = proxy_plan.proxy_directories(host, layout)
        rendered = [artifacts.proxy_unit(host, settings)]
        units = {PROXY_UNIT: unit()}
        if self.desired.consul is not None:
            directories += consul_plan.consul_directories(layout)
            rendered += artifacts.consul_files(self.inventory, host, self.desired.consul)
            units[CONSUL_UNIT] = unit()
        paths = {
            made.path: PathFact(mode=made.mode, owner=made.owner, sha256="") for made in directories
        }
        for file in rendered:
            paths[file.path] = PathFact(mode=file.mode, owner=file.owner, sha256=file.sha256)
        if self.desired.consul is not None:
            binary = artifacts.consul_binary(self.desired.consul, layout)
            paths[binary] = PathFact(mode=0o755, owner="root", sha256="")
        identities = tuple(identity(workload.service) for workload in settings.workloads)
        snapshot = Snapshot(generation=3, trust_domain=TRUST_DOMAIN, policy=self.desired.policy)
        seen = {
            "users": {PROXY_USER: 998, CONSUL_USER: 997},
            "wheels": {
                wheel.name: WheelFile(size=wheel.size, sha256=wheel.sha256)
                for wheel in bundle.wheels
            },
            "releases": {bundle.digest: True},
            "configs": {
                settings.config: ConfigDirectory(
                    files={file.path.rpartition("/")[2]: file.sha256 for file in files},
                    release=bundle.digest,
                )
            },
            "current": settings.config,
            "paths": paths,
            "units": units if uses_systemd(host) else {PROXY_UNIT: unit()},
            "identities": identities,
            "consul": ConsulFact(is_answering=True, leader="x", snapshot=encode(snapshot)),
            **changes,
        }
        proxy = RunningProxy(
            release=bundle.digest,
            config=settings.config,
            state="ready",
            generation=3,
            workloads=tuple(
                RunningWorkload(
                    service=fact.service,
                    identity=RunningIdentity(serial=fact.identity.serial)
                    if fact.identity
                    else None,
                )
                for fact in identities
            ),
        )
        return replace(self.fresh(name, **seen), proxy=proxy)

    def with_(self, **changes: Any) -> "World":
        """The same mesh, wanting something else."""
        desired = replace(self.desired, **changes)
        return World(inventory=desired.inventory, desired=desired)


def unit(**changes: Any) -> Unit:
    usual = Unit(
        load="loaded",
        active="active",
        sub="running",
        enabled="enabled",
        since="Mon 2026-06-15 11:00:00 UTC",
        needs_reload=False,
        pid=4711,
    )
    return msgspec.structs.replace(usual, **changes)


def identity(service: str, **changes: Any) -> Identity:
    status = IdentityStatus(
        spiffe_id=spiffe_id(TRUST_DOMAIN, service),  # type: ignore[arg-type]
        serial=hashlib.sha256(service.encode()).hexdigest()[:16],
        not_before="2026-06-14T12:00:00Z",
        not_after="2026-07-14T12:00:00Z",
    )
    return Identity(
        service=service,  # type: ignore[arg-type]
        identity=msgspec.structs.replace(status, **changes),
        chain=("cd" * 32, ISSUER),
    )


def a_bundle(*names: str) -> Bundle:
    return Bundle(
        target=Target(python="3.11", machine="x86_64", glibc="2.36"),
        wheels=tuple(
            Wheel(
                name=name,
                sha256=hashlib.sha256(name.encode()).hexdigest(),
                size=1000,
                path=Path("/nonexistent") / name,
            )
            for name in names
        ),
    )


def make_world(text: str) -> World:
    inventory = parse(text, Path("/mesh/inventory.yaml"))
    bundle = a_bundle("meshctl_proxy-0.1.0-py3-none-any.whl", "pip-26.0-py3-none-any.whl")
    is_managed = inventory.consul.package is not None
    consul = ManagedConsul(
        binary=Path("/mesh/consul"), sha256="ef" * 32, size=10**8, gossip_key="c2VjcmV0"
    )
    return World(
        inventory=inventory,
        desired=Desired(
            inventory=inventory,
            trust_domain=TRUST_DOMAIN,
            bundles={HostName(host.name): bundle for host in inventory.hosts},
            trust_bundle=TRUST_BUNDLE,
            issuer=ISSUER,
            policy=Policy(),
            consul=consul if is_managed else None,
            owner="me@here:/mesh/.meshctl",
            now=NOW,
        ),
    )


@pytest.fixture
def world() -> World:
    return make_world(INVENTORY)


@pytest.fixture
def managed_world() -> World:
    return make_world(MANAGED)


@pytest.fixture
def world_of() -> Callable[[str], World]:
    return make_world


@pytest.fixture
def make_unit() -> Callable[..., Unit]:
    return unit


@pytest.fixture
def make_identity() -> Callable[..., Identity]:
    return identity


@pytest.fixture
def make_bundle() -> Callable[..., Bundle]:
    return a_bundle
