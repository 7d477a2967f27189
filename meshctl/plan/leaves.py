"""Which leaves a host needs: issued where there is none that is good, removed where not wanted."""

from collections.abc import Collection, Iterator
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
RENEW_SIGNED_BELOW = 0.1
"""The same where signers are: a proxy renews by itself before 90 % of the life are over."""


LEAST_SHARE = 0.5
"""Of the life that leaves are to have: one for a day is of no use once nobody renews it."""
_BACKDATE = timedelta(minutes=1)
"""``pki.authority.BACKDATE_S``."""


def steps(desired: Desired, host: Host, facts: HostFacts, settings: Settings) -> Iterator[Step]:
    have = {fact.service: fact for fact in facts.seen.identities}
    wanted = {workload.service for workload in settings.workloads}
    is_renewed = bool(desired.inventory.signer_hosts)
    wanted_life = timedelta(seconds=desired.inventory.leaf_life_s)
    for service in sorted(wanted):
        why = leaf_fault(
            have.get(service),
            service,
            desired.trust_domain,
            desired.signers | {desired.issuer},
            desired.now,
            renew_below=RENEW_SIGNED_BELOW if is_renewed else RENEW_BELOW,
            host=host.name if is_renewed else "",
            least_life=timedelta(0) if is_renewed else wanted_life * LEAST_SHARE,
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
    issuers: Collection[str],
    now: datetime,
    *,
    host: str = "",
    renew_below: float = RENEW_BELOW,
    least_life: timedelta = timedelta(0),
) -> str:
    """Why a leaf has to be issued; empty: the one on the host is good. ``issuers``: SHA-256 of
    the DER of each CA whose leaves are good. ``host``: what it must name in its subject, because
    signers renew by that; empty: anything. ``renew_below``: share of its life that must be left;
    ``least_life``: how long the whole of it must be."""
    if fact is None:
        return "the host has none"
    if fact.identity is None:
        return f"the one on the host cannot be used: {fact.error or 'it is incomplete'}"
    leaf = fact.identity
    if leaf.spiffe_id != spiffe_id(trust_domain, service):
        return f"the one on the host is for {leaf.spiffe_id}"
    if len(fact.chain) < 2 or fact.chain[1] not in issuers:
        return "another CA issued the one on the host"
    if host and fact.host != host:
        return f"no signer would renew it: it names {fact.host or 'no host'}"
    begin, end = _instant(leaf.not_before), _instant(leaf.not_after)
    if now >= end:
        return f"the one on the host expired at {leaf.not_after}"
    if now < begin - timedelta(seconds=1):
        return f"the one on the host is not valid before {leaf.not_before}"
    if end - begin < least_life:
        return f"the one on the host, until {leaf.not_after}, is of a time when signers renewed it"
    # Leaves are backdated, which is no part of a life that may be as short as a minute.
    if end - now < (end - begin - _BACKDATE) * renew_below:
        return f"the one on the host expires at {leaf.not_after}"
    return ""


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
