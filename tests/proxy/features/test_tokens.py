"""JSON Web Tokens that intentions ask for, through two data planes."""

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from proxy.model.authorization import Intention, TokenProvider, TokenRule
from proxy.model.policy import ServicePolicy
from proxy.model.routing import Match, PathMatch, TextMatch
from proxy.net import tokens as tokens_module

ISSUER = "https://login.example.com/"
OK = 200


def now() -> int:
    """Asked for as a token is made: a run of all tests takes longer than some are valid."""
    return int(time.time())


class Issuer:
    """Keys by id, and tokens signed with them."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.jwks: dict[str, dict[str, Any]] = {}

    def make(self, key_id: str, algorithm: str = "ES256", **said: Any) -> None:
        key: Any
        match algorithm:
            case "ES256":
                key = ec.generate_private_key(ec.SECP256R1())
            case "EdDSA":
                key = ed25519.Ed25519PrivateKey.generate()
            case _:
                key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.keys[key_id] = key
        jwk = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
        self.jwks[key_id] = {**jwk, "kid": key_id, "use": "sig", **said}

    @property
    def document(self) -> bytes:
        return json.dumps({"keys": list(self.jwks.values())}).encode()

    def token(self, key_id: str = "k1", algorithm: str = "ES256", **claims: Any) -> str:
        said = {"iss": ISSUER, "aud": "api", "exp": now() + 3600, "sub": "ann", **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, self.keys[key_id], algorithm, headers={"kid": key_id})


def forged(header: dict[str, Any], **claims: Any) -> str:
    """With a signature of no key."""
    said = {"iss": ISSUER, "aud": "api", "exp": now() + 3600, **claims}
    parts = [json.dumps(each).encode() for each in (header, said)] + [b"signature"]
    return ".".join(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts)


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    made = Issuer()
    for key_id, algorithm in (("k1", "ES256"), ("r1", "RS256"), ("e1", "EdDSA")):
        made.make(key_id, algorithm)
    return made


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are looked at each time that they may be."""
    monkeypatch.setattr(tokens_module, "LOOK_S", 0.0)
    monkeypatch.setattr(tokens_module, "APART_S", 0.01)


def asks(**claims: TextMatch) -> ServicePolicy:
    rule = TokenRule(provider="users", claims=claims)
    return ServicePolicy(intentions=(Intention(name="users", allow=("web",), token=rule),))


async def begin(grid: Any, keys: Path | str, policy: ServicePolicy, **provider: Any) -> Any:
    """The application, behind ``policy``, with the keys of a file or a URL."""
    app = await grid.serve("api", "a1")
    key = "jwks_url" if isinstance(keys, str) else "jwks_file"
    grid.tokens["users"] = TokenProvider(
        issuer=ISSUER, audiences=("api", "api2"), **{key: str(keys)}, **provider
    )
    grid.policy["api"] = policy
    grid.apply()
    return app


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}\r\n"


async def loaded(grid: Any, count: int, provider: str = "users") -> None:
    """Waits until so many keys are in force."""
    async with asyncio.timeout(20):
        while grid.metric("a1", "mesh_jwks_keys", provider=provider) != count:
            await asyncio.sleep(0.01)


async def file_mesh(grid: Any, tmp_path: Path, issuer: Issuer, **provider: Any) -> Any:
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.document)
    app = await begin(grid, path, asks(), **provider)
    await loaded(grid, len(issuer.jwks))
    return app


async def test_a_valid_token_is_let_in_and_reaches_the_application_unchanged(
    grid: Any, tmp_path: Path, issuer: Issuer
) -> None:
    app = await file_mesh(grid, tmp_path, issuer)
    client = await grid.connect()
    for key_id, algorithm in (("k1", "ES256"), ("r1", "RS256"), ("e1", "EdDSA")):
        token = issuer.token(key_id, algorithm)
        for _ in range(2):  # the second is remembered
            assert (await client.get("/", bearer(token))).status == OK
        assert app.requests[-1].all("authorization") == [f"Bearer {token}"]
    assert (await client.get("/", bearer(issuer.token(aud=["x", "api2"])))).status == OK
    other = await (await grid.connect(caller="other")).get("/", bearer(issuer.token()))
    assert other.status == 403, "a token makes nobody another caller"


