"""Desired x facts -> plan. Pure: the same input gives an equal plan."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from meshctl.artifacts import ManagedConsul
from meshctl.errors import MeshError
from meshctl.facts.model import HostFacts
from meshctl.facts.preflight import Finding, examine
from meshctl.inventory.model import ConsulMode, Host
from meshctl.pki.record import DeployRecord
from meshctl.plan import access, consul, leftovers, model, proxy, rpctls, signer
from meshctl.plan.access import Access
from meshctl.plan.desired import Desired, carries_proxy, runs_signer
from meshctl.plan.model import Action, HostPlan, Plan, Step, Verdict
from meshctl.plan.record import planned
from meshctl.plan.rpctls import Tls
from meshctl.rpctls import Mode
from proxy.core.verification import Unverified, verified
from proxy.model.codec import Malformed
from proxy.model.names import HostName
from proxy.model.policy import Snapshot
from proxy.model.policy_keys import PolicyTrust
from proxy.model.signed import Kind
from proxy.model.snapshot import unpack


def build(
    desired: Desired,
    facts: Mapping[HostName, HostFacts],
    *,
    failures: Mapping[HostName, MeshError],
    findings: Mapping[HostName, tuple[Finding, ...]],
    limit: Collection[HostName] = (),
) -> Plan:
    """``failures``: why a host could not be asked. ``findings``: what preflight says of those
    that could, besides what it says here. ``limit``: only these hosts; empty: all."""
    published = newest_snapshot(facts, desired.policy_trust)
    if published is not None:
        newest = max(desired.generation, published.generation)
        desired = replace(desired, generation=newest)
    found = {
        host.name: (*examine(desired.inventory, host, facts[host.name], desired.owner),
                    *findings.get(host.name, ()))
        for host in desired.inventory.hosts
        if host.name in facts and _is_wanted(host, limit)
    }  # fmt: skip
    touched = {name for name, faults in found.items() if not faults}
    record = planned(desired.inventory, touched, desired.before)
    is_whole = len(touched) == len(desired.inventory.hosts)
    known: _Known | None = None
    if desired.consul is not None:
        known = _known(desired, desired.consul, facts, record, is_whole=is_whole)
    hosts = tuple(
        _host(desired, host, facts, failures, found, limit, record, known)
        for host in desired.inventory.hosts
    )
    is_any_left = any(
        host.verdict in (Verdict.INSTALL, Verdict.CHANGE, Verdict.UNCHANGED) for host in hosts
    )
    return Plan(
        hosts=hosts,
        before=tuple(_before(desired, facts)) if is_any_left else (),
        between=tuple(_between(desired, record, known)) if is_any_left else (),
        after=tuple(_after(desired, facts, published, record, known)) if is_any_left else (),
        record=record,
        warnings=(
            *_untold(desired, facts, failures, found, limit, record),
            *(known.warnings if known is not None else ()),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the steps of a managed Consul depend on besides their host."""

    access: Access
    tls: Tls

    @property
    def warnings(self) -> Iterator[str]:
        yield from access.warnings(self.access)
        if self.tls.warning:
            yield self.tls.warning


def _known(
    desired: Desired,
    managed: ManagedConsul,
    facts: Mapping[HostName, HostFacts],
    record: DeployRecord,
    *,
    is_whole: bool,
) -> _Known:
    known = access.access(desired.inventory, managed, facts, record, is_whole=is_whole)
    return _Known(
        access=known,
        tls=rpctls.tls(
            desired.inventory, managed, facts,
            is_fresh=known.is_fresh, is_whole=is_whole, now=desired.now,
        ),
    )  # fmt: skip


def _is_wanted(host: Host, limit: Collection[HostName]) -> bool:
    return not limit or host.name in limit


def _host(
    desired: Desired,
    host: Host,
    facts: Mapping[HostName, HostFacts],
    failures: Mapping[HostName, MeshError],
    findings: Mapping[HostName, tuple[Finding, ...]],
    limit: Collection[HostName],
    record: DeployRecord,
    known: _Known | None,
) -> HostPlan:
    if not _is_wanted(host, limit):
        return _left_out(desired, host, facts.get(host.name), record)
    if host.name in failures:
        error = failures[host.name]
        return HostPlan(
            host=host.name,
            address=host.address,
            verdict=Verdict.UNREACHABLE,
            error=str(error),
            hint=error.hint,
            exit_code=int(error.exit_code),
        )
    observed = facts[host.name]
    if findings[host.name]:
        return HostPlan(
            host=host.name,
            address=host.address,
            verdict=Verdict.BLOCKED,
            findings=findings[host.name],
        )
    steps = tuple(_steps(desired, host, observed, record, known))
    is_new = not observed.seen.current and carries_proxy(host)
    if not carries_proxy(host) and runs_signer(desired, host):
        is_new = not observed.seen.signer.release
    verdict = Verdict.INSTALL if is_new else Verdict.CHANGE if steps else Verdict.UNCHANGED
    assert observed.seen.python is not None, "preflight lets no host without Python through"
    return HostPlan(
        host=host.name,
        address=host.address,
        verdict=verdict,
        python=observed.seen.python.executable,
        steps=steps,
    )


