"""Which leaves a host needs: issued where there is none that is good, removed where not wanted."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from meshctl.facts.model import HostFacts, Identity
from meshctl.inventory.model import Host
from meshctl.plan import model
from meshctl.plan.desired import Desired
from meshctl.plan.model import Action, Step
from proxy.model.names import ServiceName, TrustDomain, spiffe_id
from proxy.model.settings import Settings

RENEW_BELOW = 1 / 3
"""Of its life left: a deploy renews what the owner of a calendar would have to renew soon."""


def steps(desired: Desired, host: Host, facts: HostFacts, settings: Settings) -> Iterator[Step]:
    have = {fact.service: fact for fact in facts.seen.identities}
    wanted = {workload.service for workload in settings.workloads}
    for service in sorted(wanted):
        why = leaf_fault(
            have.get(service), service, desired.trust_domain, desired.issuer, desired.now
        )
        if why:
            yield Step(
                host=host.name,
                action=Action.ISSUE_LEAF,
                title=f"issue the identity of {service}",
                why=why,
                details=(spiffe_id(desired.trust_domain, service),),
                payload=model.IssueLeaf(
                    service=service, release=settings.release, config=settings.config
                ),
            )
    for service in sorted(set(have) - wanted):
        yield Step(
            host=host.name,
            action=Action.REMOVE_LEAF,
            title=f"remove the identity of {service}",
            why="the inventory has the service elsewhere, or not at all",
            payload=model.RemoveLeaf(service=service),
        )


def leaf_fault(
    fact: Identity | None,
    service: ServiceName,
    trust_domain: TrustDomain,
    issuer: str,
    now: datetime,
) -> str:
    """Why a leaf has to be issued; empty: the one on the host is good."""
    if fact is None:
        return "the host has none"
    if fact.identity is None:
        return f"the one on the host cannot be used: {fact.error or 'it is incomplete'}"
    leaf = fact.identity
    if leaf.spiffe_id != spiffe_id(trust_domain, service):
        return f"the one on the host is for {leaf.spiffe_id}"
    if len(fact.chain) < 2 or fact.chain[1] != issuer:
        return "another CA issued the one on the host"
    begin, end = _instant(leaf.not_before), _instant(leaf.not_after)
    if now >= end:
        return f"the one on the host expired at {leaf.not_after}"
    if now < begin - timedelta(seconds=1):
        return f"the one on the host is not valid before {leaf.not_before}"
    if end - now < (end - begin) * RENEW_BELOW:
        return f"the one on the host expires at {leaf.not_after}"
    return ""


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
