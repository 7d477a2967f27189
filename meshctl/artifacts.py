"""Every file that a deploy writes on a host, rendered: path, mode, owner, bytes. Pure.

Enters: the inventory and what was decided about a host. Leaves: ``RenderedFile`` values, equal
for equal input, so that "nothing changed" is a comparison of hashes.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import jinja2

from meshctl.acl import Acl
from meshctl.inventory.model import Host, Inventory, Role, Service
from meshctl.layout import (
    CONSUL_UNIT,
    CONSUL_USER,
    PROXY_UNIT,
    PROXY_USER,
    SIGNER_ADMIN_PORT,
    SIGNER_UNIT,
    SIGNER_USER,
    Layout,
)
from meshctl.pki.record import DeployRecord
from meshctl.rpctls import Mode, RpcTls
from meshctl.signer.settings import SignerSettings
from proxy.model import settings as wire
from proxy.model.codec import digest, encode, encode_readable
from proxy.model.names import TrustDomain
from proxy.model.settings import Settings

SETTINGS_FILE = "proxy.json"
SIGNER_SETTINGS_FILE = "signer.json"
RECORD_FILE = "record.json"
TRUST_BUNDLE_FILE = "trust-bundle.pem"
POLICY_KEYS_FILE = "policy-keys.json"
CONSUL_HTTP_PORT = 8500
START_TIMEOUT_S = 60
"""For a proxy to become ready: it waits for nothing but its own listeners and files."""
MIN_FILES = 65536
SPARE_FILES = 4096
"""Listeners, Consul, files, and those of callers that are being refused."""
SIGNER_START_S = 30
"""It reads three files and makes one certificate."""
SIGNER_STOP_S = 15
"""For the requests that are being answered; each has a deadline of 10 s."""
STOP_MARGIN_S = 30
"""Between the end of the drain and the kill (Envoy: drain 60 s, hard stop 90 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedFile:
    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    is_secret: bool = False
    """Its content stays out of plans and logs, even as a difference."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@cache
def _templates() -> jinja2.Environment:
    here = Path(__file__).parent
    # In a wheel the templates are package data; in a checkout they are at the top level.
    folders = [here / "_templates", here.parent / "templates"]
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - systemd units, not HTML
        keep_trailing_newline=True,
        trim_blocks=True,
    )


def settings(
    inventory: Inventory, host: Host, *, trust_domain: TrustDomain, release: str
) -> Settings:
    """``proxy.json`` of ``host``, with its own digest filled in."""
    layout = Layout(host.root)

    def make(config: str) -> Settings:
        return Settings(
            host=host.name,
            trust_domain=trust_domain,
            advertise=host.address,
            release=release,
            config=config,
            admin=wire.Address(host="127.0.0.1", port=host.proxy.admin_port),
            inbound=wire.Address(host=host.proxy.inbound_address, port=host.proxy.inbound_port),
            metrics=_metrics(host),
            consul=wire.Consul(
                url=inventory.consul.address.rstrip("/"),
                token_file=inventory.consul.token_file,
                datacenter=inventory.consul.datacenter,
            ),
            state_dir=layout.state,
            log_dir=layout.logs,
            trust_bundle=f"{layout.current}/{TRUST_BUNDLE_FILE}",
            policy_keys=f"{layout.current}/{POLICY_KEYS_FILE}",
            workloads=tuple(
                _workload(inventory, host, service)
                for service in sorted(host.services, key=lambda service: service.name)
            ),
            signers=tuple(
                wire.Address(host=signer.address, port=inventory.certificates.signer_port)
                for signer in inventory.signer_hosts
            ),
            zone=host.zone,
            workers=host.proxy.workers,
            capacity=wire.Capacity(
                connections=host.proxy.max_connections, memory_bytes=host.proxy.max_memory_bytes
            ),
            drain_s=host.proxy.drain_s,
        )

    return make(digest(encode(make(""))))


def _metrics(host: Host) -> wire.Metrics | None:
    """On the address of the inbound side: where other hosts reach the proxy."""
    if not host.metrics.sources:
        return None
    return wire.Metrics(
        listen=wire.Address(host=host.proxy.inbound_address, port=host.metrics.port),
        sources=host.metrics.sources,
    )


def _workload(inventory: Inventory, host: Host, service: Service) -> wire.Workload:
    return wire.Workload(
        service=service.name,
        protocol=service.protocol,
        version=service.version,
        app=wire.Address(host=service.address, port=service.port),
        health=service.health,
        allow=inventory.callers_of(service.name),
        upstreams=tuple(
            wire.Upstream(
                service=use.service,
                protocol=use.protocol,
                listen=_on_loopback(use.port),
            )
            for use in sorted(service.upstreams, key=lambda use: use.service)
        ),
        outbound=_on_loopback(service.outbound_port),
        weight=service.weight,
        user=service.user or "",
        plaintext=(
            None
            if service.plaintext_port is None
            else wire.Address(host=host.proxy.inbound_address, port=service.plaintext_port)
        ),
    )


def _on_loopback(port: int | None) -> wire.Address | None:
    return None if port is None else wire.Address(host="127.0.0.1", port=port)


def config_files(
    settings: Settings, trust_bundle: bytes, layout: Layout, policy_keys: bytes = b""
) -> tuple[RenderedFile, ...]:
    """What is in ``layout.config(settings.config)``, besides the link to the release.

    The digest is that of the settings alone: a new trust bundle, or new policy keys, replace the
    file in place and take a reload, not a restart. ``policy_keys`` empty: the mesh has none yet.
    """
    directory = layout.config(settings.config)
    keys = RenderedFile(path=f"{directory}/{POLICY_KEYS_FILE}", content=policy_keys)
    return (
        RenderedFile(path=f"{directory}/{TRUST_BUNDLE_FILE}", content=trust_bundle),
        *((keys,) if policy_keys else ()),
        RenderedFile(path=f"{directory}/{SETTINGS_FILE}", content=encode_readable(settings)),
    )


def proxy_unit(host: Host, settings: Settings) -> RenderedFile:
    layout = Layout(host.root)
    ports = [settings.inbound.port, settings.admin.port]
    ports += [
        at.port
        for workload in settings.workloads
        for at in (
            workload.outbound,
            workload.plaintext,
            *(use.listen for use in workload.upstreams),
        )
        if at is not None
    ]
    text = (
        _templates()
        .get_template(f"{PROXY_UNIT}.j2")
        .render(
            host=host.name,
            user=PROXY_USER,
            python=layout.python,
            settings=layout.settings,
            start_timeout_s=START_TIMEOUT_S,
            stop_timeout_s=round(settings.drain_s) + STOP_MARGIN_S,
            capabilities="CAP_NET_BIND_SERVICE" if min(ports) < 1024 else "",
            has_users=any(workload.user for workload in settings.workloads),
            **_resources(settings),
        )
    )
    return RenderedFile(path=f"{layout.units}/{PROXY_UNIT}", content=text.encode())


def _resources(settings: Settings) -> dict[str, str | int]:
    """What systemd holds the proxy to: above what it holds itself to, so that it sheds load with a
    reason before the kernel ends it without one."""
    capacity = settings.capacity
    # A worker may have all connections of both sides, and each one of its own to the other end.
    files = max(MIN_FILES, 4 * capacity.connections + SPARE_FILES)
    if settings.workers == 0:  # as many as the host turns out to have cores
        return {"files": files, "memory_high": "60%", "memory_max": "80%"}
    memory_mib = settings.workers * capacity.memory_bytes // 1024**2
    return {
        "files": files,
        "memory_high": f"{memory_mib * 3 // 2}M",
        "memory_max": f"{memory_mib * 2}M",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedConsul:
    """What ``managed`` installs, resolved: the verified binary and the cluster's gossip key."""

    binary: Path
    sha256: str
    size: int
    gossip_key: str = field(repr=False)
    acl: Acl
    tls: RpcTls | None = None
    """None: no certificates can be made for its servers."""


def consul_binary(consul: ManagedConsul, layout: Layout) -> str:
    return f"{layout.consul_dir}/{consul.sha256}/consul"


def consul_servers(inventory: Inventory) -> tuple[Host, ...]:
    """The hosts that vote, in the order of the inventory."""
    return tuple(host for host in inventory.hosts if Role.CONTROL in host.roles)


def can_consul_have_tls(inventory: Inventory) -> bool:
    """A server's key is made on its host, by the signer's release."""
    return all(server in inventory.signer_hosts for server in consul_servers(inventory))


def consul_files(
    inventory: Inventory,
    host: Host,
    consul: ManagedConsul,
    *,
    is_enforced: bool = True,
    tls: Mode | None = None,
) -> tuple[RenderedFile, ...]:
    """``consul.json`` and the unit, valid for Consul 1.8 and for the current version alike.

    ``is_enforced``: who has no token may do nothing. ``tls``: as it is once a deploy has come
    through, where None.
    """
    if tls is None:
        tls = Mode.OFF if consul.tls is None else Mode.ENFORCED
    layout = Layout(host.root)
    servers = consul_servers(inventory)
    is_server = host in servers
    port = urlsplit(inventory.consul.address).port or CONSUL_HTTP_PORT
    config: dict[str, object] = {
        "node_name": host.name,
        "datacenter": inventory.consul.datacenter,
        "server": is_server,
        "bind_addr": host.address,
        "client_addr": "127.0.0.1",
        "ports": {"http": port, "dns": -1},
        "retry_join": [server.address for server in servers],
        "retry_interval": "2s",
        "encrypt": consul.gossip_key,
        # A stop is taken for a restart: the catalogue keeps the host's services, and the host its
        # vote. `meshctl uninstall` makes it leave.
        "leave_on_terminate": False,
        "skip_leave_on_interrupt": True,
        # Or a changed acknowledgement would wait five minutes for the catalogue.
        "check_update_interval": "0s",
        "disable_remote_exec": True,
        "disable_update_check": True,
        "enable_syslog": False,
        "log_level": "INFO",
        # The default of 5 takes up to 10 s to notice a dead leader; 1, for dedicated machines,
        # elects anew when a shared one pauses.
        "performance": {"raft_multiplier": 2},
        "acl": {
            "enabled": True,
            "default_policy": "deny" if is_enforced else "allow",
            # While no server answers, what is known of a token goes on.
            "down_policy": "extend-cache",
            # A service that is new on a host may be registered after this time; the default is
            # 30 s. Each agent asks once in it for its two tokens.
            "policy_ttl": "5s",
            "token_ttl": "5s",
            # This file is where the token comes from, always.
            "enable_token_persistence": False,
            "tokens": {"agent": consul.acl.hosts[host.name].agent.secret},
        },
    }
    if tls is not Mode.OFF:
        config["ca_file"] = layout.consul_ca
        config["verify_outgoing"] = tls is Mode.ENFORCED
        config["verify_server_hostname"] = tls is Mode.ENFORCED
        # Clients have no certificates: tokens tell them apart. Port 8300 is for the mesh's hosts
        # alone (docs/consul.md).
        config["verify_incoming"] = False
        if is_server:
            config["cert_file"] = layout.consul_certificate
            config["key_file"] = layout.consul_key
    if is_server:
        config["bootstrap_expect"] = len(servers)
    unit = (
        _templates()
        .get_template(f"{CONSUL_UNIT}.j2")
        .render(
            host=host.name,
            user=CONSUL_USER,
            is_server=is_server,
            binary=consul_binary(consul, layout),
            config=f"{layout.etc}/consul.json",
            data=layout.consul_state,
        )
    )
    return (
        RenderedFile(
            path=f"{layout.etc}/consul.json",
            content=json.dumps(config, indent=2, sort_keys=True).encode() + b"\n",
            mode=0o640,
            group=CONSUL_USER,
            is_secret=True,
        ),
        RenderedFile(path=f"{layout.units}/{CONSUL_UNIT}", content=unit.encode()),
    )


def consul_ca(host: Host, consul: ManagedConsul) -> tuple[RenderedFile, ...]:
    """By which the agent knows servers; none, where they have no certificates."""
    if consul.tls is None:
        return ()
    return (RenderedFile(path=Layout(host.root).consul_ca, content=consul.tls.ca),)


def consul_token(host: Host, consul: ManagedConsul) -> RenderedFile:
    """What the proxy shows to its agent; on a host without a proxy only root reads it."""
    has_proxy = bool(host.services) or Role.WORKLOAD in host.roles
    return RenderedFile(
        path=Layout(host.root).consul_token,
        content=consul.acl.hosts[host.name].proxy.secret.encode() + b"\n",
        mode=0o640,
        group=PROXY_USER if has_proxy else "root",
        is_secret=True,
    )


def signer_files(
    inventory: Inventory,
    host: Host,
    *,
    trust_domain: TrustDomain,
    trust_bundle: bytes,
    record: DeployRecord,
    release: str,
) -> tuple[RenderedFile, ...]:
    """``signer.json``, the trust bundle and the deploy record, each readable by the signer and
    writable by root alone: whoever breaks into it cannot widen what it may sign."""
    layout = Layout(host.root)
    settings = SignerSettings(
        host=host.name,
        trust_domain=trust_domain,
        listen=wire.Address(
            host=host.proxy.inbound_address, port=inventory.certificates.signer_port
        ),
        admin=wire.Address(host="127.0.0.1", port=SIGNER_ADMIN_PORT),
        state_dir=layout.signer_state,
        trust_bundle=f"{layout.signer_etc}/{TRUST_BUNDLE_FILE}",
        record=f"{layout.signer_etc}/{RECORD_FILE}",
        leaf_life_s=inventory.leaf_life_s,
        release=release,
    )
    return (
        _of_signer(host, SIGNER_SETTINGS_FILE, encode_readable(settings)),
        signer_trust_bundle(host, trust_bundle),
        signer_record(host, record),
    )


def signer_trust_bundle(host: Host, trust_bundle: bytes) -> RenderedFile:
    return _of_signer(host, TRUST_BUNDLE_FILE, trust_bundle)


def signer_record(host: Host, record: DeployRecord) -> RenderedFile:
    # Sorted, so that the same record is the same file in whatever order hosts came to be in it.
    hosts = {name: record.hosts[name] for name in sorted(record.hosts)}
    return _of_signer(host, RECORD_FILE, encode_readable(DeployRecord(hosts=hosts)))


def signer_digest(content: bytes) -> str:
    """As a signer names the files that it has in force."""
    return digest(content)


def _of_signer(host: Host, name: str, content: bytes) -> RenderedFile:
    return RenderedFile(
        path=f"{Layout(host.root).signer_etc}/{name}",
        content=content,
        mode=0o640,
        group=SIGNER_USER,
    )


def signer_unit(inventory: Inventory, host: Host) -> RenderedFile:
    layout = Layout(host.root)
    text = (
        _templates()
        .get_template(f"{SIGNER_UNIT}.j2")
        .render(
            host=host.name,
            user=SIGNER_USER,
            python=f"{layout.signer}/bin/python",
            settings=f"{layout.signer_etc}/{SIGNER_SETTINGS_FILE}",
            start_timeout_s=SIGNER_START_S,
            stop_timeout_s=SIGNER_STOP_S,
            capabilities=(
                "CAP_NET_BIND_SERVICE" if inventory.certificates.signer_port < 1024 else ""
            ),
        )
    )
    return RenderedFile(path=f"{layout.units}/{SIGNER_UNIT}", content=text.encode())
