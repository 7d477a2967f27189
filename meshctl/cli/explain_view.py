"""An explanation for people: what happens, in the order in which it happens."""

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from meshctl import durations
from meshctl.cli import console
from meshctl.policy.explained import (
    Branch,
    Destination,
    Explanation,
    FaultSeen,
    Judgement,
    Outcome,
    RuleSeen,
    Setting,
    Unmet,
)
from meshctl.policy.hops import Hop

_STYLE = {
    Outcome.ALLOWED: "bold green",
    Outcome.ANSWERED: "bold cyan",
    Outcome.DEPENDS: "bold yellow",
    Outcome.DENIED: "bold red",
    Outcome.REFUSED: "bold red",
}
_MARK = {"holds": "yes", "does not hold": "no", "depends": "?"}
_MAX_PASSED_OVER = 20
_ALWAYS = (
    "timeouts.connect",
    "timeouts.request",
    "timeouts.grpc",
    "retries.attempts",
    "load_balancing.algorithm",
)
"""Settings that are shown even if nobody has set them."""


def show(told: Explanation, source: str) -> None:
    """``source``: what was explained, for people: ``mesh.yaml``, ``generation 7``."""
    subject = f"{told.caller} -> {told.service}"
    asked = f"  {escape(told.request)}" if told.request else ""
    console.out.print(
        f"[bold]{escape(subject)}[/]{asked}  [dim]{told.protocol}, {escape(source)}[/]"
    )
    console.out.print(f"[{_STYLE[told.outcome]}]{told.outcome}[/]: {escape(told.why)}{_grpc(told)}")
    if told.ways:
        _title("how it is called")
        for way in told.ways:
            user = f", by processes of {way.user}" if way.user else ""
            names = f" with Host {', '.join(way.names)}" if way.names else ""
            console.out.print(f"  {way.address} on {way.host}{escape(names + user)}")
    _faults(told.faults)
    _passed_over(told)
    shown: set[object] = set()
    for branch in told.branches:
        _branch(told, branch, shown)


def _grpc(told: Explanation) -> str:
    return f"; the client gets {told.grpc_status}" if told.grpc_status else ""


def _faults(faults: tuple[FaultSeen, ...]) -> None:
    if faults:
        _title("faults on purpose, first of all")
    for each in faults:
        does = [f"{durations.show(each.delay_s)} later"] if each.delay_s else []
        does += [f"status {each.abort_status}"] if each.abort_status else []
        does += [f"{each.grpc_status} for gRPC"] if each.grpc_status else []
        share = f"{each.percent:g} % of requests" if each.percent < 100 else "every request"
        what = f"{each.name}: {share} get {', '.join(does) or 'nothing'}, until {each.until}"
        _line(what, each.at, each.depends_on and f"if {each.depends_on}")


def _passed_over(told: Explanation) -> None:
    if not told.passed_over:
        return
    _title("routes before it that do not match")
    for each in told.passed_over[:_MAX_PASSED_OVER]:
        _line(each.name, each.at, _because(each.unmet))
    if len(told.passed_over) > _MAX_PASSED_OVER:
        console.out.print(f"  and {len(told.passed_over) - _MAX_PASSED_OVER} more (-o json)")


def _branch(told: Explanation, branch: Branch, shown: set[object]) -> None:
    """``shown``: what was shown for branches before it, and is not repeated."""
    if branch.route:
        condition = f"if {branch.conditions}" if branch.conditions and not told.request else ""
        _title(f"route {branch.route}", branch.at, condition)
    elif len(told.branches) == 1 and not told.passed_over:
        _title("no routes: the service itself")
    else:
        _title("no route matches: the service itself" if told.request else "otherwise: the service")
    answer = branch.answer
    if answer is not None:
        where = f" to {answer.location}" if answer.location else ""
        console.out.print(f"  its own proxy answers {answer.status}{escape(where)} ({answer.what})")
        return
    if branch.changes:
        console.out.print(f"  changes: {escape(branch.changes)}")
    if branch.sticky:
        console.out.print(f"  sticky by {escape(branch.sticky)}")
    if branch.destinations:
        console.out.print(_destinations(branch))
    for to in branch.destinations:
        for number, tier in enumerate(to.tiers[1:], start=1):
            where = f" in {tier.datacenter}" if tier.datacenter else ""
            hosts = f": {_hosts(tier.hosts)}" if not tier.datacenter else ""
            console.out.print(
                f"  failover {number} of {to.name}: {tier.name}{where}{escape(hosts)}"
            )
    mirror = branch.mirror
    if mirror is not None:
        undeclared = "" if mirror.is_declared else ", which the caller does not declare: no copies"
        _line(f"mirrored: {mirror.percent:g} % to {mirror.name}{undeclared}", mirror.at)
    for judged in branch.judgements:
        if judged in shown:
            console.out.print(f"at {judged.service}: as above")
        else:
            shown.add(judged)
            _judgement(judged)
    settings = _settings(branch)
    if settings and settings not in shown:
        shown.add(settings)
        _title("settings in force", "", "the rest is built-in: -o json has it")
        for each in settings:
            _line(each, "")