def _left_out(
    desired: Desired, host: Host, observed: HostFacts | None, record: DeployRecord
) -> HostPlan:
    """By ``--limit``; its signer has to know of the others even so."""
    skipped = HostPlan(host=host.name, address=host.address, verdict=Verdict.SKIPPED)
    if observed is None or observed.seen.python is None or not runs_signer(desired, host):
        return skipped
    steps = tuple(signer.told(desired, host, observed, record))
    return replace(skipped, python=observed.seen.python.executable if steps else "", steps=steps)


def _untold(
    desired: Desired,
    facts: Mapping[HostName, HostFacts],
    failures: Mapping[HostName, MeshError],
    findings: Mapping[HostName, tuple[Finding, ...]],
    limit: Collection[HostName],
    record: DeployRecord,
) -> Iterator[str]:
    """Signers that were certified once and do not get the deploy record this time."""
    for host in desired.inventory.signer_hosts:
        if host.name not in desired.certified:
            continue
        why = ""
        if host.name in failures:
            why = str(failures[host.name])
        elif findings.get(host.name):
            why = findings[host.name][0].message
        is_known = not _is_wanted(host, limit) and record == desired.before
        if why and not is_known:
            yield signer.untold(host.name, why)


def _steps(
    desired: Desired, host: Host, facts: HostFacts, record: DeployRecord, known: _Known | None
) -> Iterator[Step]:
    first: tuple[Step, ...]
    if runs_signer(desired, host):
        first = tuple(signer.steps(desired, host, facts, record))
    else:
        first = tuple(signer.removal(host, facts))
    yield from first
    if desired.consul is not None and known is not None:
        bundle = desired.signer_bundles.get(host.name)
        yield from consul.steps(
            desired.inventory, desired.consul, host, facts, known.access, known.tls,
            signer=bundle.digest if bundle else "",
        )  # fmt: skip
    if carries_proxy(host):
        coming = {
            wheel.name
            for step in first
            if isinstance(step.payload, model.PushWheels)
            for wheel in step.payload.wheels
        }
        yield from proxy.steps(desired, host, facts, coming=coming)
    else:
        yield from leftovers.steps(desired, host, facts, None)
    is_enforced_last = known is not None and (
        known.access.is_enforced_last or known.tls.is_enforced_last
    )
    if desired.consul is not None and known is not None and is_enforced_last:
        yield from consul.enforcement(
            desired.inventory, desired.consul, host, facts, known.access, known.tls
        )


def _before(desired: Desired, facts: Mapping[HostName, HostFacts]) -> Iterator[Step]:
    settings = desired.inventory.consul
    is_answering = any(fact.seen.consul.is_answering for fact in facts.values())
    if settings.mode is ConsulMode.EMBEDDED and not is_answering:
        yield Step(
            host=None,
            action=Action.START_REGISTRY,
            title="start the embedded registry",
            why=f"nothing answers at {settings.address}",
            payload=model.StartRegistry(address=settings.address),
        )


def _between(desired: Desired, record: DeployRecord, known: _Known | None) -> Iterator[Step]:
    if desired.consul is not None and known is not None:
        yield from access.between(
            desired.consul, known.access, desired.before, record,
            is_tls_enforced=known.tls.mode is Mode.ENFORCED,
        )  # fmt: skip


def _after(
    desired: Desired,
    facts: Mapping[HostName, HostFacts],
    published: Snapshot | None,
    record: DeployRecord,
    known: _Known | None,
) -> Iterator[Step]:
    yield from _publication(desired, facts, published)
    if desired.consul is not None and known is not None:
        yield from access.after(desired.consul, known.access, record)


def _publication(
    desired: Desired, facts: Mapping[HostName, HostFacts], published: Snapshot | None
) -> Iterator[Step]:
    why = ""
    if published is None or published.trust_domain != desired.trust_domain:
        why = _why_none(facts)
    elif published.generation < desired.generation:
        why = (
            f"Consul has generation {published.generation}, older than {desired.generation}, "
            "which was published from here"
        )
    elif published.policy != desired.policy:
        why = f"generation {published.generation} says something else"
    if not why:
        return
    yield Step(
        host=None,
        action=Action.PUBLISH,
        title="publish the mesh's policy",
        why=why,
        payload=model.Publish(policy=desired.policy),
    )


def _why_none(facts: Mapping[HostName, HostFacts]) -> str:
    if any(fact.seen.consul.snapshot for fact in facts.values()):
        return "what is published is not signed by this mesh"
    if any(fact.seen.consul.is_snapshot_known for fact in facts.values()):
        return "none is published yet"
    return "what is published could not be read"


def newest_snapshot(facts: Mapping[HostName, HostFacts], trust: PolicyTrust) -> Snapshot | None:
    """The published policy, as the best informed of the hosts' agents has it. What is not signed
    by this mesh is none."""
    found = []
    for fact in facts.values():
        try:
            found.append(unpack(verified(Kind.POLICY, fact.seen.consul.snapshot, trust)))
        except (Unverified, Malformed):
            continue  # nothing there, or not a snapshot of ours: publishing decides
    return max(found, key=lambda snapshot: snapshot.generation, default=None)