def public_pem(issuer: Issuer, key_id: str) -> bytes:
    public = issuer.keys[key_id].public_key()
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def hmac_with_public_key(issuer: Issuer) -> str:
    """The confusion of CVE-2016-10555: a public key taken for a shared secret."""
    head, claims, _ = forged({"alg": "HS256", "kid": "r1"}).split(".")
    made = hmac.new(public_pem(issuer, "r1"), f"{head}.{claims}".encode(), hashlib.sha256)
    return f"{head}.{claims}.{base64.urlsafe_b64encode(made.digest()).decode().rstrip('=')}"


def of_another(issuer: Issuer) -> str:
    stranger = Issuer()
    stranger.make("k1")
    return stranger.token()


def altered(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    claims = forged({}, sub="root").split(".")[1]
    return f"{head}.{claims}.{signature}"


REFUSED: dict[str, tuple[Any, str]] = {
    "expired": (lambda i: i.token(exp=now() - 60), "the token has expired"),
    "not yet": (lambda i: i.token(nbf=now() + 600), "not valid yet"),
    "no expiry": (lambda i: i.token(exp=None), "lacks exp"),
    "audience": (lambda i: i.token(aud="billing"), "for somebody else"),
    "no audience": (lambda i: i.token(aud=None), "lacks exp"),
    "issuer": (lambda i: i.token(iss="https://evil.example.com/"), "of another issuer"),
    "none": (lambda i: forged({"alg": "none", "kid": "k1"}), "not accepted"),
    "None": (lambda i: forged({"alg": "None", "kid": "k1"}), "not accepted"),
    "hmac": (hmac_with_public_key, "not accepted"),
    "not in the list": (lambda i: i.token("r1", "PS256"), "not accepted"),
    "key of another kind": (lambda i: forged({"alg": "RS256", "kid": "k1"}), "not for the way"),
    "wrong key": (of_another, "signature is wrong"),
    "altered": (altered, "signature is wrong"),
    "unknown key": (lambda i: forged({"alg": "ES256", "kid": "k9"}), "with the id 'k9'"),
    "hostile key id": (
        lambda i: forged({"alg": "ES256", "kid": "../\r\nx: y"}),
        "there is no key to verify",
    ),
    "no key id": (lambda i: forged({"alg": "ES256"}), "does not say which key"),
    "critical": (lambda i: forged({"alg": "ES256", "kid": "k1", "crit": ["b64"]}), "no token"),
    "garbage": (lambda i: "a.b.c", "no token that can be read"),
    "deep": (
        lambda i: base64.urlsafe_b64encode(b"[" * 4000).decode() + ".e30.e30",
        "no token that can be read",
    ),
    "empty": (lambda i: "", "not a bearer token"),
    "oversized": (lambda i: i.token(pad="x" * 9000), "more than 8192 bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_bad_token_is_refused_and_said_why(
    grid: Any, tmp_path: Path, issuer: Issuer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = await file_mesh(grid, tmp_path, issuer)
    make, why = REFUSED[name]
    token = make(issuer)
    refused = await (await grid.connect()).get("/", bearer(token))
    assert (refused.status, refused.headers["x-mesh-flag"]) == (403, "UAEX")
    assert why in refused.body.decode()
    assert b"(policy api/token)" in refused.body
    assert app.requests == []
    for part in token.split("."):
        if len(part) > 20:
            assert part not in caplog.text
            assert part not in refused.body.decode()
    assert grid.metric("a1", "mesh_authorization_denials_total", policy="api/token") == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 403),
        ("Authorization: Basic YTpi\r\n", 403),
        ("Authorization: {0}\r\n", 403),
        ("Authorization: bearer {0}\r\n", OK),
        ("Authorization: Bearer x\r\nAuthorization: Bearer {0}\r\n", 403),
        ("Authorization: Bearer {0}\r\nAuthorization: Bearer {0}\r\n", 403),
    ],
)
async def test_a_token_has_one_place(
    grid: Any, tmp_path: Path, issuer: Issuer, headers: str, status: int
) -> None:
    await file_mesh(grid, tmp_path, issuer)
    got = await (await grid.connect()).get("/", headers.format(issuer.token()))
    assert got.status == status


