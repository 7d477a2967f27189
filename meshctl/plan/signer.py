"""The steps that bring one host's signer to what it should be, or away. Pure."""

from collections.abc import Iterator
from datetime import datetime

from meshctl import artifacts
from meshctl.artifacts import RECORD_FILE, SIGNER_SETTINGS_FILE, TRUST_BUNDLE_FILE, RenderedFile
from meshctl.bundle.model import Bundle
from meshctl.facts.model import HostFacts, SignerCa
from meshctl.inventory.model import Host
from meshctl.layout import SIGNER_UNIT, SIGNER_USER, Layout
from meshctl.pki.record import DeployRecord
from meshctl.plan import model
from meshctl.plan.desired import Desired
from meshctl.plan.model import Action, Directory, Phase, Step
from meshctl.plan.proxy import prepare, release
from proxy.model.names import HostName

RENEW_BELOW = 1 / 3
"""Of an intermediate's life left: with a year of it, four months in which any deploy renews it."""


def steps(desired: Desired, host: Host, facts: HostFacts, record: DeployRecord) -> Iterator[Step]:
    """In the order of their execution; nothing, when the signer is as it should be."""
    bundle = desired.signer_bundles[host.name]
    layout = Layout(host.root)
    yield from prepare(host, facts, directories(layout), (SIGNER_USER,), Phase.SIGNER)
    yield from release(
        host, facts, bundle, layout,
        what="the signer's release", runs=facts.seen.signer.release, phase=Phase.SIGNER,
    )  # fmt: skip
    if why := certificate_fault(desired, facts):
        yield Step(
            host=host.name,
            action=Action.CERTIFY_SIGNER,
            title="certify the signer's key",
            why=why,
            details=("the key is made on the host and stays there; the root signs for it",),
            phase=Phase.SIGNER,
            payload=model.CertifySigner(release=bundle.digest),
        )
    yield from _run(desired, host, facts, record, bundle, is_certified=bool(why))


def told(desired: Desired, host: Host, facts: HostFacts, record: DeployRecord) -> Iterator[Step]:
    """Of a signer that is otherwise left as it is: the deploy record alone."""
    file = artifacts.signer_record(host, record)
    status = facts.signer
    if status is None or not facts.seen.signer.release:
        return  # it takes what it finds when it starts; the deploy that starts it writes it first
    digest = artifacts.signer_digest(file.content)
    if _is_as_rendered(file, facts) and status.record_digest == digest:
        return
    yield Step(
        host=host.name,
        action=Action.RELOAD_SIGNER,
        title="tell the signer who may have identities",
        why=_record_reason(desired, record),
        details=(file.path,),
        precondition=_precondition(facts),
        phase=Phase.SIGNER,
        payload=model.RunSigner(
            verb="reload",
            release=facts.seen.signer.release,
            expected=facts.seen.signer.release,
            files=(file,),
            unit=None,
            record_digest=digest,
            bundle_digest="",
        ),
    )


def removal(host: Host, facts: HostFacts) -> Iterator[Step]:
    """Of what is left of a signer on a host that is to have none."""
    if not facts.seen.signer.is_there:
        return
    layout = Layout(host.root)
    yield Step(
        host=host.name,
        action=Action.REMOVE_SIGNER,
        title="remove the signer and its key",
        why="the inventory has no signer on this host",
        details=(SIGNER_UNIT, layout.signer_etc, layout.signer_state),
        phase=Phase.SIGNER,
        payload=model.RemoveSigner(),
    )


def directories(layout: Layout) -> tuple[Directory, ...]:
    shared = (layout.prefix, layout.wheels, f"{layout.prefix}/releases", layout.etc)
    return (
        *(Directory(path=path, mode=0o755, owner="root") for path in shared),
        Directory(path=layout.signer_etc, mode=0o750, owner="root", group=SIGNER_USER),
        Directory(path=layout.signer_state, mode=0o700, owner=SIGNER_USER),
    )


def certificate_fault(desired: Desired, facts: HostFacts) -> str:
    """Why the signer has to be certified; empty: its certificate is good."""
    keys = facts.signer_keys
    ca = keys.signer
    if ca is None:
        return f"its certificate cannot be used: {keys.error}" if keys.error else "it has none yet"
    if ca.trust_domain != desired.trust_domain:
        return f"its certificate is of the mesh {ca.trust_domain}"
    if ca.issuer_key_id != desired.root_key_id:
        return "another root certified it"
    return _ending(ca, desired.now)


def untold(host: HostName, why: str) -> str:
    """A warning: what it means that a signer does not have the newest deploy record."""
    return (
        f"the signer on {host} may not know who may have identities now: {why}; until it is told"
        " it goes on renewing those that were removed, and refuses those that are new: run"
        f" `meshctl deploy --limit {host}` once it can be reached"
    )


