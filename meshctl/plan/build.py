"""Desired x facts -> plan. Pure: the same input gives an equal plan."""

from collections.abc import Collection, Iterator, Mapping

from meshctl.errors import MeshError
from meshctl.facts.model import HostFacts
from meshctl.facts.preflight import Finding, examine
from meshctl.inventory.model import ConsulMode, Host
from meshctl.plan import consul, model, proxy
from meshctl.plan.desired import Desired, carries_proxy
from meshctl.plan.model import Action, HostPlan, Plan, Step, Verdict
from proxy.model.codec import Malformed
from proxy.model.names import HostName
from proxy.model.policy import Snapshot
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
    hosts = tuple(
        _host(desired, host, facts, failures, findings.get(host.name, ()), limit)
        for host in desired.inventory.hosts
    )
    is_any_left = any(
        host.verdict in (Verdict.INSTALL, Verdict.CHANGE, Verdict.UNCHANGED) for host in hosts
    )
    return Plan(
        hosts=hosts,
        before=tuple(_before(desired, facts)) if is_any_left else (),
        after=tuple(_after(desired, facts)) if is_any_left else (),
    )


def _host(
    desired: Desired,
    host: Host,
    facts: Mapping[HostName, HostFacts],
    failures: Mapping[HostName, MeshError],
    known: tuple[Finding, ...],
    limit: Collection[HostName],
) -> HostPlan:
    if limit and host.name not in limit:
        return HostPlan(host=host.name, address=host.address, verdict=Verdict.SKIPPED)
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
    found = (*examine(desired.inventory, host, observed, desired.owner), *known)
    if found:
        return HostPlan(
            host=host.name, address=host.address, verdict=Verdict.BLOCKED, findings=found
        )
    steps = tuple(_steps(desired, host, observed))
    is_new = not observed.seen.current and carries_proxy(host)
    verdict = Verdict.INSTALL if is_new else Verdict.CHANGE if steps else Verdict.UNCHANGED
    assert observed.seen.python is not None, "preflight lets no host without Python through"
    return HostPlan(
        host=host.name,
        address=host.address,
        verdict=verdict,
        python=observed.seen.python.executable,
        steps=steps,
    )


def _steps(desired: Desired, host: Host, facts: HostFacts) -> Iterator[Step]:
    if desired.consul is not None:
        yield from consul.steps(desired.inventory, desired.consul, host, facts)
    if carries_proxy(host):
        yield from proxy.steps(desired, host, facts)


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


def _after(desired: Desired, facts: Mapping[HostName, HostFacts]) -> Iterator[Step]:
    published = newest_snapshot(facts)
    if (
        published is not None
        and published.policy == desired.policy
        and published.trust_domain == desired.trust_domain
    ):
        return
    is_known = any(fact.seen.consul.is_snapshot_known for fact in facts.values())
    why = "none is published yet" if is_known else "what is published could not be read"
    if published is not None:
        why = f"generation {published.generation} says something else"
    yield Step(
        host=None,
        action=Action.PUBLISH,
        title="publish the mesh's policy",
        why=why,
        payload=model.Publish(policy=desired.policy),
    )


def newest_snapshot(facts: Mapping[HostName, HostFacts]) -> Snapshot | None:
    """The published policy, as the best informed of the hosts' agents has it."""
    found = []
    for fact in facts.values():
        try:
            found.append(unpack(fact.seen.consul.snapshot))
        except Malformed:
            continue  # nothing there, or not a snapshot of ours: publishing decides
    return max(found, key=lambda snapshot: snapshot.generation, default=None)
