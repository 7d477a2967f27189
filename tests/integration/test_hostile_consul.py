"""Whoever owns Consul can deny service, and nothing else.

Real proxies, and the operator's own commands, against a Consul that forges, alters, replays and
hides. In each case nothing is read, impersonated or allowed, and who noticed says why. The last
tests take the verification away, and see that these would notice.
"""

import asyncio
import gzip
import json
import os
import urllib.request
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import Run
from fuzz.ours import make_pki
from hostile.consul import instance
from hostile.mesh import (
    ANSWER,
    API,
    LOOSE,
    SECRET,
    STRICT,
    TD,
    WEB,
    HostileMesh,
    Listener,
    hostile_mesh,
    snapshot,
    until,
)

from meshctl.pki.policykey import PolicyKey
from proxy.core import adoption
from proxy.model.codec import Malformed
from proxy.model.policy_keys import PolicyTrust
from proxy.model.registration import SNAPSHOT_KEY
from proxy.model.signed import Kind, key_id, open_envelope, seal
from proxy.model.snapshot import MAX_PACKED, pack
from proxy.net import pool_dial

OTHERS_KEY = PolicyKey.generate()
"""Of another mesh, or of the attacker."""

Forgery = Callable[[HostileMesh], bytes]


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[HostileMesh]:
    async with hostile_mesh(make_pki(tmp_path / "pki"), tmp_path) as made:
        yield made


def altered(mesh: HostileMesh) -> bytes:
    """What was signed, with another method in it and a number above the one in force."""
    good = mesh.signed(5, STRICT)
    assert b'["GET"]' in good
    return good.replace(b'["GET"]', b'["DELETE"]').replace(b'"generation":5', b'"generation":6')


def signed_as_ours(mesh: HostileMesh) -> bytes:
    """By the attacker's key, under the id of the operator's."""
    content = snapshot(6, LOOSE)
    signature = open_envelope(Kind.POLICY, OTHERS_KEY.seal(Kind.POLICY, content)).signature
    return seal(Kind.POLICY, key_id(mesh.key.public), signature, content)


def of_the_history(mesh: HostileMesh) -> bytes:
    """A real signature of the operator's, of something else."""
    sealed = mesh.key.seal(Kind.HISTORY, snapshot(6, LOOSE))
    return sealed.replace(b"meshctl-history-", b"meshctl-policy-", 1)