def _ending(ca: SignerCa, now: datetime) -> str:
    begin, end = datetime.fromisoformat(ca.not_before), datetime.fromisoformat(ca.not_after)
    if now >= end:
        return f"its certificate ended on {ca.not_after}"
    if end - now < (end - begin) * RENEW_BELOW:
        return f"its certificate ends on {ca.not_after}"
    return ""


def _run(
    desired: Desired,
    host: Host,
    facts: HostFacts,
    record: DeployRecord,
    bundle: Bundle,
    *,
    is_certified: bool,
) -> Iterator[Step]:
    files = artifacts.signer_files(
        desired.inventory,
        host,
        trust_domain=desired.trust_domain,
        trust_bundle=desired.trust_bundle,
        record=record,
        release=bundle.digest,
    )
    changed = tuple(file for file in files if not _is_as_rendered(file, facts))
    unit = artifacts.signer_unit(desired.inventory, host)
    new_unit = None if _is_as_rendered(unit, facts) else unit
    contents = {file.path.rpartition("/")[2]: file.content for file in files}
    digests = {
        "record_digest": artifacts.signer_digest(contents[RECORD_FILE]),
        "bundle_digest": artifacts.signer_digest(contents[TRUST_BUNDLE_FILE]),
    }
    names = {file.path.rpartition("/")[2] for file in changed}
    found = facts.unit(SIGNER_UNIT)
    title, why = "", ""
    if found is None or not found.is_active:
        verb, action, title = "start", Action.START_SIGNER, "start the signer"
        why = f"it is {found.active} ({found.sub})" if found and found.sub else "it is not running"
    elif why := _restart_reason(facts, bundle, names, has_new_unit=new_unit is not None):
        verb, action, title = "restart", Action.RESTART_SIGNER, "restart the signer"
    elif why := _reload_reason(desired, facts, record, names, digests, is_certified=is_certified):
        verb, action, title = "reload", Action.RELOAD_SIGNER, "have the signer read its files again"
    else:
        return
    yield Step(
        host=host.name,
        action=action,
        title=title,
        why=why,
        details=(
            *((f"unit {unit.path}",) if new_unit else ()),
            *(file.path for file in changed),
        ),
        precondition=_precondition(facts),
        push_bytes=sum(len(file.content) for file in changed),
        phase=Phase.SIGNER,
        payload=model.RunSigner(
            verb=verb,
            release=bundle.digest,
            expected=facts.seen.signer.release,
            files=changed,
            unit=new_unit,
            **digests,
        ),
    )


def _restart_reason(
    facts: HostFacts, bundle: Bundle, changed: set[str], *, has_new_unit: bool
) -> str:
    found, running = facts.unit(SIGNER_UNIT), facts.signer
    if facts.seen.signer.release != bundle.digest:
        return "the release changed"
    if SIGNER_SETTINGS_FILE in changed:
        return "its settings changed"
    if has_new_unit or (found is not None and found.needs_reload):
        return "its unit changed"
    if found is not None and found.enabled != "enabled":
        return "its unit is not enabled at boot"
    if running is None:
        return "it does not answer on its admin port"
    if running.release != bundle.digest:
        return f"it still runs release {running.release or 'unknown'}"
    return ""


def _reload_reason(
    desired: Desired,
    facts: HostFacts,
    record: DeployRecord,
    changed: set[str],
    digests: dict[str, str],
    *,
    is_certified: bool,
) -> str:
    running, on_disk = facts.signer, facts.signer_keys.signer
    assert running is not None, "a signer that does not answer is restarted"
    if TRUST_BUNDLE_FILE in changed or running.bundle_digest != digests["bundle_digest"]:
        return "the trust bundle changed"
    if RECORD_FILE in changed or running.record_digest != digests["record_digest"]:
        return _record_reason(desired, record)
    if not is_certified and on_disk is not None and running.signer.serial != on_disk.serial:
        return "it still uses an older certificate"
    return ""


def _record_reason(desired: Desired, record: DeployRecord) -> str:
    def pairs(known: DeployRecord) -> set[tuple[str, str]]:
        return {
            (service, host) for host, entry in known.hosts.items() for service in entry.services
        }

    new, old = pairs(record) - pairs(desired.before), pairs(desired.before) - pairs(record)
    parts = [
        *(f"{service} on {host} is new" for service, host in sorted(new)),
        *(f"{service} on {host} is renewed no more" for service, host in sorted(old)),
    ]
    if not parts:
        return "what it knows of who may have identities is not what was deployed"
    more = f", and {len(parts) - 3} more" if len(parts) > 3 else ""
    return ", ".join(parts[:3]) + more


def _precondition(facts: HostFacts) -> str:
    at = facts.seen.signer.release
    return f"signer -> {at}" if at else "signer does not exist"


def _is_as_rendered(file: RenderedFile, facts: HostFacts) -> bool:
    fact = facts.seen.paths.get(file.path)
    return (
        fact is not None
        and fact.sha256 == file.sha256
        and fact.mode == file.mode
        and fact.owner == file.owner
        and fact.group in ("", file.group)
    )
