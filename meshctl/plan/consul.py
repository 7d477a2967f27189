"""The steps that bring one host's managed Consul agent to what it should be. Pure."""

from collections.abc import Iterator

from meshctl import artifacts
from meshctl.artifacts import ManagedConsul
from meshctl.facts.model import HostFacts
from meshctl.inventory.model import Host, Inventory
from meshctl.layout import CONSUL_UNIT, CONSUL_USER, PROXY_USER, Layout
from meshctl.plan import model
from meshctl.plan.access import Access
from meshctl.plan.desired import carries_proxy
from meshctl.plan.model import Action, Directory, Phase, Step
from meshctl.plan.proxy import prepare


def steps(
    inventory: Inventory, consul: ManagedConsul, host: Host, facts: HostFacts, access: Access
) -> Iterator[Step]:
    """In the order of their execution; nothing, when the agent is as it should be."""
    layout = Layout(host.root)
    is_server = host in artifacts.consul_servers(inventory)
    phase = Phase.CONSUL if is_server else Phase.AGENT
    # The proxy's user too: a token is for it to read.
    users = (CONSUL_USER, PROXY_USER) if carries_proxy(host) else (CONSUL_USER,)
    yield from prepare(host, facts, consul_directories(layout), users, phase)
    binary = artifacts.consul_binary(consul, layout)
    if binary not in facts.seen.paths:
        yield Step(
            host=host.name,
            action=Action.PUSH_CONSUL,
            title="push the Consul binary",
            why="the host does not have this one",
            details=(binary,),
            push_bytes=consul.size,
            phase=phase,
            payload=model.PushConsul(consul=consul, path=binary),
        )
    changed = _changed(inventory, consul, host, facts, is_enforced=access.is_enforced)
    if changed and not access.is_enforced:
        # A deploy of the whole mesh may have come further than is known here.
        strict = _changed(inventory, consul, host, facts, is_enforced=True)
        changed = changed if strict else ()
    if changed:
        yield _write(host, changed, phase)
    fact = facts.unit(CONSUL_UNIT)
    is_active = fact is not None and fact.is_active
    is_enabled = fact is not None and fact.enabled == "enabled"
    needs_reload = fact is not None and fact.needs_reload
    if not is_active or changed or not is_enabled or needs_reload:
        yield Step(
            host=host.name,
            action=Action.START_CONSUL,
            title=f"{'restart' if is_active else 'start'} Consul"
            f" as a {'server' if is_server else 'client'}",
            why="its configuration changes" if is_active else "it is not running",
            phase=phase,
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
            phase=phase,
            payload=model.Prune(consul=old),
        )
    token = artifacts.consul_token(host, consul)
    if _is_different(token, facts):
        # Not before Consul knows the token: who shows an unknown one is refused.
        yield _write(host, (token,), Phase.AGENT, "write the proxy's token for Consul")


def enforcement(
    inventory: Inventory, consul: ManagedConsul, host: Host, facts: HostFacts
) -> Iterator[Step]:
    """From the configuration that lets everybody in to the one that does not."""
    changed = _changed(inventory, consul, host, facts, is_enforced=True)
    # The unit was written before, if it had to be.
    files = tuple(file for file in changed if file.is_secret)
    if not files:
        return
    yield Step(
        host=host.name,
        action=Action.ENFORCE_ACCESS,
        title="have Consul refuse who has no token",
        why="every agent and proxy has one by now",
        details=_shown(files),
        phase=Phase.ENFORCE,
        payload=model.WriteFiles(files=files),
    )
    yield Step(
        host=host.name,
        action=Action.START_CONSUL,
        title="restart Consul",
        why="its configuration changes",
        phase=Phase.ENFORCE,
        payload=model.StartConsul(
            is_restart=True,
            is_server=host in artifacts.consul_servers(inventory),
            address=inventory.consul.address,
        ),
    )


def consul_directories(layout: Layout) -> tuple[Directory, ...]:
    return (
        Directory(path=layout.prefix, mode=0o755, owner="root"),
        Directory(path=layout.consul_dir, mode=0o755, owner="root"),
        Directory(path=layout.etc, mode=0o755, owner="root"),
        Directory(path=layout.consul_state, mode=0o700, owner=CONSUL_USER),
    )


def _changed(
    inventory: Inventory,
    consul: ManagedConsul,
    host: Host,
    facts: HostFacts,
    *,
    is_enforced: bool,
) -> tuple[artifacts.RenderedFile, ...]:
    files = artifacts.consul_files(inventory, host, consul, is_enforced=is_enforced)
    return tuple(file for file in files if _is_different(file, facts))


def _write(
    host: Host,
    files: tuple[artifacts.RenderedFile, ...],
    phase: Phase,
    title: str = "write Consul's configuration",
) -> Step:
    return Step(
        host=host.name,
        action=Action.WRITE_CONSUL,
        title=title,
        why="it is missing or differs",
        details=_shown(files),
        phase=phase,
        payload=model.WriteFiles(files=files),
    )


def _shown(files: tuple[artifacts.RenderedFile, ...]) -> tuple[str, ...]:
    return tuple(
        f"{file.path} (content not shown)" if file.is_secret else file.path for file in files
    )


def _is_different(file: artifacts.RenderedFile, facts: HostFacts) -> bool:
    fact = facts.seen.paths.get(file.path)
    return (
        fact is None
        or fact.sha256 != file.sha256
        or fact.mode != file.mode
        or fact.group not in ("", file.group)
    )
