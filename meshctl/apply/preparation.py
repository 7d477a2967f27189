"""From an inventory and a state directory to a plan: asks the hosts, resolves what to push."""

import asyncio
import getpass
import hashlib
import os
import socket
import ssl
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from meshctl.apply import consul_package
from meshctl.apply.gather import settled
from meshctl.artifacts import (
    ManagedConsul,
    can_consul_have_tls,
    consul_binary,
    consul_servers,
)
from meshctl.bundle import BundleCache
from meshctl.bundle.model import Bundle, Target
from meshctl.errors import MeshError, Refused
from meshctl.facts.model import HostFacts
from meshctl.facts.preflight import Code, Finding, examine
from meshctl.facts.request import layout_of
from meshctl.inventory.model import ConsulMode, Inventory
from meshctl.pki import policykey
from meshctl.pki.authority import pem
from meshctl.pki.certificates import key_id
from meshctl.pki.consul import ConsulCa
from meshctl.pki.signers import SignerCertificates
from meshctl.pki.signing import last_published
from meshctl.pki.store import CaStore
from meshctl.plan.build import build
from meshctl.plan.desired import Desired, carries_proxy
from meshctl.plan.model import Plan
from meshctl.state import StateDir
from meshctl.transport import Connector
from proxy.model.names import HostName
from proxy.model.policy import Policy

LOCK_FILE = "bundle.lock.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """What a deploy starts from."""

    inventory: Inventory
    state: StateDir
    ca: CaStore
    policy: Policy

    @property
    def owner(self) -> str:
        return owner_of(self.state)


def owner_of(state: StateDir) -> str:
    """Our name in the hosts' deploy locks: one state directory of one operator."""
    return f"{getpass.getuser()}@{socket.gethostname()}:{state.path.absolute()}"


async def prepare(
    mesh: Mesh, connector: Connector, *, limit: Collection[HostName], parallel: int
) -> Plan:
    """Changes nothing on a host. Raises MeshError for what is wrong on this side."""
    inventory = mesh.inventory
    wanted = [host for host in inventory.hosts if not limit or host.name in limit]
    consul = await asyncio.to_thread(_managed_consul, inventory, mesh.state)
    # The binary's path is the same on all hosts: a managed Consul has no other root than "/".
    paths = (consul_binary(consul, layout_of(wanted[0])),) if consul and wanted else ()
    # A signer has to know of changes on other hosts, so it is asked whatever the limit says.
    names = {host.name for host in (*wanted, *inventory.signer_hosts)}
    asked = [host for host in inventory.hosts if host.name in names]
    seen = await settled(
        inventory, asked, connector, owner=mesh.owner, parallel=parallel, paths=paths
    )
    good = {
        host.name: seen.facts[host.name]
        for host in wanted
        if host.name in seen.facts
        and not examine(inventory, host, seen.facts[host.name], mesh.owner)
    }
    signing = {host.name for host in inventory.signer_hosts}
    carrying = {host.name for host in inventory.hosts if carries_proxy(host)}
    bundles, findings = await asyncio.to_thread(_bundles, mesh.state, good, carrying, "proxy")
    signer_bundles, more = await asyncio.to_thread(_bundles, mesh.state, good, signing, "signer")
    kept = SignerCertificates(mesh.ca.folder)
    desired = Desired(
        inventory=inventory,
        trust_domain=mesh.state.trust_domain,
        bundles=bundles,
        trust_bundle=mesh.ca.trust_bundle_pem,
        issuer=issuer_fingerprint(mesh.ca),
        signers=kept.fingerprints(mesh.ca.root, signing),
        certified=frozenset(kept.read()),
        root_key_id=key_id(mesh.ca.root),
        signer_bundles=signer_bundles,
        before=mesh.state.read_record(),
        policy=mesh.policy,
        policy_key=policykey.read_public(mesh.ca.folder),
        generation=last_published(mesh.state),
        consul=consul,
        owner=mesh.owner,
        now=datetime.now(UTC),
    )
    return build(
        desired,
        seen.facts,
        failures=seen.failures,
        # A host that is short of both has the same reason for both: one is enough.
        findings=more | findings,
        limit=frozenset(limit),
    )


def issuer_fingerprint(ca: CaStore) -> str:
    der = ssl.PEM_cert_to_DER_cert(pem(ca.issuing).decode("ascii").strip())
    return hashlib.sha256(der).hexdigest()


def target_of(facts: HostFacts) -> Target:
    """Raises Refused for a host that no bundle can be made for."""
    python = facts.seen.python
    assert python is not None, "preflight lets no host without Python through"
    return Target(
        python=f"{python.version[0]}.{python.version[1]}",
        machine=facts.seen.machine,
        glibc=facts.seen.libc.removeprefix("glibc").strip(),
    )


def _managed_consul(inventory: Inventory, state: StateDir) -> ManagedConsul | None:
    if inventory.consul.mode is not ConsulMode.MANAGED:
        return None
    if inventory.consul.package is None:
        raise MeshError("consul.mode is managed, but consul.package does not say what to install")
    hosts = [host.name for host in inventory.hosts]
    consul = consul_package.resolve(inventory.consul.package, state, hosts)
    if not can_consul_have_tls(inventory):
        return consul
    servers = [host.name for host in consul_servers(inventory)]
    return replace(consul, tls=ConsulCa.of(state).read(servers, inventory.consul.datacenter))


def _bundles(
    state: StateDir,
    facts: dict[HostName, HostFacts],
    wanted: Collection[HostName],
    kind: Literal["proxy", "signer"],
) -> tuple[dict[HostName, Bundle], dict[HostName, tuple[Finding, ...]]]:
    """One resolution for each kind of host; a kind without wheels blocks its own hosts only."""
    cache = bundle_cache(state)
    made: dict[str, Bundle | MeshError] = {}
    bundles: dict[HostName, Bundle] = {}
    findings: dict[HostName, tuple[Finding, ...]] = {}
    for host, fact in facts.items():
        if host not in wanted:
            continue
        try:
            target = target_of(fact)
            if str(target) not in made:
                made[str(target)] = _resolved(cache, target, kind)
            result = made[str(target)]
        except Refused as error:
            result = error
        if isinstance(result, MeshError):
            fix = result.hint or "see the message"
            findings[host] = (Finding(code=Code.BUNDLE, message=str(result), fix=fix),)
        else:
            bundles[host] = result
    return bundles, findings


def bundle_cache(state: StateDir) -> BundleCache:
    """Wheels are shared by all meshes of this user; which of them a mesh uses is its own matter."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return BundleCache(Path(base) / "meshctl" / "wheels", state.path / LOCK_FILE)


def _resolved(
    cache: BundleCache, target: Target, kind: Literal["proxy", "signer"]
) -> Bundle | MeshError:
    try:
        return cache.resolve(target) if kind == "proxy" else cache.resolve(target, kind=kind)
    except MeshError as error:
        return error
