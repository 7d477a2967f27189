"""mesh.yaml: what it means, and every way in which it is refused."""

import pytest

from meshctl.errors import Exit, InvalidInput
from meshctl.policy import parse
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, ServicePolicy, Timeouts
from proxy.model.violation import Violation

API, WEB = ServiceName("api"), ServiceName("web")
KNOWN = (API, WEB)


def refused(text: str) -> tuple[Violation, ...]:
    with pytest.raises(InvalidInput) as caught:
        parse(text, "mesh.yaml", KNOWN)
    assert caught.value.exit_code is Exit.USAGE
    return caught.value.violations


def test_a_version_alone_is_the_built_in_policy() -> None:
    for text in ("version: 1", "version: 1\ndefaults:\nservices:\n", "version: 1\nservices: {}"):
        assert parse(text, "mesh.yaml", ()) == Policy()


def test_a_service_overrides_the_defaults_field_by_field() -> None:
    policy = parse(
        "version: 1\n"
        "defaults: {timeouts: {request: 10s, pool_idle: 2s}}\n"
        "services:\n"
        "  api: {timeouts: {request: 5s, connect: 250ms}}\n"
        "  web:\n",
        "mesh.yaml",
        KNOWN,
    )
    defaults = Timeouts(request_s=10.0, pool_idle_s=2.0)
    assert policy.defaults == ServicePolicy(timeouts=defaults)
    assert policy.of(API).timeouts == Timeouts(request_s=5.0, connect_s=0.25, pool_idle_s=2.0)
    assert policy.of(WEB).timeouts == defaults


def test_every_timeout_can_be_set() -> None:
    policy = parse(
        "version: 1\ndefaults:\n  timeouts: {connect: 2s, request: 20s, stream_idle: 6m, "
        "connection_idle: 2h, pool_idle: 4s}",
        "mesh.yaml",
        (),
    )
    assert policy.defaults.timeouts == Timeouts(
        connect_s=2.0,
        request_s=20.0,
        stream_idle_s=360.0,
        connection_idle_s=7200.0,
        pool_idle_s=4.0,
    )


def test_a_request_timeout_of_0_is_none_and_contradicts_nothing() -> None:
    text = "version: 1\ndefaults: {timeouts: {connect: 30s, request: 0}}"
    assert parse(text, "mesh.yaml", ()).defaults.timeouts.request_s == 0.0


@pytest.mark.parametrize(
    ("text", "path", "line", "message", "hint"),
    [
        ("", "version", 1, "it is missing", "add 'version: 1'"),
        ("services: {}", "version", 1, "it is missing", "add 'version: 1'"),
        ("version: 2", "version", 1, "'2' is not a version", "use 1"),
        ("version: true", "version", 1, "'true' is not a version", "use 1"),
        ("version: '1'", "version", 1, "'1' is not a version", "use 1"),
        ("[1]", "(file)", 1, "a list is not a mapping", "version, defaults, services"),
        ("version: 1\nservice: {}", "service", 2, "unknown key", "did you mean 'services'?"),
        ("version: 1\nxyz: {}", "xyz", 2, "unknown key", "version, defaults, services"),
        (
            "version: 1\ndefaults:\n  timeout: {}",
            "defaults.timeout",
            3,
            "unknown key 'timeout'",
            "did you mean 'timeouts'?",
        ),
        (
            "version: 1\ndefaults:\n  timeouts:\n    requests: 1s",
            "defaults.timeouts.requests",
            4,
            "unknown key 'requests'",
            "did you mean 'request'?",
        ),
        (
            "version: 1\nservices:\n  apo: {}",
            "services.apo",
            3,
            "no service 'apo' is in the inventory",
            "did you mean 'api'?",
        ),
        ("version: 1\nservices:\n  q: {}", "services.q", 3, "no service 'q'", "api, web"),
        ("version: 1\nservices: [api]", "services", 2, "a list is not a mapping", ""),
        ("version: 1\ndefaults: 5", "defaults", 2, "'5' is not a mapping", "timeouts"),
        (
            "version: 1\ndefaults: {timeouts: {request: 5}}",
            "defaults.timeouts.request",
            2,
            "5 has no unit",
            "15s",
        ),
        (
            "version: 1\ndefaults: {timeouts: {request: -5s}}",
            "defaults.timeouts.request",
            2,
            "negative",
            "",
        ),
        (
            "version: 1\ndefaults: {timeouts: {request: 48h}}",
            "defaults.timeouts.request",
            2,
            "longer than 24h",
            "",
        ),
        (
            "version: 1\ndefaults: {timeouts: {connect: 0}}",
            "defaults.timeouts.connect",
            2,
            "0 is not possible here",
            "above 0",
        ),
        (
            "version: 1\ndefaults: {timeouts: {request: [5s]}}",
            "defaults.timeouts.request",
            2,
            "it is not a duration",
            "",
        ),
        (
            "version: 1\ndefaults: {timeouts: {connect: 15s}}",
            "defaults.timeouts.connect",
            2,
            "connect (15s) is not shorter than request (15s)",
            "raise request",
        ),
        (
            "version: 1\nservices:\n  api:\n    timeouts:\n      request: 1s",
            "services.api.timeouts.request",
            5,
            "connect (1s) is not shorter than request (1s)",
            "lower connect",
        ),
    ],
)
def test_a_violation_says_where_what_and_what_would_be_right(
    text: str, path: str, line: int, message: str, hint: str
) -> None:
    (found,) = refused(text)
    assert (found.path, found.line) == (path, line)
    assert message in found.message
    assert hint in found.hint


def test_all_violations_are_reported_in_the_order_of_the_text() -> None:
    found = refused(
        "version: 3\n"
        "default: {}\n"
        "defaults: {timeouts: {connect: 20s}}\n"
        "services:\n"
        "  apii: {timeouts: {request: 5}}\n"
        "  web: {timeouts: {request: 2s}}\n"
    )
    assert [violation.path for violation in found] == [
        "version",
        "default",
        "defaults.timeouts.connect",
        "services.apii",
        "services.apii.timeouts.request",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nversion: 1",
        "version: 1\ndefaults: &a {}\nservices: {api: *a}",
        "version: 1\n1: 2",
        "version: 1\nservices: {",
        "version: 1\n---\nversion: 1",
        "\x00",
        "[" * 1000,
        "#" * (1024 * 1024 + 1),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str) -> None:
    assert refused(text)