FORGED: dict[str, tuple[Forgery, str]] = {
    "unsigned": (lambda mesh: snapshot(6, LOOSE), "it is not signed"),
    "altered": (altered, "its signature is wrong"),
    "signed by another key": (
        lambda mesh: OTHERS_KEY.seal(Kind.POLICY, snapshot(6, LOOSE)),
        "it is signed with the key",
    ),
    "another key under our name": (signed_as_ours, "its signature is wrong"),
    "an entry of the history": (of_the_history, "its signature is wrong"),
}
"""Who believed these would let web delete."""
REFUSED: dict[str, tuple[Forgery, str]] = {
    **FORGED,
    "of another mesh, validly signed by it": (
        lambda mesh: OTHERS_KEY.seal(Kind.POLICY, snapshot(6, LOOSE, "other.test")),
        "it is signed with the key",
    ),
    "of another mesh, with the same key": (
        lambda mesh: mesh.signed(6, LOOSE, "other.test"),
        "is for trust domain 'other.test'",
    ),
    "an older one of ours": (lambda mesh: mesh.signed(4, LOOSE), "older than 5"),
    "another one with the same number": (lambda mesh: mesh.signed(5, LOOSE), "published twice"),
    "a bomb": (
        lambda mesh: gzip.compress(bytes(64 * 1024 * 1024)),
        "it is not signed",
    ),
    "a bomb in an envelope": (
        lambda mesh: seal(
            Kind.POLICY, key_id(mesh.key.public), bytes(64), gzip.compress(bytes(64 * 1024 * 1024))
        ),
        "its signature is wrong",
    ),
    "something huge": (lambda mesh: b"x" * (3 * MAX_PACKED), "more than the 524288 that fit"),
    "nothing": (lambda mesh: b"", "it is not signed"),
    "noise": (lambda mesh: os.urandom(1000), "it is not signed"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_policy_that_is_not_the_operators_newest_changes_nothing(
    mesh: HostileMesh, name: str
) -> None:
    await mesh.both()
    make, reason = REFUSED[name]
    mesh.consul.publish(make(mesh))
    await until(lambda: all(reason in mesh.status(host).refused for host in mesh.servers))
    assert {mesh.generation(host) for host in mesh.servers} == {5}
    assert await mesh.call("GET") == (200, ANSWER)
    status, said = await mesh.call("DELETE")
    assert status == 403
    assert b"policy api/default-deny" in said
    assert b"DELETE" not in mesh.app.everything
    # and the operator's next one is taken
    mesh.consul.publish(mesh.signed(6, STRICT))
    await until(lambda: all(mesh.generation(host) == 6 for host in mesh.servers))
    assert mesh.status("back").refused == ""


async def test_a_policy_that_vanishes_stays_in_force(mesh: HostileMesh) -> None:
    await mesh.both()
    mesh.consul.publish(None)
    mesh.consul.place("api", instance("api", "127.0.0.1", mesh.settings["back"].inbound.port))
    assert (await mesh.call("DELETE"))[0] == 403
    assert await mesh.call("GET") == (200, ANSWER)
    assert mesh.generation("back") == 5


async def test_numbers_cannot_be_taken_back_by_playing_the_same_policy_under_a_lower_one(
    mesh: HostileMesh,
) -> None:
    """2 said what 5 says, 3 was loose: down to 2, then up to 3."""
    await mesh.both()
    refused: list[str] = []
    mesh.consul.publish(mesh.signed(1, LOOSE))
    await until(lambda: mesh.status("back").refused)
    mesh.consul.publish(mesh.signed(2, STRICT))
    await until(lambda: not mesh.status("back").refused)  # it says the same: nothing to refuse
    assert mesh.generation("back") == 5
    mesh.consul.publish(mesh.signed(3, LOOSE))
    await until(lambda: refused.append(mesh.status("back").refused) or refused[-1])
    assert "older than 5" in refused[-1]
    assert (await mesh.call("DELETE"))[0] == 403


async def test_a_restart_does_not_forget_which_number_was_in_force(mesh: HostileMesh) -> None:
    await mesh.both()
    await mesh.stop("back")
    mesh.consul.publish(mesh.signed(4, LOOSE))
    await mesh.start("back", API)
    await until(lambda: "older than 5" in mesh.status("back").refused)
    assert mesh.status("back").policy_source == "disk"
    assert (await mesh.call("DELETE"))[0] == 403
    assert await mesh.call("GET") == (200, ANSWER)


async def test_another_key_is_believed_from_the_reload_on_that_brings_it(mesh: HostileMesh) -> None:
    """The operator replaces it over SSH; the old one is worth nothing from then on."""
    await mesh.both()
    before, mesh.key = mesh.key, PolicyKey.generate()
    mesh.consul.publish(mesh.signed(6, STRICT))
    await until(lambda: "it is signed with the key" in mesh.status("back").refused)
    for host in ("front", "back"):
        mesh.write_keys(host)
        mesh.servers[host].reload()
    await until(lambda: all(mesh.generation(host) == 6 for host in mesh.servers))
    assert mesh.status("back").policy_keys == (key_id(mesh.key.public),)
    mesh.consul.publish(before.seal(Kind.POLICY, snapshot(7, LOOSE)))
    await until(lambda: "it is signed with the key" in mesh.status("back").refused)
    assert (await mesh.call("DELETE"))[0] == 403


@pytest.mark.parametrize("name", [*FORGED, "missing", "from before its time"])
async def test_a_new_proxy_lets_nobody_in_before_a_policy_is_verified(
    mesh: HostileMesh, name: str
) -> None:
    reason = ""
    if name == "from before its time":
        mesh.consul.publish(mesh.signed(6, LOOSE))
        reason = "generation 6 is older than this proxy"
    elif name != "missing":
        make, reason = FORGED[name]
        mesh.consul.publish(make(mesh))
    await mesh.start("back", API, minimum_generation=7)
    mesh.place_api()
    await mesh.start("front", WEB)
    await until(lambda: mesh.endpoints() == 1)
    if reason:
        await until(lambda: reason in mesh.status("back").refused)
    for method in ("GET", "DELETE"):
        status, said = await mesh.call(method)
        assert status == 403
        assert b"policy api/no-policy" in said
        assert b"no policy that could be verified has arrived yet" in said
    assert mesh.app.everything == b""
    mesh.consul.publish(mesh.signed(7, STRICT))
    await until(lambda: all(mesh.generation(host) == 7 for host in mesh.servers))
    assert await mesh.call("GET") == (200, ANSWER)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"null", b"[[]]", b'[{"Value": 5}]', b"<html></html>", b"\xff\xfe", b"[" * 10**6],
    ids=["empty", "cut", "null", "nested", "number", "html", "noise", "deep"],
)
async def test_answers_that_are_garbage_change_nothing(mesh: HostileMesh, raw: bytes) -> None:
    await mesh.both()
    mesh.consul.raw = raw
    mesh.consul.changed()
    await until(lambda: all(mesh.status(host).registry_error for host in mesh.servers))
    assert {mesh.generation(host) for host in mesh.servers} == {5}
    assert await mesh.call("GET") == (200, ANSWER)
    assert (await mesh.call("DELETE"))[0] == 403