async def test_a_header_of_its_own_has_the_token_alone(
    grid: Any, tmp_path: Path, issuer: Issuer
) -> None:
    await file_mesh(grid, tmp_path, issuer, header="x-token")
    client, token = await grid.connect(), issuer.token()
    assert (await client.get("/", f"X-Token: {token}\r\n")).status == OK
    assert (await client.get("/", f"X-Token: Bearer {token}\r\n")).status == 403
    assert (await client.get("/", bearer(token))).status == 403
    # Folded by gateways such as WSGI, the application might read the other one.
    assert (await client.get("/", f"X-Token: {token}\r\nX_Token: {token}\r\n")).status == 403


@pytest.mark.parametrize(
    ("asked", "claims", "status"),
    [
        ({"role": TextMatch(exact="admin")}, {"role": "admin"}, OK),
        ({"role": TextMatch(exact="admin")}, {"role": "administrator"}, 403),
        ({"role": TextMatch(exact="admin")}, {"role": ["user", "admin"]}, OK),
        ({"role": TextMatch(exact="admin")}, {"role": ["user"]}, 403),
        ({"role": TextMatch(exact="admin")}, {"role": [["admin"]]}, 403),
        ({"role": TextMatch(exact="admin")}, {"role": {"admin": 1}}, 403),
        ({"role": TextMatch(exact="admin")}, {}, 403),
        ({"realm.roles": TextMatch(exact="a")}, {"realm": {"roles": ["a", "b"]}}, OK),
        ({"realm.roles": TextMatch(exact="a")}, {"realm.roles": "a"}, OK),
        ({"realm.roles": TextMatch(exact="a")}, {"realm": "roles"}, 403),
        ({"level": TextMatch(exact="3")}, {"level": 3}, OK),
        ({"is_staff": TextMatch(exact="true")}, {"is_staff": True}, OK),
        ({"mail": TextMatch(regex=".*@example[.]com")}, {"mail": "a@example.com"}, OK),
        ({"mail": TextMatch(regex=".*@example[.]com")}, {"mail": "a@example.com.evil"}, 403),
        ({"mail": TextMatch(prefix="ann@")}, {"mail": "ann@x"}, OK),
        ({"mail": TextMatch(present=True)}, {"mail": "x"}, OK),
        ({"mail": TextMatch(present=True)}, {}, 403),
        ({"bot": TextMatch(present=False)}, {"bot": "yes"}, 403),
        ({"bot": TextMatch(present=False)}, {}, OK),
        ({"a": TextMatch(exact="1"), "b": TextMatch(exact="2")}, {"a": "1"}, 403),
    ],
)
async def test_claims_are_compared(
    grid: Any, tmp_path: Path, issuer: Issuer, asked: Any, claims: Any, status: int
) -> None:
    await file_mesh(grid, tmp_path, issuer)
    grid.policy["api"] = asks(**asked)
    grid.apply()
    got = await (await grid.connect()).get("/", bearer(issuer.token(**claims)))
    assert got.status == status


async def test_an_intention_without_a_token_allows_what_it_matches(
    grid: Any, tmp_path: Path, issuer: Issuer
) -> None:
    await file_mesh(grid, tmp_path, issuer)
    public = Intention(name="public", allow=("web",), match=Match(path=PathMatch(prefix="/public")))
    grid.policy["api"] = ServicePolicy(intentions=(*asks().intentions, public))
    grid.apply()
    client = await grid.connect()
    assert (await client.get("/public/x")).status == OK
    assert (await client.get("/private")).status == 403
    assert (await client.get("/private", bearer(issuer.token()))).status == OK


async def test_keys_in_a_file_are_rotated_and_a_broken_file_changes_nothing(
    grid: Any, tmp_path: Path, soon: None
) -> None:
    issuer = Issuer()
    issuer.make("k1")
    await file_mesh(grid, tmp_path, issuer)
    path, old = tmp_path / "keys.json", issuer.token()
    client = await grid.connect()
    assert (await client.get("/", bearer(old))).status == OK
    issuer.make("k2")
    path.write_bytes(issuer.document)
    assert (await client.get("/", bearer(issuer.token("k2")))).status == OK
    assert (await client.get("/", bearer(old))).status == OK
    for broken in (b"not json", b'{"keys": []}', b"[" * 100_000, b" " * 300_000):
        path.write_bytes(broken)
        assert (await client.get("/", bearer(old))).status == OK
    path.unlink()
    assert (await client.get("/", bearer(old))).status == OK
    assert grid.metric("a1", "mesh_jwks_failures_total", provider="users") >= 5
    del issuer.jwks["k1"]
    path.write_bytes(issuer.document)
    refused = await client.get("/", bearer(old))
    assert refused.status == 403, "a key that is withdrawn is withdrawn for remembered tokens too"
    assert b"no key with the id 'k1'" in refused.body


