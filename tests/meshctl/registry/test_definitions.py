"""Registrations as JSON; what Consul refuses too is in tests/contract."""

import json
from typing import Any

import pytest

from meshctl.registry.catalogue import Status
from meshctl.registry.definitions import (
    BadRequest,
    NotImplementedHere,
    parse_check,
    parse_duration,
    parse_service,
)


def body(**fields: Any) -> bytes:
    return json.dumps({"Name": "web", **fields}).encode()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("250ms", 0.25), ("0", 0.0), ("-5s", -5.0)],
)
def test_go_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "1 s", "1s-", "--1s", "1.2.3s", "1s" * 99])
def test_what_is_no_go_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


def test_a_check_has_its_ttl_status_and_removal() -> None:
    check = {"TTL": "10s", "Status": "passing", "DeregisterCriticalServiceAfter": "72h"}
    (found,) = parse_service(body(Check=check)).checks
    assert (found.ttl_s, found.status, found.deregister_after_s) == (10.0, Status.PASSING, 259200.0)


def test_a_duration_may_be_a_number_of_nanoseconds() -> None:
    (found,) = parse_service(body(Check={"TTL": 10_000_000_000})).checks
    assert found.ttl_s == 10.0


@pytest.mark.parametrize(
    "fields",
    [
        {"Kind": "connect-proxy"},
        {"Connect": {"Native": True}},
        {"Proxy": {"DestinationServiceName": "x"}},
        {"TaggedAddresses": {"lan": {"Address": "a", "Port": 1}}},
        {"Check": {"HTTP": "http://127.0.0.1/", "Interval": "1s"}},
        {"Check": {"TCP": "127.0.0.1:1", "Interval": "1s"}},
        {"Check": {"Args": ["true"], "Interval": "1s"}},
        {"Checks": [{"TTL": "1s"}, {"AliasService": "x"}]},
    ],
)
def test_what_consul_would_do_and_this_cannot_is_refused_as_that(fields: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedHere):
        parse_service(body(**fields))


def test_empty_fields_of_what_is_not_implemented_are_no_harm() -> None:
    assert parse_service(body(Kind="", Connect=None, Proxy={}, TaggedAddresses={})).checks == ()


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 100_000,
        b"\xff",
        body(Tags="a"),
        body(Tags=[1]),
        body(Meta=[]),
        body(Meta={"k": 1}),
        body(Meta={f"k{n}": "" for n in range(65)}),
        body(Port=True),
        body(EnableTagOverride=1),
        body(Checks={}),
        body(Check=5),
    ],
)
def test_what_has_another_type_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_service(raw)


def test_a_check_of_its_own_takes_its_id_from_its_name() -> None:
    raw = json.dumps({"Name": "disk", "TTL": "1s", "ServiceID": "web-1"}).encode()
    definition, service_id = parse_check(raw)
    assert (definition.id, service_id) == ("disk", "web-1")
