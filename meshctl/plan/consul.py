"""The steps that bring one host's managed Consul agent to what it should be. Pure."""

from collections.abc import Iterator

from meshctl import artifacts
from meshctl.artifacts import ManagedConsul
from meshctl.facts.model import HostFacts
from meshctl.inventory.model import Host, Inventory
from meshctl.layout import CONSUL_UNIT, CONSUL_USER, Layout
from meshctl.plan import model
from meshctl.plan.model import Action, Directory, Phase, Step
from meshctl.plan.proxy import prepare


def steps(
    inventory: Inventory, consul: ManagedConsul, host: Host, facts: HostFacts
) -> Iterator[Step]:
    """In the order of their execution; nothing, when the agent is as it should be."""
    layout = Layout(host.root)
    yield from prepare(host, facts, consul_directories(layout), (CONSUL_USER,), Phase.CONSUL)
    binary = artifacts.consul_binary(consul, layout)
    if binary not in facts.seen.paths:
        yield Step(
            host=host.name,
            action=Action.PUSH_CONSUL,
            title="push the Consul binary",
            why="the host does not have this one",
            details=(binary,),
            push_bytes=consul.size,
            phase=Phase.CONSUL,
            payload=model.PushConsul(consul=consul, path=binary),
        )
    files = artifacts.consul_files(inventory, host, consul)
    changed = tuple(file for file in files if _is_different(file, facts))
    if changed:
        yield Step(
            host=host.name,
            action=Action.WRITE_CONSUL,
            title="write Consul's configuration",
            why="it is missing or differs",
            details=tuple(
                f"{file.path} (content not shown)" if file.is_secret else file.path
                for file in changed
            ),
            phase=Phase.CONSUL,
            payload=model.WriteFiles(files=changed),
        )
    fact = facts.unit(CONSUL_UNIT)
    is_active = fact is not None and fact.is_active
    is_enabled = fact is not None and fact.enabled == "enabled"
    needs_reload = fact is not None and fact.needs_reload
    if not is_active or changed or not is_enabled or needs_reload:
        is_server = host in artifacts.consul_servers(inventory)
        yield Step(
            host=host.name,
            action=Action.START_CONSUL,
            title=f"{'restart' if is_active else 'start'} Consul"
            f" as a {'server' if is_server else 'client'}",
            why="its configuration changes" if is_active else "it is not running",
            phase=Phase.CONSUL,
            payload=model.StartConsul(
                is_restart=is_active, is_server=is_server, address=inventory.consul.address
            ),
        )
    old = tuple(sorted(set(facts.seen.consul_binaries) - {consul.sha256}))
    if old:
        yield Step(
            host=host.name,
            action=Action.PRUNE,
            title=f"remove {len(old)} old Consul binary(s)",
            why="the agent runs another one",
            details=old,
            phase=Phase.CONSUL,
            payload=model.Prune(consul=old),
        )


def consul_directories(layout: Layout) -> tuple[Directory, ...]:
    return (
        Directory(path=layout.prefix, mode=0o755, owner="root"),
        Directory(path=layout.consul_dir, mode=0o755, owner="root"),
        Directory(path=layout.etc, mode=0o755, owner="root"),
        Directory(path=layout.consul_state, mode=0o700, owner=CONSUL_USER),
    )


def _is_different(file: artifacts.RenderedFile, facts: HostFacts) -> bool:
    fact = facts.seen.paths.get(file.path)
    return fact is None or fact.sha256 != file.sha256 or fact.mode != file.mode
