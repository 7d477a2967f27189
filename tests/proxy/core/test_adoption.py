"""Which published policies are taken, and why the others are not."""

import gc
import tracemalloc
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from proxy.core import adoption
from proxy.core.adoption import MAX_REASON, Verdict, judge, judging
from proxy.model.codec import encode
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.policy import Policy, Route, ServicePolicy, Snapshot, Timeouts
from proxy.model.policy_keys import PolicyTrust
from proxy.model.routing import Destination, Match, PathMatch
from proxy.model.signed import Kind, key_id, seal, statement
from proxy.model.snapshot import MAX_PACKED, Unpacked, pack, plain

TD = TrustDomain("mesh.example")
PATIENT = Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=60.0)))


def snapshot(generation: int, policy: Policy | None = None, domain: str = TD) -> Snapshot:
    return Snapshot(
        generation=generation, trust_domain=TrustDomain(domain), policy=policy or Policy()
    )


def adopted(published: Snapshot) -> Snapshot:
    """As it is in force: with the digest of what was published."""
    return structs.replace(published, digest=Unpacked(plain(pack(published))).digest)


def with_timeout(value: float, field: str = "connect_s") -> Policy:
    return Policy(services={ServiceName("api"): ServicePolicy(timeouts=Timeouts(**{field: value}))})


def test_the_first_snapshot_is_taken() -> None:
    verdict = judge(None, encode(snapshot(3)), TD)
    assert verdict.snapshot == adopted(snapshot(3))
    assert verdict.refused == ""


def test_a_newer_one_is_taken() -> None:
    found = judge(snapshot(3), pack(snapshot(7, PATIENT)), TD).snapshot
    assert found == adopted(snapshot(7, PATIENT))


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
        (encode(snapshot(4, with_timeout(-1.0))), "services.api.timeouts.connect: -1 s"),
        (encode(snapshot(4, with_timeout(0.0))), "services.api.timeouts.connect: 0 s"),
        (encode(snapshot(4, with_timeout(1e300))), "services.api.timeouts.connect: 1e+300 s"),
    ],
)
def test_a_refused_one_leaves_the_last_good_in_force(published: bytes, reason: str) -> None:
    verdict = judge(snapshot(3), published, TD)
    assert verdict.snapshot == snapshot(3)
    assert reason in verdict.refused
    assert len(verdict.refused) <= MAX_REASON


def test_no_request_timeout_is_allowed() -> None:
    assert judge(None, encode(snapshot(1, with_timeout(0.0, "request_s"))), TD).refused == ""


def test_the_same_policy_published_again_after_a_wipe_keeps_the_higher_number() -> None:
    for current in (snapshot(7, PATIENT), adopted(snapshot(7, PATIENT))):
        verdict = judge(current, pack(snapshot(1, PATIENT)), TD)
        assert verdict.snapshot == adopted(snapshot(7, PATIENT))
        assert verdict.refused == ""
        # or all that was published between the two could be played back
        replayed = judge(verdict.snapshot, pack(snapshot(3)), TD)
        assert "older than 7" in replayed.refused


API, WEB, DB = ServiceName("api"), ServiceName("web"), ServiceName("db")


def mesh(**changes: ServicePolicy) -> Policy:
    api = ServicePolicy(routes=(Route(name="a", to=(Destination(service=WEB, weight=2),)),))
    return Policy(services={API: api, WEB: ServicePolicy(), DB: ServicePolicy()} | changes)  # type: ignore[arg-type]


def test_a_proxy_keeps_only_what_it_uses() -> None:
    verdict = judge(None, pack(snapshot(1, mesh())), TD, uses={API})
    assert verdict.snapshot is not None
    assert verdict.snapshot.policy == Policy(services={API: mesh().services[API]})
    assert verdict.snapshot.digest


