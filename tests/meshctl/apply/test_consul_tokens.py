"""A managed Consul's tokens on the operator's side: made once, closed to others, replaceable."""

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.acl import Token, digest, grants
from meshctl.apply.consul_tokens import ConsulTokens, operator_token_file
from meshctl.errors import StateCorrupt
from meshctl.state import StateDir
from proxy.model.names import HostName, ServiceName, TrustDomain

ONE, TWO = HostName("one"), HostName("two")


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    return StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), datetime.now(UTC))


def test_tokens_are_made_once_and_no_two_are_the_same(state: StateDir) -> None:
    acl = ConsulTokens.of(state).read([ONE, TWO])
    assert ConsulTokens.of(state).read([ONE, TWO]) == acl
    tokens = [acl.operator, *(t for host in acl.hosts.values() for t in (host.agent, host.proxy))]
    assert len({token.secret for token in tokens}) == 5
    assert len({token.accessor for token in tokens}) == 5
    assert not {token.secret for token in tokens} & {token.accessor for token in tokens}


def test_nobody_else_can_read_them_and_nothing_shows_them(state: StateDir) -> None:
    tokens = ConsulTokens.of(state)
    tokens.keep_management(Token("0b0b0b0b-0000-4000-8000-000000000000"))
    acl = tokens.read([ONE])
    for path in (tokens.folder, *tokens.folder.rglob("*")):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert operator_token_file(state).read_text().strip() == acl.operator.secret
    for secret in (acl.operator.secret, acl.hosts[ONE].agent.secret, acl.hosts[ONE].proxy.secret):
        assert secret not in repr(acl)
        assert secret not in repr(grants(acl, {}))


def test_a_host_that_is_gone_gets_others_when_it_returns(state: StateDir) -> None:
    tokens = ConsulTokens.of(state)
    before = tokens.read([ONE, TWO])
    tokens.forget_others([TWO])
    after = tokens.read([ONE, TWO])
    assert after.hosts[TWO] == before.hosts[TWO]
    assert after.hosts[ONE].agent != before.hosts[ONE].agent
    assert after.hosts[ONE].proxy != before.hosts[ONE].proxy


def test_a_cluster_that_is_gone_leaves_nothing(state: StateDir) -> None:
    tokens = ConsulTokens.of(state)
    tokens.read([ONE])
    tokens.keep_management(Token("0b0b0b0b-0000-4000-8000-000000000000"))
    tokens.note_applied("x")
    tokens.note_enforced()
    tokens.forget_all()
    assert [path for path in tokens.folder.rglob("*") if path.is_file()] == []
    assert tokens.management is None
    acl = tokens.read([])
    assert (acl.applied, acl.is_enforced) == ("", False)


@pytest.mark.parametrize("content", [b"nonsense", b"", b"0B0B0B0B-0000-4000-8000-000000000000"])
def test_a_damaged_token_is_named(state: StateDir, content: bytes) -> None:
    tokens = ConsulTokens.of(state)
    tokens.read([ONE])
    path = tokens.folder / "proxies" / "one.token"
    path.write_bytes(content)
    with pytest.raises(StateCorrupt, match=r"proxies/one\.token") as caught:
        tokens.read([ONE])
    assert "meshctl deploy" in caught.value.hint


def test_rights_change_with_services_and_with_tokens_and_with_nothing_else(
    state: StateDir,
) -> None:
    tokens = ConsulTokens.of(state)
    acl = tokens.read([ONE])
    web, api = ServiceName("web"), ServiceName("api")
    known = digest(grants(acl, {ONE: (web, api)}))
    assert digest(grants(acl, {ONE: (api, web)})) == known
    assert digest(grants(acl, {ONE: (web,)})) != known
    tokens.forget_others([])
    assert digest(grants(tokens.read([ONE]), {ONE: (web, api)})) != known
