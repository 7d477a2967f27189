"""The steps that bring one host's proxy to what it should be. Pure."""

from collections.abc import Collection, Iterator

from meshctl import artifacts
from meshctl.artifacts import POLICY_KEYS_FILE, TRUST_BUNDLE_FILE, RenderedFile
from meshctl.bundle.model import Bundle
from meshctl.facts.model import ConfigDirectory, HostFacts
from meshctl.facts.request import uses_systemd
from meshctl.inventory.model import Host
from meshctl.layout import PROXY_UNIT, PROXY_USER, Layout
from meshctl.plan import leaves, leftovers, model
from meshctl.plan.desired import Desired
from meshctl.plan.model import Action, Directory, Step
from proxy.model.codec import Malformed, decode, encode_readable
from proxy.model.policy_keys import PolicyKeys, encode_key
from proxy.model.settings import Settings

_TRUST_FILES = {TRUST_BUNDLE_FILE: "the trust bundle", POLICY_KEYS_FILE: "the policy keys"}
"""What a reload puts in force."""


def steps(
    desired: Desired, host: Host, facts: HostFacts, *, coming: Collection[str] = ()
) -> Iterator[Step]:
    """In the order of their execution; nothing, when the host is as it should be. ``coming``:
    names of wheels that an earlier step pushes."""
    bundle = desired.bundles[host.name]
    settings = artifacts.settings(
        desired.inventory, host, trust_domain=desired.trust_domain, release=bundle.digest
    )
    layout = Layout(host.root)
    yield from prepare(host, facts, proxy_directories(host, layout), (PROXY_USER,))
    yield from release(host, facts, bundle, layout, runs=facts.release, coming=coming)
    keys = policy_keys(desired, facts)
    files = artifacts.config_files(settings, desired.trust_bundle, layout, keys)
    changed = _changed_config(facts, settings, files)
    issued = tuple(leaves.steps(desired, host, facts, settings))
    yield from _config(host, facts, settings, changed, layout, is_issuing=bool(issued))
    yield from issued
    yield from _service(host, desired, facts, settings, changed, issued)
    yield from leftovers.steps(desired, host, facts, settings)


def policy_keys(desired: Desired, facts: HostFacts) -> bytes:
    """``policy-keys.json`` of one host; empty: the mesh has no key yet.

    The file stays as it is for as long as it has the right keys: the generation in it is the one
    that was published when the host got it, and a deploy after an ``apply`` changes nothing.
    """
    if desired.policy_key is None:
        return b""
    wanted = PolicyKeys(
        trust_domain=desired.trust_domain,
        keys=(encode_key(desired.policy_key),),
        minimum_generation=desired.generation,
    )
    try:
        have = decode(facts.seen.policy_keys, PolicyKeys)
    except Malformed:
        return encode_readable(wanted)
    is_same = (have.trust_domain, have.keys) == (wanted.trust_domain, wanted.keys)
    return facts.seen.policy_keys if is_same else encode_readable(wanted)


def proxy_directories(host: Host, layout: Layout) -> tuple[Directory, ...]:
    owner = "root" if uses_systemd(host) else ""
    shared = (layout.prefix, layout.wheels, f"{layout.prefix}/releases", f"{layout.prefix}/configs")
    state_owner = PROXY_USER if uses_systemd(host) else ""
    return (
        *(Directory(path=path, mode=0o755, owner=owner) for path in shared),
        Directory(path=layout.state, mode=0o700, owner=state_owner),
    )


def prepare(
    host: Host,
    facts: HostFacts,
    directories: tuple[Directory, ...],
    users: tuple[str, ...],
    phase: model.Phase = model.Phase.PROXY,
) -> Iterator[Step]:
    """Users and directories that are missing or were changed."""
    new_users = tuple(user for user in users if uses_systemd(host) and user not in facts.seen.users)
    wrong = tuple(made for made in directories if not _is_as_wanted(made, facts))
    if not new_users and not wrong:
        return
    is_new = all(made.path not in facts.seen.paths for made in wrong)
    yield Step(
        host=host.name,
        action=Action.PREPARE,
        title="create " + " and ".join(
            part
            for part in (
                f"user {', '.join(new_users)}" if new_users else "",
                f"{len(wrong)} directories" if wrong else "",
            )
            if part
        ),
        why="they do not exist yet" if is_new else "missing, or of another owner or mode",
        details=(
            *(f"user {user}" for user in new_users),
            *(f"{made.path} {made.mode:04o} {made.ownership}".rstrip() for made in wrong),
        ),
        phase=phase,
        payload=model.Prepare(users=new_users, directories=wrong),
    )  # fmt: skip