def test_what_it_uses_is_judged_and_the_rest_only_decoded() -> None:
    unsound = ServicePolicy(timeouts=Timeouts(connect_s=-1.0))
    data = pack(snapshot(1, mesh(db=unsound)))
    assert judge(None, data, TD, uses={API}).refused == ""
    assert "services.db.timeouts.connect" in judge(None, data, TD, uses={API, DB}).refused
    cannot_be_read = data.replace(b'"connect_s":-1.0', b'"connect_s":"x"')
    assert cannot_be_read != data
    assert "services.db" in judge(None, cannot_be_read, TD, uses={API}).refused


def test_a_subset_of_a_service_that_is_left_out_is_taken_as_given() -> None:
    route = Route(name="a", to=(Destination(service=WEB, subset="v1"),))
    data = pack(snapshot(1, mesh(api=ServicePolicy(routes=(route,)))))
    assert judge(None, data, TD, uses={API}).refused == ""
    assert "web has no subset 'v1'" in judge(None, data, TD, uses={API, WEB}).refused


def test_published_twice_is_noticed_even_if_the_own_part_is_the_same() -> None:
    current = judge(None, pack(snapshot(3, mesh())), TD, uses={API}).snapshot
    other = mesh(db=ServicePolicy(timeouts=Timeouts(request_s=2.0)))
    assert "published twice" in judge(current, pack(snapshot(3, other)), TD, uses={API}).refused
    assert judge(current, pack(snapshot(3, mesh())), TD, uses={API}).refused == ""
    assert judge(current, pack(snapshot(1, mesh())), TD, uses={API}).refused == ""


def test_a_whole_one_on_disk_of_an_earlier_release_is_recognised() -> None:
    data = pack(snapshot(1, mesh()))
    assert judge(snapshot(7, mesh()), data, TD, uses={API}).refused == ""
    other = mesh(api=ServicePolicy())
    assert "older than 7" in judge(snapshot(7, other), data, TD, uses={API}).refused


NAMES = [ServiceName(f"s{i}") for i in range(1000)]


@pytest.fixture(scope="module")
def large() -> bytes:
    """1,000 services with 5 routes each."""
    routes = tuple(
        Route(name=f"r{i}", match=Match(path=PathMatch(prefix=f"/{i}"))) for i in range(5)
    )
    return pack(snapshot(1, Policy(services={n: ServicePolicy(routes=routes) for n in NAMES})))


def test_a_large_one_leaves_little_behind(large: bytes) -> None:
    judge(None, large, TD, uses=frozenset(NAMES[:10]))
    tracemalloc.start()
    try:
        verdict = judge(None, large, TD, uses=frozenset(NAMES[:10]))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert verdict.snapshot is not None
    assert kept < 1024 * 1024


def test_a_large_one_is_judged_in_short_steps(large: bytes) -> None:
    work = judging(None, large, TD, uses=frozenset(NAMES[:10]))
    steps = 0
    while True:
        try:
            next(work)
        except StopIteration as done:
            verdict: Verdict = done.value
            break
        steps += 1
    assert steps >= 30
    assert verdict.snapshot is not None
    assert set(verdict.snapshot.policy.services) == set(NAMES[:10])


KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
TRUST = PolicyTrust(keys={key_id(PUBLIC): PUBLIC})


def signed(
    content: Snapshot | bytes, key: Ed25519PrivateKey = KEY, kind: Kind = Kind.POLICY
) -> bytes:
    data = pack(content) if isinstance(content, Snapshot) else content
    name = key_id(key.public_key().public_bytes_raw())
    return seal(kind, name, key.sign(statement(kind, data)), data)


