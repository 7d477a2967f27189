"""What ``explain`` tells in advance is what two real data planes do, request by request.

Policies and requests are drawn by lot (``agreement.lot``) from a seed that a failure names.
Compared are status, route, the path and Host that the application gets, who got it, what denied
it, what an audit noted, whether a rate limit counted it, and where a redirect leads.
"""

import datetime
import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import uvloop
from agreement.lot import HOSTS, SERVICES, Lot

from meshctl.policy.explained import Explanation, Judgement, Outcome
from meshctl.policy.explaining import Request, explain
from meshctl.policy.origins import Places
from meshctl.policy.world import CompiledWorld, World
from proxy.model.endpoint import Catalogue
from proxy.model.names import ServiceName
from proxy.model.policy import Policy

SEED = 20261
WORLDS = 40
REQUESTS = 250
"""Of each world: 10,000 in all."""
_TESTS = Path(__file__).parent.parent


def _module(path: str) -> ModuleType:
    """The fixtures' own machinery; a conftest is no module that could be imported by name."""
    name = "agreement_" + path.replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, _TESTS / path)
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


# What is seen


@dataclass
class Seen:
    status: int
    flag: str
    policy: str
    route: str
    location: str
    is_limited: bool
    host: str = ""
    """Whose application got it; empty: none."""
    target: str = ""
    authority: str = ""


@dataclass
class Wire:
    """The clients of one grid, one connection each; made anew where a proxy ended it."""

    grid: Any
    kept: dict[tuple[str, str], Any] = field(default_factory=dict)

    async def send(self, caller: str, service: str, request: Request) -> Seen:
        """``service`` empty: the port that is routed by Host."""
        key = (caller, service)
        client = self.kept.get(key)
        if client is None:
            connect = (
                self.grid.connect_hosts(caller)
                if not service
                else self.grid.connect(service, caller)
            )
            client = self.kept[key] = await connect
        before = {name: len(app.requests) for name, app in self.grid.apps.items()}
        fields = request.fields
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        client.send(f"{request.method} {request.target} HTTP/1.1\r\n{lines}\r\n".encode())
        response = await client.response(method=request.method)
        headers = response.headers
        if response.status in (400, 501) or any(name.lower() == "connection" for name, _ in fields):
            client.close()
            del self.kept[key]
        seen = Seen(
            status=response.status,
            flag=headers.get("x-mesh-flag", ""),
            policy=headers.get("x-mesh-policy", ""),
            route=headers.get("x-route", ""),
            location=headers.get("location", ""),
            is_limited="ratelimit-limit" in headers,
        )
        for name, app in self.grid.apps.items():
            if len(app.requests) > before[name]:
                seen.host = name
                seen.target = app.requests[-1].target
                seen.authority = app.requests[-1].all("host")[0]
        return seen


# Whether the two agree


def disagreement(told: Explanation, seen: Seen, audited: Counter[str]) -> str:
    """Empty: they agree. Counts in ``audited`` what the audits are expected to note."""
    if told.outcome is Outcome.REFUSED and not told.branches:
        return "" if seen.flag in ("DPE", "NR") and not seen.host else "told: refused"
    branch = told.branches[0]
    certain = [each for each in told.faults if each.abort_status and each.percent >= 100]
    if certain:
        is_same = (seen.status, seen.flag) == (certain[0].abort_status, "FI")
        return "" if is_same else f"told: fault {certain[0].name} {certain[0].abort_status}"
    if seen.route != branch.route:
        return f"told: route {branch.route!r}"
    if branch.answer is not None:
        is_same = (seen.status, seen.location) == (branch.answer.status, branch.answer.location)
        return "" if is_same and not seen.host else f"told: {branch.answer}"
    possible = list(_possible(told))
    for is_denied, status, policy, hosts, judged in possible:
        if (seen.status, seen.policy) != (status, policy):
            continue
        if is_denied or judged is None:
            if seen.host:
                continue
        elif seen.host not in hosts:
            continue
        elif (seen.target, seen.authority) != (judged.target, judged.authority):
            return f"told: {judged.authority}{judged.target} at the application"
        elif seen.is_limited != bool(judged.limits):
            return f"told: limits {judged.limits}"
        if judged is not None:
            audited.update(judged.audited)
            return rules_fit(judged)
        return ""
    return f"told: one of {[each[:4] for each in possible]}"


def _possible(
    told: Explanation,
) -> Iterator[tuple[bool, int, str, tuple[str, ...], Judgement | None]]:
    """Denied or not, status, policy, hosts of each destination that may get it, its judgement."""
    branch = told.branches[0]
    pinned = [each for each in branch.destinations if each.is_pinned]
    for each in pinned or branch.destinations:
        if each.share_percent <= 0:
            continue
        if not each.is_declared:
            yield True, 403, f"{told.service}/undeclared", (), None
            continue
        tier = next((tier for tier in each.tiers if tier.hosts), None)
        if tier is None:
            yield False, 503, "", (), None
            continue
        judged = branch.judgement(tier.service)
        assert judged is not None
        if judged.outcome is Outcome.ALLOWED:
            yield False, 200, "", tier.hosts, judged
        else:
            yield True, 403, judged.policy, (), judged


