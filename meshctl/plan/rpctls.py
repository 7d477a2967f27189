"""How far a plan brings the agents of a managed Consul in talking TLS to its servers. Pure.

Towards it in two strides, each harmless while another agent has not made it: servers get
certificates and take both; then agents call with TLS only. Away from it, or from a CA whose key is
lost, a stride back comes first, in a deploy of its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from meshctl import artifacts
from meshctl.artifacts import ManagedConsul
from meshctl.facts.model import HostFacts
from meshctl.inventory.model import Host, Inventory
from meshctl.layout import Layout
from meshctl.rpctls import Mode, RpcTls
from proxy.model.names import HostName

RENEW_BELOW = 1 / 3
"""Of a certificate's life left: four months in which any deploy renews it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    mode: Mode
    """That agents begin with."""
    is_enforced_last: bool = False
    """In a phase of its own, once every server has a certificate."""
    is_stepping_back: bool = False
    """Agents keep the CA and the certificates that they have, and insist on them no more."""
    faults: Mapping[HostName, str] = field(default_factory=dict)
    """Why a server gets a certificate."""
    ended: frozenset[HostName] = frozenset()
    """Servers whose certificate is no good any more: the others refuse them already."""
    warning: str = ""


def tls(
    inventory: Inventory,
    consul: ManagedConsul,
    facts: Mapping[HostName, HostFacts],
    *,
    is_fresh: bool,
    is_whole: bool,
    now: datetime,
) -> Tls:
    """``is_fresh``: no agent runs yet; ``is_whole``: every host takes part in the plan."""
    asked = [host for host in inventory.hosts if host.name in facts]
    wanted = consul.tls
    if wanted is not None and (wanted.is_enforced or is_fresh):
        return Tls(
            mode=Mode.ENFORCED,
            faults=_faults(inventory, wanted, facts, now),
            ended=frozenset(host for host, made in wanted.servers.items() if now >= made.not_after),
        )
    strangers = [host for host in asked if _is_strange(host, facts[host.name], wanted)]
    if strangers and not (
        is_whole and all(_is_lenient(inventory, consul, host, facts[host.name]) for host in asked)
    ):
        goal = "goes back to plain calls" if wanted is None else "gets its new CA's certificates"
        return Tls(
            mode=Mode.OFFERED,
            is_stepping_back=True,
            warning="Consul's agents go on without insisting on their servers' certificates; run"
            f" `meshctl deploy` for all hosts once more, with which Consul {goal}",
        )
    if wanted is None:
        return Tls(
            mode=Mode.OFF,
            warning="Consul's agents talk to its servers without TLS, which shows tokens to who"
            " listens between hosts: every control host needs a signer for it, reached over SSH",
        )
    warning = (
        "Consul's agents go on talking to its servers without TLS, because not every host takes"
        " part; run `meshctl deploy` for all of them"
    )
    return Tls(
        mode=Mode.OFFERED,
        is_enforced_last=is_whole,
        faults=_faults(inventory, wanted, facts, now),
        warning="" if is_whole else warning,
    )


def _is_strange(host: Host, facts: HostFacts, wanted: RpcTls | None) -> bool:
    """Whether its agent may insist on what the others are about to lose."""
    fact = facts.seen.paths.get(Layout(host.root).consul_ca)
    if fact is None:
        return False
    return wanted is None or fact.sha256 != hashlib.sha256(wanted.ca).hexdigest()


def _is_lenient(inventory: Inventory, consul: ManagedConsul, host: Host, facts: HostFacts) -> bool:
    fact = facts.seen.paths.get(f"{Layout(host.root).etc}/consul.json")
    if fact is None:
        return True  # there is no agent
    rendered = [
        artifacts.consul_files(inventory, host, consul, is_enforced=is_enforced, tls=mode)[0]
        for mode in (Mode.OFF, Mode.OFFERED)
        for is_enforced in (False, True)
    ]
    return fact.sha256 in {file.sha256 for file in rendered}


def _faults(
    inventory: Inventory, wanted: RpcTls, facts: Mapping[HostName, HostFacts], now: datetime
) -> dict[HostName, str]:
    found = {
        host.name: _fault(host, wanted, facts[host.name], now)
        for host in artifacts.consul_servers(inventory)
        if host.name in facts
    }
    return {host: why for host, why in found.items() if why}


def _fault(host: Host, wanted: RpcTls, facts: HostFacts, now: datetime) -> str:
    made = wanted.servers.get(host.name)
    layout = Layout(host.root)
    seen = facts.seen.paths.get(layout.consul_certificate)
    if seen is None or layout.consul_key not in facts.seen.paths:
        return "it has none yet"
    if made is None or seen.sha256 != made.sha256:
        return "the one it has is not the one that was made for it"
    if now >= made.not_after:
        return f"its certificate ended on {made.not_after:%Y-%m-%d}"
    if made.not_after - now < (made.not_after - made.not_before) * RENEW_BELOW:
        return f"its certificate ends on {made.not_after:%Y-%m-%d}"
    return ""
