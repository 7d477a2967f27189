"""A change of policy is shown setting by setting, with the services and hosts that feel it."""

from typing import Any

import msgspec.structs
import pytest

from meshctl.policy import parse
from meshctl.policy.diff import Change, difference
from proxy.model.policy import Policy

SERVICES = ("web", "api", "users")


def policy(text: str) -> Policy:
    return parse(f"version: 1\n{text}", "mesh.yaml", SERVICES)  # type: ignore[arg-type]


def test_equal_policies_have_no_difference(world: Any) -> None:
    found = difference(policy(""), policy("services: {api: {}}"), world.inventory)
    assert found.is_empty
    assert (found.services, found.hosts) == ((), ())


def test_nothing_published_counts_as_the_built_in_defaults(world: Any) -> None:
    assert difference(None, Policy(), world.inventory).is_empty


def test_a_services_setting_touches_who_carries_and_who_calls_it(world: Any) -> None:
    after = policy("services: {api: {timeouts: {request: 5s}}}")
    found = difference(policy(""), after, world.inventory)
    assert found.changes == (Change(path="services.api.timeouts.request", before="", after="5s"),)
    assert found.services == ("api",)
    assert found.hosts == ("front", "back"), "front calls api, back carries it"


def test_a_service_that_nobody_calls_touches_its_own_host_only(world: Any) -> None:
    after = policy("services: {users: {timeouts: {connect: 2s}}}")
    assert difference(policy(""), after, world.inventory).hosts == ("back",)


def test_a_default_touches_those_that_inherit_it(world: Any) -> None:
    own = "services: {api: {timeouts: {request: 5s}}}"
    before = policy(own)
    after = policy(f"defaults: {{timeouts: {{request: 20s}}}}\n{own}")
    found = difference(before, after, world.inventory)
    assert found.changes == (Change(path="defaults.timeouts.request", before="15s", after="20s"),)
    assert found.services == ("users", "web")


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "250ms"), (0.0, "0"), (3600.0, "1h")])
def test_settings_are_shown_as_they_are_written(world: Any, seconds: float, text: str) -> None:
    before = Policy()
    timeouts = msgspec.structs.replace(before.defaults.timeouts, request_s=seconds)
    defaults = msgspec.structs.replace(before.defaults, timeouts=timeouts)
    after = msgspec.structs.replace(before, defaults=defaults)
    (change,) = difference(before, after, world.inventory).changes
    assert (change.before, change.after) == ("15s", text)
