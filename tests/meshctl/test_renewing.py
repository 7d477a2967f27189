"""Whether identities are renewed, and what is said where they are not."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec.structs
import pytest

from meshctl.facts.model import HostFacts, Renewal
from meshctl.finding import Severity
from meshctl.layout import SIGNER_UNIT
from meshctl.renewing import (
    leaf_fault,
    renewal_findings,
    renewal_of,
    signer_findings,
    signer_view,
)
from meshctl.status import Catalogue, MeshStatus, build
from proxy.model.names import HostName, ServiceName

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
WEB = "spiffe://mesh.test/svc/web"


def found(world: Any, facts: HostFacts) -> list[tuple[Severity, str]]:
    findings = list(signer_findings(world.host("front"), facts, NOW))
    assert all("meshctl deploy --limit front" in finding.fix for finding in findings)
    return [(finding.severity, finding.message) for finding in findings]


def ending(world: Any, **left: float) -> HostFacts:
    end = (NOW + timedelta(**left)).strftime("%Y-%m-%dT%H:%M:%SZ")
    running = world.signing("front", not_after=end).running
    return replace(world.deployed("front"), signer=running)


def test_a_signer_that_is_well_is_shown_and_nothing_is_said_of_it(signed_world: Any) -> None:
    facts = signed_world.deployed("front")
    assert found(signed_world, facts) == []
    view = signer_view(signed_world.host("front"), facts)
    assert (view.state, view.not_after, view.signed) == ("ready", "2027-01-01T00:00:00Z", 0)


@pytest.mark.parametrize(
    ("days", "severity"),
    [
        (-1.0, Severity.PROBLEM),
        (6.9, Severity.PROBLEM),
        (7.1, Severity.WARNING),
        (59.0, Severity.WARNING),
        (61.0, None),
    ],
)
def test_the_end_of_a_signers_certificate_is_told_in_time(
    signed_world: Any, days: float, severity: Severity | None
) -> None:
    told = [severity for severity, _ in found(signed_world, ending(signed_world, days=days))]
    assert told == ([] if severity is None else [severity])


def test_a_signer_that_does_not_answer_is_a_problem(signed_world: Any, make_unit: Any) -> None:
    facts = replace(signed_world.deployed("front"), signer=None)
    assert "does not answer" in found(signed_world, facts)[0][1]
    assert signer_view(signed_world.host("front"), facts).state == "silent"
    units = {**facts.seen.units, SIGNER_UNIT: make_unit(active="failed", sub="failed")}
    facts = replace(signed_world.deployed("front", units=units), signer=None)
    assert signer_view(signed_world.host("front"), facts).state == "stopped"


def test_a_signer_that_is_not_installed_is_a_problem(signed_world: Any) -> None:
    (only,) = found(signed_world, signed_world.fresh("front"))
    assert only == (Severity.PROBLEM, "no signer is installed on it")


def test_a_signer_that_could_not_read_its_files_is_a_problem(signed_world: Any) -> None:
    facts = signed_world.deployed("front")
    running = msgspec.structs.replace(facts.signer, reload_error="record.json is cut off")
    (only,) = found(signed_world, replace(facts, signer=running))
    assert only[1] == "its signer goes on with older files: record.json is cut off"


def test_a_signer_out_of_reach_is_shown_all_the_same(signed_world: Any) -> None:
    assert signer_view(signed_world.host("front"), None).state == "unreachable"


@pytest.mark.parametrize(
    ("left", "is_renewed", "says"),
    [
        (timedelta(hours=7), True, ""),
        (timedelta(hours=3), True, ""),
        (timedelta(hours=2), True, "should be renewed by now"),
        (timedelta(hours=9), False, ""),
        (timedelta(hours=7), False, "ends on"),
        (timedelta(0), True, "ended on"),
    ],
)
def test_a_leaf_of_a_day_is_late_only_where_its_proxy_should_have_renewed_it(
    make_identity: Any, left: timedelta, is_renewed: bool, says: str
) -> None:
    leaf = make_identity(
        "web",
        not_before=(NOW + left - timedelta(hours=24)).isoformat(),
        not_after=(NOW + left).isoformat(),
    ).identity
    fault = leaf_fault(leaf, WEB, NOW, is_renewed=is_renewed)
    assert says in fault if says else fault == ""


@pytest.mark.parametrize(("left_s", "says"), [(30, ""), (7, ""), (5, "should be renewed by now")])
def test_a_leaf_of_a_minute_is_judged_without_the_minute_it_is_backdated(
    make_identity: Any, left_s: int, says: str
) -> None:
    end = NOW + timedelta(seconds=left_s)
    leaf = make_identity(
        "web",
        not_before=(end - timedelta(seconds=120)).isoformat(),
        not_after=end.isoformat(),
    ).identity
    fault = leaf_fault(leaf, WEB, NOW, is_renewed=True)
    assert says in fault if says else fault == ""


@pytest.mark.parametrize(
    ("renewal", "severity", "says"),
    [
        (Renewal(next_at="2026-06-15T18:00:00Z"), None, ""),
        (Renewal(failures=2, last_error="no signer answers"), Severity.WARNING, "2 time(s): no"),
        (Renewal(is_revoked=True, last_error="not deployed"), Severity.PROBLEM, "refuse to renew"),
    ],
)
def test_what_a_proxy_says_of_its_renewals_is_judged(
    renewal: Renewal, severity: Severity | None, says: str
) -> None:
    findings = list(
        renewal_findings("web on front", HostName("front"), ServiceName("web"), renewal)
    )
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    assert all(says in finding.message for finding in findings)


def with_renewal(world: Any, renewal: Renewal | None, end: str) -> MeshStatus:
    begin = (datetime.fromisoformat(end) - timedelta(hours=24)).isoformat()
    facts = world.deployed("front")
    identity = facts.seen.identities[0].identity
    leaf = msgspec.structs.replace(identity, not_before=begin, not_after=end)
    own = msgspec.structs.replace(facts.seen.identities[0], identity=leaf)
    facts = world.deployed("front", identities=(own,))
    running = msgspec.structs.replace(
        facts.proxy,
        workloads=tuple(
            msgspec.structs.replace(workload, renewal=renewal) for workload in facts.proxy.workloads
        ),
    )
    return build(
        world.inventory,
        world.desired.trust_domain,
        facts={"front": replace(facts, proxy=running), "back": world.deployed("back")},  # type: ignore[dict-item]
        failures={},
        catalogue=Catalogue(generation=3, checks={}),
        now=NOW,
    )


def about_its_end(status: MeshStatus) -> list[str]:
    return [finding.message for finding in status.findings if "certificate ends" in finding.message]


def test_a_renewal_that_works_makes_the_end_of_a_leaf_no_matter(signed_world: Any) -> None:
    end = "2026-06-15T16:00:00Z"  # four hours of a day
    works = with_renewal(signed_world, Renewal(next_at="2026-06-15T13:00:00Z"), end)
    assert about_its_end(works) == []
    assert works.workloads[0].renews_at == "2026-06-15T13:00:00Z"
    assert [signer.host for signer in works.signers] == ["front"]
    fails = with_renewal(signed_world, Renewal(failures=3, last_error="nobody answers"), end)
    assert about_its_end(fails) == [f"its certificate ends on {end}"]
    assert fails.workloads[0].renewal_error == "nobody answers"
    assert about_its_end(with_renewal(signed_world, None, end)) == [
        f"its certificate ends on {end}"
    ]


def test_a_proxy_that_does_not_run_renews_nothing(signed_world: Any) -> None:
    facts = replace(signed_world.deployed("front"), proxy=None)
    assert renewal_of(facts, ServiceName("web")) is None