def _destinations(branch: Branch) -> Table:
    rows = console.table("  DESTINATION", "SHARE", "ENDPOINTS", "CALLED SIDE", "WHERE")
    for to in branch.destinations:
        share = f"{to.share_percent:.4g} %" + (" (this one)" if to.is_pinned else "")
        rows.add_row(
            f"  {to.name}", share, escape(_hosts(to.tiers[0].hosts) if to.tiers else "-"),
            _says(branch, to), escape(to.at or "-"),
        )  # fmt: skip
    return rows


def _says(branch: Branch, to: Destination) -> str:
    if not to.is_declared:
        return "[red]refused: not declared[/]"
    judged = branch.judgement(to.service)
    return "-" if judged is None else f"[{_STYLE[judged.outcome]}]{judged.outcome}[/]"


def _hosts(hosts: Iterable[str]) -> str:
    named = list(hosts)
    more = f" and {len(named) - 5} more" if len(named) > 5 else ""
    return (", ".join(named[:5]) + more) or "none"


def _judgement(judged: Judgement) -> None:
    policy = f" (policy {judged.policy})" if judged.policy else ""
    word = f"[{_STYLE[judged.outcome]}]{judged.outcome}[/]"
    console.out.print(
        f"[bold]at {judged.service}[/]: {word}: {escape(judged.why + policy)}{_at(judged.at)}"
    )
    if judged.target and judged.outcome is Outcome.ALLOWED:
        console.out.print(
            f"  the application gets: {escape(judged.target)}, Host {escape(judged.authority)}"
        )
    if judged.is_permissive:
        _line("permissive: served without an identity too, on a plaintext port", "")
    for rule in judged.rules:
        kind = "audit, " if rule.is_audit else ""
        mark = _MARK.get(rule.result, "-")
        _line(f"{mark:3} {kind}{rule.verb} {rule.id}", rule.at, _reason(rule))
    for policy_id in judged.audited:
        verb = "deny" if judged.outcome is Outcome.ALLOWED else "allow"
        console.out.print(f"  audit {escape(policy_id)} would {verb} it")
    for limit in judged.limits:
        asked = limit.depends_on and f"if {limit.depends_on}"
        _line(f"counted by the rate limit {limit.name}: {limit.figures}", limit.at, asked)


def _reason(rule: RuleSeen) -> str:
    match rule.result:
        case "does not hold":
            return _because(rule.unmet)
        case "depends":
            return f"if {rule.conditions}"
        case "holds":
            return rule.conditions
        case other:
            return other


def _because(unmet: tuple[Unmet, ...]) -> str:
    return "; ".join(f"it wants {each.wants}, and has {each.has}" for each in unmet)


def _settings(branch: Branch) -> tuple[str, ...]:
    """What people ask for first, and whatever is not built in."""
    made = [_setting("", each) for each in branch.settings if _is_worth(each)]
    is_one = len({each.service for each in branch.destinations}) == 1
    for to in branch.destinations:
        name = "" if is_one else f"{to.service}: "
        made += [_setting(name, each) for each in to.settings if _is_worth(each)]
    return tuple(dict.fromkeys(made))


def _is_worth(setting: Setting) -> bool:
    return setting.origin != "built-in" or setting.key in _ALWAYS


def _setting(name: str, each: Setting) -> str:
    where = each.at or each.origin
    of = f", {each.origin}" if each.at else ""
    return f"{name}{each.key}: {each.value}  ({where}{of})"


def show_hops(request_id: str, way: tuple[Hop, ...]) -> None:
    """Each proxy's view, indented below who led there."""
    console.out.print(f"[bold]request {escape(request_id)}[/]")
    for hop in way:
        seen, indent = hop.seen, "  " * (hop.depth + 1)
        side = "caller's proxy" if seen.side == "source" else "called side"
        flag = f" {seen.flag}" if seen.flag else ""
        is_good = 0 < seen.status < 400 and not seen.flag
        console.out.print(
            f"{indent}[bold]{escape(seen.caller)} -> {escape(seen.service)}[/], {side} on "
            f"{escape(seen.host)}: [{'green' if is_good else 'red'}]{seen.status}{escape(flag)}[/]"
            f" in {seen.duration_ms:g} ms"
        )
        details = [f"{seen.method} {seen.path}, {seen.request_bytes} bytes, ended {seen.ended_at}"]
        if seen.route:
            details.append(f"route {seen.route}")
        if seen.endpoints:
            tries = "1 try" if seen.tries == 1 else f"{seen.tries} tries"
            details.append(f"{tries}: {', then '.join(seen.endpoints)}")
        if seen.first_byte_ms:
            details.append(f"first byte of the answer after {seen.first_byte_ms:g} ms")
        for each in details:
            console.out.print(f"{indent}  {escape(each)}")
        if hop.why:
            why = f"denied by {seen.policy}: {hop.why}"
            console.out.print(f"{indent}  [red]{escape(why)}[/]{_at(hop.at)}")


def _title(text: str, at: str = "", more: str = "") -> None:
    console.out.print(f"[bold]{escape(text)}[/]{_at(at)}{'  ' + escape(more) if more else ''}")


def _line(text: str, at: str, more: str = "") -> None:
    console.out.print(f"  {escape(text)}{_at(at)}{'  ' + escape(more) if more else ''}")


def _at(at: str) -> str:
    return f"  [dim]{escape(at)}[/]" if at else ""
