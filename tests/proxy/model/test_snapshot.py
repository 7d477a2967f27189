"""A snapshot in Consul: canonical, small, readable again, and no bomb."""

import gzip
import os

import pytest

from proxy.model import snapshot
from proxy.model.codec import Malformed, decode, encode
from proxy.model.names import ServiceName, TrustDomain
from proxy.model.policy import Balancing, Policy, Route, ServicePolicy, Snapshot, Timeouts
from proxy.model.resilience import ActiveHealth, Retries
from proxy.model.routing import Match, PathMatch
from proxy.model.snapshot import COMPRESS_FROM, MAX_PACKED, MAX_UNPACKED, Unpacked, pack, plain
from proxy.model.snapshot import unpack as unpacked

TD = TrustDomain("mesh.example")
API = ServiceName("api")


def of(policy: Policy) -> Snapshot:
    return Snapshot(generation=4, trust_domain=TD, policy=policy)


def large(services: int = 1000) -> Snapshot:
    def route(service: int, number: int) -> Route:
        prefix = f"/{service * 7919 % 65521:x}/{number}/v1"
        return Route(name=f"route-{number}", match=Match(path=PathMatch(prefix=prefix)))

    own = {
        ServiceName(f"service-{i:04d}"): ServicePolicy(routes=tuple(route(i, n) for n in range(5)))
        for i in range(services)
    }
    return of(Policy(services=own))


def test_equal_policies_have_equal_bytes_however_they_were_made() -> None:
    one, fifteen = float("1"), float("15")  # other objects than the defaults
    spelled_out = Policy(
        defaults=ServicePolicy(timeouts=Timeouts(connect_s=one, request_s=fifteen)),
        services={API: ServicePolicy(balancing=Balancing(algorithm="".join(["peak_", "ewma"])))},  # type: ignore[arg-type]
    )
    short = Policy(services={API: ServicePolicy()})
    assert spelled_out == short
    assert encode(spelled_out) != encode(short), "the codec alone does not do it"
    assert pack(of(spelled_out)) == pack(of(short))


def test_what_differs_from_none_is_kept_even_if_it_says_nothing() -> None:
    own = ServicePolicy(health_check=ActiveHealth(), routes=(Route(name="a", retries=Retries()),))
    policy = Policy(services={API: own})
    assert unpacked(pack(of(policy))).policy == policy
    assert API in unpacked(pack(of(Policy(services={API: ServicePolicy()})))).policy.services


def test_a_small_one_is_plain_json() -> None:
    packed = pack(of(Policy()))
    assert decode(packed, Snapshot) == of(Policy())
    assert plain(packed) == packed


def test_a_large_one_is_gzip_and_fits_into_consul() -> None:
    packed = pack(large())
    assert len(plain(packed)) > COMPRESS_FROM
    assert len(packed) <= MAX_PACKED
    assert gzip.decompress(packed) == plain(packed)
    assert unpacked(packed) == large()
    assert packed == pack(large())


def test_it_comes_apart_into_its_services() -> None:
    whole = large(10)
    parts = Unpacked(plain(pack(whole)))
    assert (parts.generation, parts.trust_domain) == (4, TD)
    assert parts.names == tuple(whole.policy.services)
    for name in parts.names:
        assert parts.service(name) == whole.policy.services[name]


def test_the_digest_is_of_the_policy_alone() -> None:
    def digest(found: Snapshot) -> str:
        return Unpacked(plain(pack(found))).digest

    assert digest(large(2)) == digest(
        Snapshot(generation=9, trust_domain=TD, policy=large(2).policy)
    )
    assert digest(large(2)) != digest(large(3))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gzip.compress(b"{}")[:-4], "one whole"),
        (gzip.compress(b"{}") + b"x", "one whole"),
        (gzip.compress(b"{}") * 2, "one whole"),
        (b"\x1f\x8b" + os.urandom(20), "not gzip"),
        (gzip.compress(b"x"), "JSON"),
        (b"", "truncated"),
        (b'{"generation":1,"trust_domain":"a","policy":{"services":{"a":{"x":1}}}}', "x"),
    ],
)
def test_what_is_not_a_snapshot_is_malformed(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        unpacked(data)


def test_a_bomb_ends_at_the_limit() -> None:
    with pytest.raises(Malformed, match=str(MAX_UNPACKED)):
        plain(gzip.compress(b" " * (MAX_UNPACKED + 1)))
    assert len(plain(gzip.compress(b" " * MAX_UNPACKED))) == MAX_UNPACKED


def test_a_service_that_cannot_be_read_is_named() -> None:
    text = b'{"generation":1,"trust_domain":"a","policy":{"services":{"api":{"routes":[{}]}}}}'
    with pytest.raises(Malformed, match=r"services\.api: .*name"):
        Unpacked(text).service(API)


def test_limits_are_those_of_consul() -> None:
    assert snapshot.MAX_PACKED == 512 * 1024