def _is_as_wanted(directory: Directory, facts: HostFacts) -> bool:
    fact = facts.seen.paths.get(directory.path)
    return (
        fact is not None
        and fact.mode == directory.mode
        and directory.owner in ("", fact.owner)
        and directory.group in ("", fact.group)
    )  # fmt: skip


def release(
    host: Host,
    facts: HostFacts,
    bundle: Bundle,
    layout: Layout,
    *,
    runs: str,
    what: str = "release",
    coming: Collection[str] = (),
    phase: model.Phase = model.Phase.PROXY,
) -> Iterator[Step]:
    """``runs``: digest of the release that the host runs of this kind; empty: none."""
    assert facts.seen.python is not None, "preflight lets no host without Python through"
    if facts.seen.releases.get(bundle.digest):
        return
    have = facts.seen.wheels
    missing = tuple(
        wheel
        for wheel in bundle.wheels
        if wheel.name not in coming
        and ((fact := have.get(wheel.name)) is None or fact.sha256 != wheel.sha256)
    )
    if missing:
        yield Step(
            host=host.name,
            action=Action.PUSH_WHEELS,
            title=f"push {len(missing)} wheel(s)",
            why=f"{len(bundle.wheels) - len(missing)} of {len(bundle.wheels)} are on the host",
            details=tuple(wheel.name for wheel in missing),
            push_bytes=sum(wheel.size for wheel in missing),
            phase=phase,
            payload=model.PushWheels(wheels=missing, directory=layout.wheels),
        )
    yield Step(
        host=host.name,
        action=Action.INSTALL_RELEASE,
        title=f"install {what} {bundle.digest}",
        why=f"the host runs release {runs}" if runs else "none is installed",
        details=(layout.release(bundle.digest),),
        phase=phase,
        payload=model.InstallRelease(bundle=bundle, python=facts.seen.python.executable),
    )


def _changed_config(
    facts: HostFacts, settings: Settings, files: tuple[RenderedFile, ...]
) -> tuple[RenderedFile, ...]:
    have = facts.seen.configs.get(settings.config, ConfigDirectory(files={}, release=""))
    return tuple(
        file for file in files if have.files.get(file.path.rpartition("/")[2]) != file.sha256
    )


def _config(
    host: Host,
    facts: HostFacts,
    settings: Settings,
    changed: tuple[RenderedFile, ...],
    layout: Layout,
    *,
    is_issuing: bool,
) -> Iterator[Step]:
    have = facts.seen.configs.get(settings.config)
    is_linked = have is not None and have.release == settings.release
    # A leaf is installed only if the trust bundle that is there leads to its root.
    is_left_to_reload = not is_issuing and _is_only_trust(facts, settings, changed, is_linked)
    if (not changed and is_linked) or is_left_to_reload:
        return
    directory = layout.config(settings.config)
    yield Step(
        host=host.name,
        action=Action.WRITE_CONFIG,
        title=f"write configuration {settings.config}",
        why=_config_reason(facts),
        details=(*(file.path for file in changed), f"{directory}/release -> {settings.release}"),
        push_bytes=sum(len(file.content) for file in changed),
        payload=model.WriteFiles(
            files=changed, link=(f"{directory}/release", layout.release(settings.release))
        ),
    )


def _config_reason(facts: HostFacts) -> str:
    if not facts.seen.current:
        return "the host has none yet"
    return f"the host has {facts.seen.current}"


def _is_only_trust(
    facts: HostFacts, settings: Settings, changed: tuple[RenderedFile, ...], is_linked: bool
) -> bool:
    """The configuration in force, with another trust bundle or other policy keys: written by the
    reload itself."""
    return (
        is_linked
        and facts.seen.current == settings.config
        and bool(changed)
        and {file.path.rpartition("/")[2] for file in changed} <= _TRUST_FILES.keys()
    )


