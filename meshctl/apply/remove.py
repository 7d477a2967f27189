"""Takes hosts out of the mesh: the opposite of a deploy, and as idempotent."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshctl.apply.gather import read
from meshctl.apply.operate import Remote
from meshctl.apply.signers import signer_supervisor
from meshctl.apply.steps import (
    authority,
    consul_supervisor,
    log_file,
    proxy_supervisor,
    stop_timeout_s,
)
from meshctl.consul import history
from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts.request import layout_of, pid_file, uses_systemd
from meshctl.inventory.model import ConsulMode, Host, Inventory
from meshctl.layout import (
    CONSUL_UNIT,
    CONSUL_USER,
    PROXY_UNIT,
    PROXY_USER,
    SIGNER_UNIT,
    SIGNER_USER,
)
from meshctl.transport import Connector
from proxy.model.names import HostName, TrustDomain
from proxy.model.registration import META_HOST, META_TRUST_DOMAIN, SNAPSHOT_KEY

_CONSUL_STOP_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    host: HostName
    done: tuple[str, ...] = ()
    """What was removed, in words; empty: there was nothing."""
    error: str = ""
    output: str = ""
    hint: str = ""
    exit_code: int = 0


async def remove(
    inventory: Inventory,
    hosts: Iterable[Host],
    connector: Connector,
    *,
    trust_domain: TrustDomain,
    owner: str,
    is_whole_mesh: bool,
    parallel: int,
    ended: Callable[[Removal], None],
) -> tuple[Removal, ...]:
    """Never raises for what happens on a host. ``is_whole_mesh``: nothing of it stays anywhere."""
    gate = asyncio.Semaphore(parallel)

    async def one(host: Host) -> Removal:
        async with gate:
            try:
                made = await _remove(inventory, host, connector, trust_domain, owner, is_whole_mesh)
            except MeshError as error:
                made = Removal(
                    host=host.name,
                    error=str(error),
                    output=error.output if isinstance(error, RemoteFailure) else "",
                    hint=error.hint or "run the same command again",
                    exit_code=int(error.exit_code),
                )
            ended(made)
            return made

    return tuple(await asyncio.gather(*(one(host) for host in hosts)))


async def _remove(
    inventory: Inventory,
    host: Host,
    connector: Connector,
    trust_domain: TrustDomain,
    owner: str,
    is_whole_mesh: bool,
) -> Removal:
    facts = await read(inventory, host, connector)
    if facts.seen.python is None:
        # A deploy is refused without it, so there is nothing of ours here.
        return Removal(host=host.name)
    remote = Remote(
        host=host,
        transport=await connector.connect(host.name),
        python=facts.seen.python.executable,
        owner=owner,
    )
    layout = layout_of(host)
    has_units = uses_systemd(host)
    stop_s = stop_timeout_s(host)
    result = await remote.operate(
        "uninstall",
        proxy=proxy_supervisor(host),
        signer=signer_supervisor() if facts.seen.signer.is_there else None,
        consul=consul_supervisor() if has_units and _has_consul(inventory) else None,
        consul_config=f"{layout.etc}/consul.json",
        api=authority(inventory.consul.address),
        token_file=inventory.consul.token_file,
        meta={META_HOST: host.name, META_TRUST_DOMAIN: trust_domain},
        # A cluster that ends as a whole would only lose its quorum on the way.
        leaves_cluster=not is_whole_mesh,
        snapshot_key=SNAPSHOT_KEY if is_whole_mesh else None,
        history_prefix=history.PREFIX,
        trust_domain=trust_domain,
        stop_s=stop_s,
        uses_units=has_units,
        units=(
            [f"{layout.units}/{unit}" for unit in (PROXY_UNIT, CONSUL_UNIT, SIGNER_UNIT)]
            if has_units
            else []
        ),
        paths=[
            layout.prefix,
            layout.etc,
            layout.state,
            layout.logs,
            layout.consul_state,
            layout.signer_state,
            *(() if has_units else (pid_file(host), log_file(host))),
        ],
        users=[PROXY_USER, CONSUL_USER, SIGNER_USER] if has_units else [],
        folders_if_empty=[] if has_units else _local_folders(host),
        timeout_s=stop_s + _CONSUL_STOP_S + 60,
    )
    return Removal(host=host.name, done=tuple(str(item) for item in result["done"]))


def _has_consul(inventory: Inventory) -> bool:
    return inventory.consul.mode is ConsulMode.MANAGED


def _local_folders(host: Host) -> list[str]:
    """Deepest first: removed where nothing else is in them."""
    return [
        f"{host.root}/{name}"
        for name in ("opt", "etc", "var/lib", "var/log", "var", "run")
    ]  # fmt: skip