def altered(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_signed_one_is_taken() -> None:
    verdict = judge(snapshot(3), signed(snapshot(4, PATIENT)), TD, trust=TRUST)
    assert verdict.snapshot == adopted(snapshot(4, PATIENT))
    assert verdict.refused == ""


OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
GOOD = signed(snapshot(4, PATIENT))


@pytest.mark.parametrize(
    ("published", "reason"),
    [
        (pack(snapshot(4, PATIENT)), "it is not signed"),
        (b"", "it is not signed"),
        (altered(GOOD, 18), "it is signed with the key"),
        (altered(GOOD, 40), "its signature is wrong"),
        (altered(GOOD, len(GOOD) - 3), "its signature is wrong"),
        (GOOD + b" ", "its signature is wrong"),
        (b" " + GOOD, "it is not signed"),
        (signed(snapshot(4, PATIENT), OTHER), f"not with {key_id(PUBLIC)}"),
        (signed(snapshot(4, PATIENT), kind=Kind.HISTORY), "it is signed as 'history'"),
        (
            signed(snapshot(4, PATIENT), kind=Kind.HISTORY).replace(b"-history-", b"-policy-"),
            "its signature is wrong",
        ),
        (signed(snapshot(4, PATIENT, domain="other.example")), "other.example"),
        (signed(snapshot(2, PATIENT)), "older than 3"),
        (signed(snapshot(3, PATIENT)), "published twice"),
        (signed(b"\x1f\x8b not gzip"), "cannot be read"),
        (b"meshctl-policy-1 " + b"x" * MAX_PACKED, "more than the 524288 that fit"),
    ],
)
def test_with_policy_keys_whatever_is_not_signed_newer_and_ours_is_refused(
    published: bytes, reason: str
) -> None:
    verdict = judge(snapshot(3), published, TD, trust=TRUST)
    assert verdict.snapshot == snapshot(3)
    assert reason in verdict.refused


def test_nothing_is_unpacked_before_its_signature_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpacked(data: bytes) -> Iterator[None]:
        raise AssertionError("it was unpacked")
        yield

    monkeypatch.setattr(adoption, "unpacking", unpacked)
    forged = seal(Kind.POLICY, key_id(PUBLIC), bytes(64), pack(snapshot(4)))
    assert "its signature is wrong" in judge(None, forged, TD, trust=TRUST).refused
    with pytest.raises(AssertionError, match="unpacked"):
        judge(None, signed(snapshot(4)), TD, trust=TRUST)


def test_without_keys_that_could_be_read_nothing_is_believed() -> None:
    verdict = judge(None, GOOD, TD, trust=PolicyTrust(keys={}))
    assert verdict.snapshot is None
    assert "there are no policy keys" in verdict.refused


def test_while_a_key_is_being_replaced_both_are_believed() -> None:
    new = OTHER.public_key().public_bytes_raw()
    both = PolicyTrust(keys={**TRUST.keys, key_id(new): new})
    for key in (KEY, OTHER):
        assert judge(None, signed(snapshot(4), key), TD, trust=both).refused == ""


def test_a_new_proxy_takes_nothing_from_before_its_time() -> None:
    late = PolicyTrust(keys=TRUST.keys, minimum_generation=9)
    verdict = judge(None, signed(snapshot(8)), TD, trust=late)
    assert verdict.snapshot is None
    assert "publish a generation of 9 or above" in verdict.refused
    assert judge(None, signed(snapshot(9)), TD, trust=late).refused == ""
    # what it had before then stays, also under the number that a wiped registry gave it
    again = judge(snapshot(5), signed(snapshot(4)), TD, trust=late)
    assert (again.snapshot, again.refused) == (adopted(snapshot(5)), "")


def test_a_signature_is_verified_in_short_pieces(large: bytes) -> None:
    """As many turns for requests as there are pieces; each is some 0.1 ms of work."""
    whole = sum(1 for _ in judging(None, signed(large), TD, frozenset(NAMES[:10]), TRUST))
    without = sum(1 for _ in judging(None, large, TD, frozenset(NAMES[:10])))
    assert whole > without + 12


def test_a_proxy_without_policy_keys_believes_what_is_signed_and_what_is_not() -> None:
    for published in (GOOD, pack(snapshot(4, PATIENT)), signed(snapshot(4, PATIENT), OTHER)):
        assert judge(None, published, TD).snapshot == adopted(snapshot(4, PATIENT))