async def key_server(issuer: Issuer, app: Any) -> str:
    await app.start()
    app.answer = lambda _: (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (len(issuer.document), issuer.document)
    )
    return f"http://127.0.0.1:{app.port}/keys?v=1"


async def test_keys_of_a_url_are_fetched_rotated_and_kept_while_it_is_down(
    grid: Any, mesh_types: Any, soon: None
) -> None:
    issuer, source = Issuer(), mesh_types[1]()
    issuer.make("k1")
    url = await key_server(issuer, source)
    try:
        await begin(grid, url, asks())
        await loaded(grid, 1)
        assert source.requests[0].target == "/keys?v=1"
        client, old = await grid.connect(), issuer.token()
        assert (await client.get("/", bearer(old))).status == OK
        issuer.make("k2")
        new = issuer.token("k2")
        refused = await client.get("/", bearer(new))
        assert refused.status == 403, "not held up, but it makes the keys be asked for"
        await loaded(grid, 2)
        assert (await client.get("/", bearer(new))).status == OK
        await source.stop()
        issuer.make("k3")
        assert (await client.get("/", bearer(issuer.token("k3")))).status == 403
        async with asyncio.timeout(20):
            while not grid.metric("a1", "mesh_jwks_failures_total", provider="users"):
                await asyncio.sleep(0.01)
        assert (await client.get("/", bearer(new))).status == OK
        assert "cannot" not in str(grid.planes["a1"].tokens.describe()["users"]["key_ids"])
        assert grid.planes["a1"].tokens.describe()["users"]["error"]
        await source.start()
        await loaded(grid, 3)
        assert (await client.get("/", bearer(issuer.token("k3")))).status == OK
    finally:
        await source.stop()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 No\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b" " * 900_000,
        b"SSH-2.0-OpenSSH\r\n",
    ],
    ids=["500", "redirect", "not-json", "large", "not-http"],
)
async def test_a_source_that_answers_nonsense_lets_nobody_in(
    grid: Any, mesh_types: Any, issuer: Issuer, answer: bytes
) -> None:
    source = mesh_types[1]()
    url = await key_server(issuer, source)
    source.answer = lambda _: answer
    try:
        await begin(grid, url, asks())
        async with asyncio.timeout(20):
            while not grid.metric("a1", "mesh_jwks_failures_total", provider="users"):
                await asyncio.sleep(0.01)
        refused = await (await grid.connect()).get("/", bearer(issuer.token()))
        assert refused.status == 403
        assert b"there are no keys yet" in refused.body
    finally:
        await source.stop()


async def test_secrets_and_private_keys_in_a_set_are_left_out(grid: Any, tmp_path: Path) -> None:
    issuer = Issuer()
    for key_id, said in (("k1", {}), ("k2", {"use": "enc"}), ("k3", {"d": "AA"})):
        issuer.make(key_id, **said)
    issuer.jwks["k4"] = {"kty": "oct", "kid": "k4", "k": "c2VjcmV0"}
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    jwk = get_default_algorithms()["RS256"].to_jwk(weak.public_key(), as_dict=True)
    issuer.jwks["k5"] = {**jwk, "kid": "k5"}
    path = tmp_path / "keys.json"
    path.write_bytes(issuer.document)
    await begin(grid, path, asks())
    await loaded(grid, 1)
    client = await grid.connect()
    assert (await client.get("/", bearer(issuer.token("k1")))).status == OK
    for key_id in ("k2", "k3"):
        assert (await client.get("/", bearer(issuer.token(key_id)))).status == 403


async def test_who_verifies_no_tokens_has_no_library_for_it() -> None:
    code = """
import sys
import proxy.net.server, proxy.net.worker, proxy.net.tokens
assert "jwt" not in sys.modules, "pyjwt"
assert "cryptography" not in sys.modules, "cryptography"
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