def _service(
    host: Host,
    desired: Desired,
    facts: HostFacts,
    settings: Settings,
    changed: tuple[RenderedFile, ...],
    issued: tuple[Step, ...],
) -> Iterator[Step]:
    seen = facts.seen
    fact = facts.unit(PROXY_UNIT)
    is_active = fact is not None and fact.is_active
    unit = None
    if uses_systemd(host):
        rendered = artifacts.proxy_unit(host, settings)
        on_host = seen.paths.get(rendered.path)
        unit = None if on_host is not None and on_host.sha256 == rendered.sha256 else rendered
    precondition = f"current -> {seen.current}" if seen.current else "current does not exist"

    def step(action: Action, verb: str, title: str, why: str, *details: str) -> Step:
        return Step(
            host=host.name,
            action=action,
            title=title,
            why=why,
            details=(*((f"unit {unit.path}",) if unit else ()), *details),
            precondition=precondition,
            payload=model.Service(
                verb=verb,
                settings=settings,
                expected=seen.current,
                unit=unit,
                files=changed if verb == "reload" else (),
            ),
        )

    verb = "restart" if is_active else "start"
    if seen.current != settings.config:
        yield step(
            Action.ACTIVATE,
            verb,
            f"switch to configuration {settings.config} and {verb} the proxy",
            _switch_reason(facts, settings),
            f"previous -> {seen.current}" if seen.current else "first installation",
            "goes back by itself if the proxy does not get ready",
        )
    elif not is_active:
        state = f"{fact.active} ({fact.sub})" if fact is not None and fact.sub else "not running"
        yield step(Action.START, "start", "start the proxy", f"it is {state}")
    elif why := _restart_reason(facts, settings, has_new_unit=unit is not None):
        yield step(Action.RESTART, "restart", "restart the proxy", why)
    elif why := _reload_reason(desired, facts, settings, changed, issued):
        yield step(
            Action.RELOAD, "reload", "reload certificates (connections are kept)", why,
            *(file.path for file in changed),
        )  # fmt: skip


def _switch_reason(facts: HostFacts, settings: Settings) -> str:
    if not facts.seen.current:
        return "nothing runs here yet"
    is_same_release = facts.release == settings.release
    return "the configuration changed" if is_same_release else "the release changed"


def _restart_reason(facts: HostFacts, settings: Settings, *, has_new_unit: bool) -> str:
    fact, running = facts.unit(PROXY_UNIT), facts.proxy
    if has_new_unit or (fact is not None and fact.needs_reload):
        return "its unit changed"
    if fact is not None and fact.enabled != "enabled":
        return "its unit is not enabled at boot"
    if running is None:
        return "it does not answer on its admin port"
    if running.config != settings.config or running.release != settings.release:
        return f"it still runs configuration {running.config or 'unknown'}"
    if running.state == "draining":
        return "it is draining"
    return ""


def _reload_reason(
    desired: Desired,
    facts: HostFacts,
    settings: Settings,
    changed: tuple[RenderedFile, ...],
    issued: tuple[Step, ...],
) -> str:
    names = {file.path.rpartition("/")[2] for file in changed}
    new = [what for name, what in _TRUST_FILES.items() if name in names]
    if new:
        return f"{' and '.join(new)} changed"
    if issued:
        return "identities changed"
    assert facts.proxy is not None, "a proxy that does not answer is restarted"
    believed = facts.proxy.policy_keys
    wanted = desired.policy_trust.keys.keys()
    if wanted and believed is not None and set(believed) != wanted:
        return "it does not believe the mesh's policy key yet"
    on_disk = {
        fact.service: fact.identity.serial for fact in facts.seen.identities if fact.identity
    }
    in_force = {
        workload.service: workload.identity.serial if workload.identity else ""
        for workload in facts.proxy.workloads
    }
    stale = sorted(
        workload.service
        for workload in settings.workloads
        if in_force.get(workload.service) != on_disk.get(workload.service)
    )
    return f"it still uses an older identity of {', '.join(stale)}" if stale else ""
