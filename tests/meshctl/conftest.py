"""A small mesh as values: inventory, what it should be, and facts of hosts in any condition."""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshctl import artifacts
from meshctl.acl import Acl, HostTokens, Token, digest, grants
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
    RunningSigner,
    RunningWorkload,
    SignerCa,
    SignerFact,
    SignerKeys,
    Systemd,
    Unit,
    WheelFile,
)
from meshctl.facts.request import layout_of, uses_systemd
from meshctl.inventory.model import Host, Inventory
from meshctl.inventory.parse import parse
from meshctl.layout import (
    CONSUL_UNIT,
    CONSUL_USER,
    PROXY_UNIT,
    PROXY_USER,
    SIGNER_UNIT,
    SIGNER_USER,
)
from meshctl.pki.policykey import PolicyKey
from meshctl.pki.record import DeployRecord
from meshctl.plan import consul as consul_plan
from meshctl.plan import proxy as proxy_plan
from meshctl.plan import signer as signer_plan
from meshctl.plan.desired import Desired, runs_signer
from meshctl.plan.record import planned
from proxy.model.codec import encode
from proxy.model.names import HostName, TrustDomain, spiffe_id
from proxy.model.policy import Policy, Snapshot
from proxy.model.signed import Kind
from proxy.model.snapshot import pack
from proxy.model.status import IdentityStatus

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
TRUST_DOMAIN = TrustDomain("mesh.test")
ISSUER = "ab" * 32
SIGNER = "5a" * 32
ROOT_KEY_ID = "c4" * 20
POLICY_KEY = PolicyKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
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
SIGNED = INVENTORY.replace(
    "    address: 10.0.0.1", "    address: 10.0.0.1\n    roles: [control, workload]"
)
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
        keys = proxy_plan.policy_keys(self.desired, self.fresh(name))
        files = artifacts.config_files(settings, self.desired.trust_bundle, layout, keys)
        directories = proxy_plan.proxy_directories(host, layout)
        rendered = [artifacts.proxy_unit(host, settings)]
        units = {PROXY_UNIT: unit()}
        if self.desired.consul is not None:
            directories += consul_plan.consul_directories(layout)
            rendered += artifacts.consul_files(self.inventory, host, self.desired.consul)
            rendered += (artifacts.consul_token(host, self.desired.consul),)
            units[CONSUL_UNIT] = unit()
        signing = self.signing(name) if runs_signer(self.desired, host) else None
        if signing is not None:
            directories += signer_plan.directories(layout)
            rendered += (*self.signer_files(name), artifacts.signer_unit(self.inventory, host))
            units[SIGNER_UNIT] = unit()
        paths = {
            made.path: PathFact(
                mode=made.mode, owner=made.owner, sha256="", group=made.group or made.owner
            )
            for made in directories
        }
        for file in rendered:
            paths[file.path] = PathFact(
                mode=file.mode, owner=file.owner, sha256=file.sha256, group=file.group
            )
        if self.desired.consul is not None:
            binary = artifacts.consul_binary(self.desired.consul, layout)
            paths[binary] = PathFact(mode=0o755, owner="root", sha256="")
        identities = tuple(identity(workload.service, name) for workload in settings.workloads)
        snapshot = Snapshot(generation=3, trust_domain=TRUST_DOMAIN, policy=self.desired.policy)
        seen = {
            "users": {PROXY_USER: 998, CONSUL_USER: 997, SIGNER_USER: 996},
            "wheels": {
                wheel.name: WheelFile(size=wheel.size, sha256=wheel.sha256)
                for wheel in (*bundle.wheels, *(signing.bundle.wheels if signing else ()))
            },
            "releases": {
                bundle.digest: True,
                **({signing.bundle.digest: True} if signing else {}),
            },
            "signer": signing.fact if signing else SignerFact(),
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
            "policy_keys": keys,
            "consul": ConsulFact(is_answering=True, leader="x", snapshot=self.signed(snapshot)),
            **changes,
        }
        proxy = RunningProxy(
            release=bundle.digest,
            config=settings.config,
            state="ready",
            generation=3,
            policy_keys=tuple(POLICY_KEY.trust.keys),
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
        return replace(
            self.fresh(name, **seen),
            proxy=proxy,
            signer_keys=SignerKeys(signer=signing.running.signer) if signing else SignerKeys(),
            signer=signing.running if signing else None,
        )

    def signer_files(self, name: str) -> tuple[artifacts.RenderedFile, ...]:
        return artifacts.signer_files(
            self.inventory,
            self.host(name),
            trust_domain=TRUST_DOMAIN,
            trust_bundle=self.desired.trust_bundle,
            record=self.desired.before,
            release=self.desired.signer_bundles[HostName(name)].digest,
        )

    def signing(self, name: str, **changes: Any) -> "Signing":
        """What a signer in force says of itself; ``changes``: of its certificate."""
        bundle = self.desired.signer_bundles[HostName(name)]
        _, trusted, record = self.signer_files(name)
        usual = SignerCa(
            serial="51",
            trust_domain=TRUST_DOMAIN,
            issuer_key_id=ROOT_KEY_ID,
            fingerprint=SIGNER,
            not_before="2026-01-01T00:00:00Z",
            not_after="2027-01-01T00:00:00Z",
        )
        running = RunningSigner(
            release=bundle.digest,
            record_digest=artifacts.signer_digest(record.content),
            bundle_digest=artifacts.signer_digest(trusted.content),
            signer=msgspec.structs.replace(usual, **changes),
        )
        return Signing(
            bundle=bundle,
            running=running,
            fact=SignerFact(release=bundle.digest, is_there=True, status=encode(running)),
        )

    def signed(self, snapshot: Snapshot) -> bytes:
        """As it is published."""
        return POLICY_KEY.seal(Kind.POLICY, pack(snapshot))

    def with_(self, **changes: Any) -> "World":
        """The same mesh, wanting something else."""
        desired = replace(self.desired, **changes)
        return World(inventory=desired.inventory, desired=desired)


@dataclass(frozen=True, kw_only=True)
class Signing:
    bundle: Bundle
    running: RunningSigner
    fact: SignerFact


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


def identity(service: str, host: str = "front", **changes: Any) -> Identity:
    status = IdentityStatus(
        spiffe_id=spiffe_id(TRUST_DOMAIN, service),  # type: ignore[arg-type]
        serial=hashlib.sha256(service.encode()).hexdigest()[:16],
        not_before="2026-06-14T12:00:00Z",
        not_after="2026-07-14T12:00:00Z",
    )
    return Identity(
        service=service,  # type: ignore[arg-type]
        identity=msgspec.structs.replace(status, **changes),
        host=host,
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


def an_acl(inventory: Inventory) -> Acl:
    """As after a deploy that came through: every host has its tokens, and Consul has them."""

    def token(name: str) -> Token:
        return Token(str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))

    acl = Acl(
        hosts={
            host.name: HostTokens(
                agent=token(f"agent.{host.name}"), proxy=token(f"proxy.{host.name}")
            )
            for host in inventory.hosts
        },
        operator=token("operator"),
    )
    services = {host.name: [service.name for service in host.services] for host in inventory.hosts}
    return replace(acl, applied=digest(grants(acl, services)))


def make_world(text: str) -> World:
    inventory = parse(text, Path("/mesh/inventory.yaml"))
    bundle = a_bundle("meshctl_proxy-0.1.0-py3-none-any.whl", "pip-26.0-py3-none-any.whl")
    is_managed = inventory.consul.package is not None
    consul = ManagedConsul(
        binary=Path("/mesh/consul"),
        sha256="ef" * 32,
        size=10**8,
        gossip_key="c2VjcmV0",
        acl=an_acl(inventory),
    )
    signer_bundle = a_bundle("meshctl_signer-0.1.0-py3-none-any.whl", "pip-26.0-py3-none-any.whl")
    return World(
        inventory=inventory,
        desired=Desired(
            inventory=inventory,
            trust_domain=TRUST_DOMAIN,
            bundles={HostName(host.name): bundle for host in inventory.hosts},
            trust_bundle=TRUST_BUNDLE,
            issuer=ISSUER,
            signers=frozenset({SIGNER} if inventory.signer_hosts else ()),
            certified=frozenset(host.name for host in inventory.signer_hosts),
            root_key_id=ROOT_KEY_ID,
            signer_bundles={host.name: signer_bundle for host in inventory.signer_hosts},
            before=planned(inventory, [host.name for host in inventory.hosts], DeployRecord()),
            policy=Policy(),
            policy_key=POLICY_KEY.public,
            consul=consul if is_managed else None,
            owner="me@here:/mesh/.meshctl",
            now=NOW,
        ),
    )


@pytest.fixture
def world() -> World:
    return make_world(INVENTORY)


@pytest.fixture
def signed_world() -> World:
    return make_world(SIGNED)


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