def rules_fit(judged: Judgement) -> str:
    """What is told of single rules leads to the decision that was taken."""
    heard = [each for each in judged.rules if not each.is_audit and each.result == "holds"]
    named = [each for each in judged.rules if each.id == judged.policy]
    if named and heard != named:
        return f"told: {judged.policy} decides, and these hold: {heard}"
    if judged.policy.endswith("/default-deny") and heard:
        return f"told: nothing allows it, and these hold: {heard}"
    return ""


def kind_of(told: Explanation) -> str:
    if told.branches and (branch := told.branches[0]).answer is not None:
        return f"answered: {branch.answer.what}" if branch.answer else ""
    if told.outcome is Outcome.DENIED:
        policy = told.why.rpartition("/")[2].rstrip(")")
        return f"denied: {'intention' if policy.startswith('w') else policy}"
    return str(told.outcome)


async def compare(
    seed: int, worlds: int, requests: int, folder: Path
) -> tuple[Counter[str], list[str]]:
    base, features = _module("proxy/conftest.py"), _module("proxy/features/conftest.py")
    grid = features.Grid(base.MeshPki(folder), base.App, base.Client)
    await grid.start()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    try:
        for host, service, version in (
            ("a1", "api", "v1"), ("a2", "api", "v2"), ("b1", "api2", "v1"), ("b2", "api2", "v2"),
            ("o1", "orders", "v1"), ("u1", "undeclared", "v1"),
        ):  # fmt: skip
            allow = ("web",) if service == "api2" else ("web", "other")
            await grid.serve(service, host, version=version, allow=allow)
        wire = Wire(grid)
        for number in range(worlds):
            lot = Lot(seed + number)
            policy = lot.policy(number, until)
            grid.policy = {str(name): own for name, own in policy.services.items()}
            grid.apply()
            asked = worlds_of(grid, policy)
            audited: Counter[str] = Counter()
            for turn in range(requests):
                caller = lot.rng.choice(("web", "web", "other"))
                service = lot.rng.choice(SERVICES)
                by_host = lot.rng.random() < 0.25
                host = lot.rng.choice(HOSTS).format(service) if by_host else f"{service}.mesh"
                request = lot.request()
                if not any(name.lower() == "host" for name, _ in request.fields):
                    request = replace(request, fields=(("Host", host), *request.fields))
                told = explain(asked[by_host], ServiceName(caller), ServiceName(service), request)
                seen = await wire.send(caller, "" if by_host else service, request)
                counts[kind_of(told)] += 1
                what = disagreement(told, seen, audited)
                if what:
                    wrong.append(
                        f"seed {seed + number}, request {turn}: {caller} -> {service} "
                        f"({'by Host ' + host if by_host else 'by port'}) {request}\n"
                        f"    seen: {seen}\n    {what}\n    told: {told.outcome}: {told.why}"
                    )
                    if len(wrong) >= 10:
                        return counts, wrong
            wrong += audits_differ(grid, number, audited)
            counts["audited"] += audited.total()
    finally:
        await grid.stop()
    return counts, wrong


def audits_differ(grid: Any, world: int, expected: Counter[str]) -> Iterator[str]:
    for service in SERVICES:
        for number in range(4):
            policy = f"{service}/w{world}-i{number}"
            counted = sum(
                grid.metric(host, "mesh_authorization_audited_total", policy=policy)
                for host in grid.apps
            )
            if counted != expected[policy]:
                yield f"{policy} audited {counted:g} calls; told: {expected[policy]}"


def worlds_of(grid: Any, policy: Policy) -> dict[bool, CompiledWorld]:
    """The grid's, as it is, and under True with no ports but the one that is routed by Host."""
    endpoints: dict[ServiceName, list[Any]] = {}
    for each in grid._endpoints.values():
        endpoints.setdefault(each.service, []).append(each)
    catalogue = Catalogue(endpoints={name: tuple(each) for name, each in endpoints.items()})
    settings = tuple(grid.settings.values())
    shared = tuple(
        msgspec.structs.replace(
            each,
            workloads=tuple(
                msgspec.structs.replace(
                    work,
                    upstreams=tuple(
                        msgspec.structs.replace(use, listen=None) for use in work.upstreams
                    ),
                )
                for work in each.workloads
            ),
        )
        for each in settings
    )
    now = datetime.datetime.now(datetime.UTC)
    return {
        by_host: CompiledWorld(
            World(settings=told, policy=policy, catalogue=catalogue), Places(None, ""), now
        )
        for by_host, told in ((False, settings), (True, shared))
    }


@pytest.mark.timeout(900)
def test_explain_agrees_with_the_proxies(tmp_path: Path) -> None:
    counts, wrong = uvloop.run(compare(SEED, WORLDS, REQUESTS, tmp_path))
    for kind, count in sorted(counts.items()):
        print(f"{count:6}  {kind}")
    assert not wrong, "\n\n".join(wrong)
    audited = counts.pop("audited")
    assert counts.total() == WORLDS * REQUESTS
    assert audited > 0
    for kind in ("allowed", "depends", "denied: intention", "denied: default-deny",
                 "denied: undeclared", "denied: ambiguous-path", "answered: redirect",
                 "answered: respond", "answered", "refused"):  # fmt: skip
        assert counts[kind] > 20, kind
