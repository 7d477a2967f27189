"""Which published policies are taken, and why the others are not."""

import pytest

from proxy.core.adoption import MAX_REASON, judge
from proxy.model.codec import encode
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Snapshot, Timeouts

TD = TrustDomain("mesh.example")
PATIENT = Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=60.0)))


def snapshot(generation: int, policy: Policy | None = None, domain: str = TD) -> Snapshot:
    return Snapshot(
        generation=generation, trust_domain=TrustDomain(domain), policy=policy or Policy()
    )


def with_timeout(value: float, field: str = "connect_s") -> Policy:
    return Policy(services={ServiceName("api"): ServicePolicy(timeouts=Timeouts(**{field: value}))})


def test_the_first_snapshot_is_taken() -> None:
    verdict = judge(None, encode(snapshot(3)), TD)
    assert verdict.snapshot == snapshot(3)
    assert verdict.refused == ""


def test_a_newer_one_is_taken() -> None:
    assert judge(snapshot(3), encode(snapshot(7, PATIENT)), TD).snapshot == snapshot(7, PATIENT)


@pytest.mark.parametrize("current", [None, snapshot(3)])
def test_nothing_published_changes_nothing(current: Snapshot | None) -> None:
    verdict = judge(current, None, TD)
    assert (verdict.snapshot, verdict.refused) == (current, "")


@pytest.mark.parametrize(
    ("published", "reason"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe{", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"generation":4}', "cannot be read"),
        (b'{"generation":4,"trust_domain":"mesh.example","policy":{"x":1}}', "cannot be read"),
        (encode(snapshot(9, domain="other.example")), "other.example"),
        (encode(snapshot(0)), "not valid"),
        (encode(snapshot(2, PATIENT)), "older than 3"),
        (encode(snapshot(3, PATIENT)), "published twice"),
        (encode(snapshot(4, with_timeout(-1.0))), "api.timeouts.connect_s is -1.0"),
        (encode(snapshot(4, with_timeout(0.0))), "api.timeouts.connect_s is 0.0"),
        (encode(snapshot(4, with_timeout(1e300))), "api.timeouts.connect_s"),
    ],
)
def test_a_refused_one_leaves_the_last_good_in_force(published: bytes, reason: str) -> None:
    verdict = judge(snapshot(3), published, TD)
    assert verdict.snapshot == snapshot(3)
    assert reason in verdict.refused
    assert len(verdict.refused) <= MAX_REASON


def test_no_request_timeout_is_allowed() -> None:
    assert judge(None, encode(snapshot(1, with_timeout(0.0, "request_s"))), TD).refused == ""


def test_the_same_policy_published_again_after_a_wipe_is_taken_with_its_lower_number() -> None:
    verdict = judge(snapshot(7, PATIENT), encode(snapshot(1, PATIENT)), TD)
    assert verdict.snapshot == snapshot(1, PATIENT)
