"""Who loses access by a change of intentions, wholly or in part."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.inventory import parse as inventory
from meshctl.policy import parse
from meshctl.policy.access import Loss, losses
from proxy.model.names import ServiceName
from proxy.model.policy import Policy

INVENTORY = inventory.parse(
    """\
version: 1
consul: {mode: existing, datacenter: dc1}
hosts:
  - name: h1
    address: 10.0.0.1
    services:
      - {name: web, port: 8080, protocol: http,
         upstreams: [{api: 9001}, {db: 9002}]}
      - {name: jobs, port: 8081, protocol: http,
         upstreams: [{api: 9003}, {db: 9004}]}
  - name: h2
    address: 10.0.0.2
    services:
      - {name: api, port: 8080, protocol: http, plaintext_port: 8180}
      - {name: db, port: 5432, protocol: tcp, plaintext_port: 8181}
""",
    Path("inventory.yaml"),
)
READS = "{name: reads, allow: [web], match: {methods: [GET]}}"
WRITES = "{name: writes, allow: [web], match: {methods: [POST]}}"
ADMIN = "{name: admin, deny: '*', match: {path: /admin}}"
ALL = "{name: all, allow: '*'}"


def policy(service: str, *intentions: str) -> Policy:
    text = f"version: 1\nservices: {{{service}: {{intentions: [{', '.join(intentions)}]}}}}"
    return parse(text, "mesh.yaml", INVENTORY, datetime(2026, 7, 1, tzinfo=UTC))


def lost(service: str, before: list[str] | None, after: list[str]) -> dict[str, str]:
    """By caller: ``all`` or ``part``."""
    old = policy(service, *before) if before is not None else None
    found = losses(old, policy(service, *after), INVENTORY)
    assert len(found) < 2
    for loss in found:
        assert loss.service == service
        return dict.fromkeys(loss.wholly, "all") | dict.fromkeys(loss.partly, "part")
    return {}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, [], {}),
        ([ALL], [ALL], {}),
        (None, [ALL], {}),
        ([READS], [], {}),
        ([READS], [ALL], {}),
        ([ADMIN, ALL], [ALL], {}),
        ([READS], [READS, WRITES], {}),
        (None, [READS], {"jobs": "all", "web": "part"}),
        ([ALL], [READS], {"jobs": "all", "web": "part"}),
        ([READS, WRITES], [READS], {"web": "part"}),
        (None, [ADMIN, ALL], {"jobs": "part", "web": "part"}),
        ([ADMIN, ALL], [ADMIN, ALL.replace("all,", "each,")], {}),
        ([READS], [READS.replace("reads", "read")], {}),
        (None, ["{name: jobs, allow: [jobs]}"], {"web": "all"}),
        (None, [ALL, "{name: no, deny: [jobs]}"], {"jobs": "all"}),
        ([ALL, "{name: no, deny: [jobs]}"], [READS], {"web": "part"}),
        (None, ["{name: try, deny: '*', audit: true}"], {}),
        # Whatever it denies beside, nothing is allowed.
        (None, [ADMIN, "{name: jobs, allow: [jobs]}"], {"jobs": "part", "web": "all"}),
    ],
)  # fmt: skip
def test_of_an_http_service(
    before: list[str] | None, after: list[str], expected: dict[str, str]
) -> None:
    assert lost("api", before, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, [ALL], {}),
        (None, ["{name: web, allow: [web]}"], {"jobs": "all"}),
        ([ALL], [ALL, "{name: no, deny: [web]}"], {"web": "all"}),
        (["{name: web, allow: [web]}"], [ALL], {}),
    ],
)
def test_of_a_tcp_service(
    before: list[str] | None, after: list[str], expected: dict[str, str]
) -> None:
    assert lost("db", before, after) == expected


def test_services_are_told_apart() -> None:
    assert losses(policy("api"), policy("api", ALL, "{name: no, deny: [web]}"), INVENTORY) == (
        Loss(service=ServiceName("api"), wholly=(ServiceName("web"),)),
    )


@pytest.mark.parametrize(
    ("service", "before", "after", "is_lost"),
    [
        ("api", "mode: permissive", "mode: strict", True),
        ("db", "mode: permissive", "mode: strict", True),
        ("api", "mode: permissive", "mode: permissive, intentions: [{name: no, deny: '*'}]", True),
        ("api", "mode: permissive", f"mode: permissive, intentions: [{ADMIN}, {ALL}]", False),
        ("db", "mode: strict", "mode: permissive", False),
    ],
)
def test_callers_without_an_identity_lose_it_too(
    service: str, before: str, after: str, is_lost: bool
) -> None:
    def of(text: str) -> Policy:
        whole = f"version: 1\nservices: {{{service}: {{{text}}}}}"
        return parse(whole, "mesh.yaml", INVENTORY, datetime(2026, 7, 1, tzinfo=UTC))

    found = losses(of(before), of(after), INVENTORY)
    assert any(loss.anonymous for loss in found) is is_lost


def test_a_token_that_is_asked_for_now_is_a_loss_in_part() -> None:
    def of(token: str) -> Policy:
        text = f"""
version: 1
tokens: {{guests: {{issuer: "https://i.example", audiences: [api], jwks_file: /etc/keys.json}}}}
services: {{api: {{intentions: [{{name: all, allow: [web, jobs]{token}}}]}}}}
"""
        return parse(text, "mesh.yaml", INVENTORY, datetime(2026, 7, 1, tzinfo=UTC))

    with_token = ", token: {provider: guests}"
    (loss,) = losses(of(""), of(with_token), INVENTORY)
    assert (loss.wholly, loss.partly) == ((), ("jobs", "web"))
    assert losses(of(with_token), of(""), INVENTORY) == ()