# Endpoints: an address proves nothing.


async def refused_by_front(mesh: HostileMesh, attacker: Listener, reason: bytes) -> None:
    """web's calls are led to the attacker alone, and end in an error before a byte of them."""
    mesh.consul.place("api", instance("api", "127.0.0.1", attacker.port, host="trap"))
    await until(lambda: [e.host for e in mesh.status("front").upstreams[0].endpoints] == ["trap"])
    before = len(mesh.app.received)
    status, said = await mesh.call("GET")
    assert status == 503
    assert b"the connection to the service could not be made: trap" in said
    assert reason in said
    assert len(mesh.app.received) == before
    assert SECRET.encode() not in attacker.everything
    mesh.place_api()
    await until(lambda: [e.host for e in mesh.status("front").upstreams[0].endpoints] == ["back"])

    async def works() -> bool:
        return await mesh.call("GET") == (200, ANSWER)

    async with asyncio.timeout(20):
        while not await works():
            await asyncio.sleep(0.05)


async def test_a_listener_without_tls_gets_no_byte_of_a_request(mesh: HostileMesh) -> None:
    await mesh.both()
    async with Listener(answer=b"stolen").serving() as attacker:
        await refused_by_front(mesh, attacker, b"no connection within 1 s")
    assert attacker.connections >= 1, "it was called"
    assert all(data[:2] == b"\x16\x03" for data in attacker.received if data), "TLS handshakes"
    assert b"GET" not in attacker.everything


IMPOSTORS = {
    "another service of the mesh": b"the peer is spiffe://mesh.test/svc/db",
    "the caller itself": b"the peer is spiffe://mesh.test/svc/web",
    "another mesh": b"the peer's certificate is not valid",
    "an identity that is nobody's": b"the peer is spiffe://mesh.test/svc/evil",
}


@pytest.mark.parametrize("who", IMPOSTORS)
async def test_whoever_is_not_the_service_gets_no_byte_of_a_request(
    mesh: HostileMesh, who: str, tmp_path: Path
) -> None:
    """All with a certificate, and all but one with one of this very mesh."""
    await mesh.both()
    if who == "another service of the mesh":
        context = mesh.context("db")
    elif who == "the caller itself":
        context = mesh.context("web")
    elif who == "another mesh":
        # the same names, from another root
        other = make_pki(tmp_path / "other")
        context = mesh.context("api", issuer=other.issuing)
    else:
        context = mesh.context("api", uris=("spiffe://mesh.test/svc/evil",))
    async with Listener(answer=b"stolen").serving(context) as attacker:
        await refused_by_front(mesh, attacker, IMPOSTORS[who])
    assert attacker.everything == b""


