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
from meshctl.plan.rpctls import Tls
from meshctl.rpctls import Mode


def steps(
    inventory: Inventory,
    consul: ManagedConsul,
    host: Host,
    facts: HostFacts,
    access: Access,
    tls: Tls,
    *,
    signer: str,
) -> Iterator[Step]:
    """In the order of their execution; nothing, when the agent is as it should be.

    ``signer``: digest of the signer's release on this host, which makes the key of a server.
    """
    layout = Layout(host.root)
    is_server = host in artifacts.consul_servers(inventory)
    phase = Phase.CONSUL if is_server else Phase.AGENT
    # The proxy's user too: a token is for it to read.
    users = (CONSUL_USER, PROXY_USER) if carries_proxy(host) else (CONSUL_USER,)
    has_key = is_server and tls.mode is not Mode.OFF and consul.tls is not None
    directories = consul_directories(layout, has_key=has_key)
    yield from prepare(host, facts, directories, users, phase)
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
    if why_key := tls.faults.get(host.name, ""):
        yield Step(
            host=host.name,
            action=Action.CERTIFY_CONSUL,
            title="certify the key of this Consul server",
            why=why_key,
            details=("the key is made on the host and stays there",),
            phase=phase,
            payload=model.CertifyConsul(release=signer, datacenter=inventory.consul.datacenter),
        )
    changed = _to_write(inventory, consul, host, facts, access, tls)
    if changed:
        yield _write(host, changed, phase)
    fact = facts.unit(CONSUL_UNIT)
    is_active = fact is not None and fact.is_active
    is_enabled = fact is not None and fact.enabled == "enabled"
    needs_reload = fact is not None and fact.needs_reload
    if not is_active or changed or why_key or not is_enabled or needs_reload:
        yield Step(
            host=host.name,
            action=Action.START_CONSUL,
            title=f"{'restart' if is_active else 'start'} Consul"
            f" as a {'server' if is_server else 'client'}",
            why=_why_start(is_active=is_active, is_changed=bool(changed), why_key=why_key),
            phase=phase,
            payload=model.StartConsul(
                # Servers that refuse each other have no leader to wait for, one after the other.
                is_restart=is_active and host.name not in tls.ended,
                is_server=is_server,
                address=inventory.consul.address,
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
    inventory: Inventory,
    consul: ManagedConsul,
    host: Host,
    facts: HostFacts,
    access: Access,
    tls: Tls,
) -> Iterator[Step]:
    """From the configuration that lets everybody in, and calls in plain, to the one that does
    neither."""
    mode = Mode.ENFORCED if tls.is_enforced_last else tls.mode
    changed = _changed(inventory, consul, host, facts, is_enforced=True, tls=mode)
    # The unit was written before, if it had to be.
    files = tuple(file for file in changed if file.is_secret)
    if not files:
        return
    if access.is_enforced_last:
        refused = artifacts.consul_files(inventory, host, consul, tls=tls.mode)
        yield _enforce(
            host, Action.ENFORCE_ACCESS, refused[:1],
            "have Consul refuse who has no token", "every agent and proxy has one by now",
        )  # fmt: skip
    if tls.is_enforced_last:
        yield _enforce(
            host, Action.ENFORCE_TLS, files,
            "have Consul call servers with TLS only", "every server has a certificate by now",
        )  # fmt: skip
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


def _enforce(
    host: Host, action: Action, files: tuple[artifacts.RenderedFile, ...], title: str, why: str
) -> Step:
    return Step(
        host=host.name,
        action=action,
        title=title,
        why=why,
        details=_shown(files),
        phase=Phase.ENFORCE,
        payload=model.WriteFiles(files=files),
    )


def consul_directories(layout: Layout, *, has_key: bool = False) -> tuple[Directory, ...]:
    """``has_key``: of a server with a certificate."""
    key = Directory(path=layout.consul_tls, mode=0o700, owner=CONSUL_USER)
    return (
        *((key,) if has_key else ()),
        Directory(path=layout.prefix, mode=0o755, owner="root"),
        Directory(path=layout.consul_dir, mode=0o755, owner="root"),
        Directory(path=layout.etc, mode=0o755, owner="root"),
        Directory(path=layout.consul_state, mode=0o700, owner=CONSUL_USER),
    )


def _to_write(
    inventory: Inventory,
    consul: ManagedConsul,
    host: Host,
    facts: HostFacts,
    access: Access,
    tls: Tls,
) -> tuple[artifacts.RenderedFile, ...]:
    """What is written before anything is enforced."""

    def changed(*, is_enforced: bool, mode: Mode) -> tuple[artifacts.RenderedFile, ...]:
        return _changed(inventory, consul, host, facts, is_enforced=is_enforced, tls=mode)

    ca: tuple[artifacts.RenderedFile, ...] = ()
    if tls.mode is not Mode.OFF:
        ca = tuple(
            file
            for file in artifacts.consul_ca(host, consul)
            if _is_different(file, facts)
            and not (tls.is_stepping_back and file.path in facts.seen.paths)
        )
    wanted = changed(is_enforced=access.is_enforced, mode=tls.mode)
    # A deploy of the whole mesh may have come further than is known here. Where there is another
    # CA the configuration is the same, but not what it means.
    is_further_good = tls.mode is Mode.OFFERED and not tls.is_stepping_back and not ca
    modes = {tls.mode, Mode.ENFORCED} if is_further_good else {tls.mode}
    for is_enforced in {access.is_enforced, True}:
        if any(not changed(is_enforced=is_enforced, mode=mode) for mode in modes):
            wanted = ()
    return (*ca, *wanted)


def _why_start(*, is_active: bool, is_changed: bool, why_key: str) -> str:
    if not is_active:
        return "it is not running"
    return "its certificate changes" if why_key and not is_changed else "its configuration changes"


def _changed(
    inventory: Inventory,
    consul: ManagedConsul,
    host: Host,
    facts: HostFacts,
    *,
    is_enforced: bool,
    tls: Mode,
) -> tuple[artifacts.RenderedFile, ...]:
    files = artifacts.consul_files(inventory, host, consul, is_enforced=is_enforced, tls=tls)
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
