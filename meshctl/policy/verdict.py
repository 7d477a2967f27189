"""One word and one sentence for a call, from all that may become of it."""

from collections.abc import Iterator

from meshctl.policy.explained import Branch, Destination, FaultSeen, Judgement, Outcome
from proxy.core.authorization import Reason
from proxy.core.grpc import Status, status_of_refusal
from proxy.model.names import ServiceName

Verdict = tuple[Outcome, str]


def refused(why: str) -> Verdict:
    return Outcome.REFUSED, why


def of_branches(
    asked: ServiceName,
    branches: tuple[Branch, ...],
    faults: tuple[FaultSeen, ...],
    *,
    has_request: bool,
    is_grpc: bool = False,
) -> Verdict:
    """``asked``: the upstream that was called, whatever its routes make of it."""
    certain = next((f for f in faults if f.percent >= 100 and not f.depends_on), None)
    if is_grpc and certain is not None and certain.grpc_status:
        return Outcome.ANSWERED, f"the fault {certain.name!r} answers {certain.grpc_status}"
    if has_request and certain is not None and certain.abort_status:
        return Outcome.ANSWERED, f"the fault {certain.name!r} answers {certain.abort_status}"
    found = list(dict.fromkeys(each for branch in branches for each in _of_branch(asked, branch)))
    outcomes = {outcome for outcome, _ in found}
    if len(outcomes) == 1:
        (outcome,) = outcomes
        reasons = [why for _, why in found]
        return outcome, "; ".join(reasons[:3]) + ("; ..." if len(reasons) > 3 else "")
    if has_request or all(not branch.conditions for branch in branches):
        return Outcome.DEPENDS, "it depends on which destination it gets"
    return Outcome.DEPENDS, "it depends on the request"


def grpc_status(
    outcome: Outcome, branches: tuple[Branch, ...], faults: tuple[FaultSeen, ...]
) -> str:
    """What a gRPC client gets where a proxy answers for certain; else empty."""
    match outcome:
        case Outcome.DENIED:
            policies = {judged.policy for branch in branches for judged in branch.judgements}
            is_token = any(policy.endswith(f"/{Reason.TOKEN}") for policy in policies)
            return (Status.UNAUTHENTICATED if is_token else Status.PERMISSION_DENIED).name
        case Outcome.ANSWERED:
            fault = next((f for f in faults if f.percent >= 100 and not f.depends_on), None)
            if fault is None:
                return ""
            return fault.grpc_status or status_of_refusal(b"FI", fault.abort_status).name
        case Outcome.REFUSED if branches:  # no endpoint is known
            return Status.UNAVAILABLE.name
        case _:
            return ""


def _of_branch(asked: ServiceName, branch: Branch) -> Iterator[Verdict]:
    if branch.answer is not None:
        yield Outcome.ANSWERED, f"its own proxy answers {branch.answer.status}"
        return
    pinned = [each for each in branch.destinations if each.is_pinned]
    for each in pinned or branch.destinations:
        if each.share_percent > 0:
            yield _of_destination(asked, branch, each)


def _of_destination(asked: ServiceName, branch: Branch, to: Destination) -> Verdict:
    if not to.is_declared:
        return Outcome.DENIED, (
            f"route {branch.route!r} leads to {to.name}, which the caller does not declare "
            f"(policy {asked}/{Reason.UNDECLARED})"
        )
    tier = next((each for each in to.tiers if each.hosts), None)
    if tier is None:
        if any(each.datacenter for each in to.tiers):
            return Outcome.DEPENDS, f"only another datacenter may have endpoints for {to.name}"
        return Outcome.REFUSED, f"no endpoint of {to.name} is known: its own proxy answers 503"
    judged = branch.judgement(tier.service)
    if judged is None:
        return Outcome.DEPENDS, f"no host of the inventory carries {tier.service}"
    return judged.outcome, _sentence(judged)


def _sentence(judged: Judgement) -> str:
    if not judged.policy:
        return judged.why
    return f"{judged.why} (policy {judged.policy})"