async def test_a_service_that_poses_as_another_gets_no_call_of_its_callers(
    mesh: HostileMesh,
) -> None:
    """web's own proxy is registered as api: it has identities, but not that one."""
    await mesh.both()
    front = mesh.settings["front"].inbound.port
    mesh.consul.place("api", instance("api", "127.0.0.1", front, host="front"))
    await until(lambda: [e.host for e in mesh.status("front").upstreams[0].endpoints] == ["front"])
    assert (await mesh.call("GET"))[0] == 503


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{}],
        [instance("api", "", 15006)],
        [instance("api", "127.0.0.1", 0)],
        [instance("api", "127.0.0.1\r\nX-Injected: 1", 15006)],
        [instance("api", "127.0.0.1", 15006, host="../../etc")],
        [instance("api", "127.0.0.1", 15006, trust_domain="other.test")],
        [instance("api", "127.0.0.1", 1)],
        [instance("api", "192.0.2.1", 15006)],
    ],
    ids=["none", "empty", "no address", "port 0", "lines", "path", "other", "closed", "nowhere"],
)
async def test_wrong_addresses_deny_service_at_most(mesh: HostileMesh, entries: list[Any]) -> None:
    await mesh.both()
    before = mesh.status("front").upstreams[0].endpoints
    mesh.consul.place("api", *entries)
    await until(
        lambda: (
            mesh.status("front").upstreams[0].endpoints != before
            or mesh.status("front").registry_error
        )
    )
    status, said = await mesh.call("GET")
    assert (status, said) == (200, ANSWER) or status == 503
    assert (await mesh.call("DELETE"))[0] in (403, 503)
    assert b"DELETE" not in mesh.app.everything


async def test_names_of_other_services_mean_nothing(mesh: HostileMesh) -> None:
    """An attacker registers whatever it likes, where the real service is."""
    await mesh.both()
    inbound = mesh.settings["back"].inbound.port
    for name in ("db", "web", "admin", "../api", "api.mesh"):
        mesh.consul.place(name, instance(name, "127.0.0.1", inbound))
    mesh.consul.publish(mesh.signed(6, STRICT))
    await until(lambda: all(mesh.generation(host) == 6 for host in mesh.servers))
    assert await mesh.call("GET") == (200, ANSWER)
    assert (await mesh.call("DELETE"))[0] == 403


# The operator's side.


@pytest.fixture
def registry() -> Iterator[str]:
    with commands.registry() as url:
        yield url


@pytest.fixture
def run(tmp_path: Path, registry: str) -> Run:
    return commands.mesh_in(tmp_path, registry, commands.WEB_AND_API, COLUMNS="300")


def wanted(folder: Path, request: str) -> None:
    text = f"version: 1\nservices: {{api: {{timeouts: {{request: {request}}}}}}}\n"
    (folder / "mesh.yaml").write_text(text)


def put(registry: str, key: str, value: bytes) -> None:
    request = urllib.request.Request(f"{registry}/v1/kv/{key}", value, method="PUT")
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def get(registry: str, key: str) -> bytes:
    with urllib.request.urlopen(f"{registry}/v1/kv/{key}?raw", timeout=20) as answer:
        data: bytes = answer.read()
        return data


def test_the_operator_shows_and_compares_nothing_that_is_not_signed(
    run: Run, registry: str, tmp_path: Path
) -> None:
    wanted(tmp_path, "5s")
    run("apply", "--yes", "--wait", "0")
    good = get(registry, SNAPSHOT_KEY)
    for forged in (
        snapshot(9, LOOSE),
        OTHERS_KEY.seal(Kind.POLICY, snapshot(9, LOOSE)),
        good.replace(b"5.0", b"9.0"),
    ):
        assert forged != good
        put(registry, SNAPSHOT_KEY, forged)
        for words in (("config", "show"), ("config", "diff")):
            done = run(*words, expect=1)
            assert "is not signed by this mesh" in done.stderr
            assert done.stdout == ""
    done = run("apply", "--yes", "--wait", "0")
    assert "is not signed by this mesh" in done.stderr
    published = json.loads(run("config", "show", "-o", "json").stdout)
    assert published["generation"] == 2, "counted from the operator's own memory"
    assert published["policy"]["services"]["api"]["timeouts"]["request_s"] == 5.0


def test_a_rollback_signs_nothing_that_consul_made_up(
    run: Run, registry: str, tmp_path: Path
) -> None:
    for request in ("5s", "6s"):
        wanted(tmp_path, request)
        run("apply", "--yes", "--wait", "0")
    good = get(registry, "meshctl/history/0000000001")
    forged = pack({"generation": 7, "trust_domain": TD, "policy": {}})
    put(registry, "meshctl/history/0000000007", forged)
    put(registry, "meshctl/history/0000000008", OTHERS_KEY.seal(Kind.HISTORY, forged))
    put(registry, "meshctl/history/0000000009", good)
    done = run("config", "history", "-o", "json")
    assert [entry["generation"] for entry in json.loads(done.stdout)] == [2, 1]
    for number in (7, 8, 9):
        assert f"meshctl/history/000000000{number}: it is" in done.stderr
        refused = run("config", "rollback", str(number), "--yes", "--wait", "0", expect=1)
        assert f"generation {number} is not in the history" in refused.stderr
    run("config", "rollback", "--yes", "--wait", "0")
    published = json.loads(run("config", "show", "-o", "json").stdout)
    assert published["policy"]["services"]["api"]["timeouts"]["request_s"] == 5.0
    assert published["generation"] == 3


def test_an_old_policy_put_back_is_not_taken_for_no_change(
    run: Run, registry: str, tmp_path: Path
) -> None:
    """The operator returns to what Consul claims is in force, while proxies run what came after."""
    wanted(tmp_path, "5s")
    run("apply", "--yes", "--wait", "0")
    old = get(registry, SNAPSHOT_KEY)
    wanted(tmp_path, "6s")
    run("apply", "--yes", "--wait", "0")
    put(registry, SNAPSHOT_KEY, old)
    wanted(tmp_path, "5s")
    done = run("apply", "--yes", "--wait", "0")
    assert "Consul has generation 1, older than 2, which was published from here" in done.stderr
    assert json.loads(run("config", "show", "-o", "json").stdout)["generation"] == 3


# Without the verification these tests fail: it is what they test.


def believing(kind: Kind, published: bytes, trust: PolicyTrust) -> Generator[None, None, bytes]:
    """Stands in for ``verification.verifying``: whatever it is, it is believed."""
    yield
    try:
        return open_envelope(kind, published).content
    except Malformed:
        return published


@pytest.mark.parametrize("name", FORGED)
async def test_without_the_verification_a_forged_policy_would_let_callers_in(
    mesh: HostileMesh, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mesh.both()
    monkeypatch.setattr(adoption, "verifying", believing)
    make, _ = FORGED[name]
    mesh.consul.publish(make(mesh))
    await until(lambda: all(mesh.generation(host) == 6 for host in mesh.servers))
    assert await mesh.call("DELETE") == (200, ANSWER)
    assert b"DELETE" in mesh.app.everything


async def test_without_the_check_of_the_peer_an_impostor_would_be_called(
    mesh: HostileMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mesh.both()
    monkeypatch.setattr(pool_dial, "identify", lambda *_, **__: API)
    async with Listener(answer=b"stolen").serving(mesh.context("db")) as attacker:
        mesh.consul.place("api", instance("api", "127.0.0.1", attacker.port, host="trap"))
        await until(
            lambda: [e.host for e in mesh.status("front").upstreams[0].endpoints] == ["trap"]
        )
        assert await mesh.call("GET") == (200, b"stolen")
        assert SECRET.encode() in attacker.everything


async def test_without_policy_keys_a_new_proxy_would_take_what_consul_has(
    mesh: HostileMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "verifying", believing)
    mesh.consul.publish(snapshot(6, LOOSE))
    await mesh.start("back", API)
    mesh.place_api()
    await mesh.start("front", WEB)
    await until(lambda: mesh.endpoints() == 1 and mesh.generation("back") == 6)
    assert await mesh.call("DELETE") == (200, ANSWER)
