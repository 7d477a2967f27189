"""Secrets of every kind are taken out, whatever they stand in, and in time linear in the text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.support.scrub import MARK, Scrubber

CANARY = "CANARY0123456789"
KNOWN = "3b9a7c52-known-token"
PEM = f"-----BEGIN EC PRIVATE KEY-----\nMHc{CANARY}\n-----END EC PRIVATE KEY-----\n"
JWT = f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIi{CANARY}.{CANARY}"

SECRETS = {
    "a key": PEM,
    "a key that is cut off": PEM[:50],
    "an encrypted key": PEM.replace("EC PRIVATE", "ENCRYPTED PRIVATE"),
    "a key of SSH": PEM.replace("EC PRIVATE", "OPENSSH PRIVATE"),
    "a bearer": f"Authorization: Bearer {CANARY}",
    "a basic": f"proxy-authorization: Basic {CANARY}==",
    "a token of Consul": f"X-Consul-Token: {CANARY}",
    "a token in the environment": f"CONSUL_HTTP_TOKEN={CANARY}",
    "a passphrase": f"MESHCTL_PASSPHRASE={CANARY}",
    "a cookie": f"Cookie: sid={CANARY}; other={CANARY}",
    "a password in a URL": f"postgres://user:{CANARY}@db/x",
    "a token in a query": f"GET /?access_token={CANARY}&x=1",
    "an argument": f"--password {CANARY}",
    "yaml": f"  db_password: {CANARY} and more",
    "yaml in quotes": f"api-key: '{CANARY} and more'",
    "a block of yaml": f"secret: |\n  {CANARY}\n  {CANARY}\n",
    "an assignment": f'token = "{CANARY}"',
    "a quote that is not closed": f'"token": "{CANARY} and more',
    "a JWT": JWT,
    "a gossip key": f'"encrypt": "{CANARY}=="',
    "a key of a cloud": "AKIACANARY0123456789",
}


def is_clean(data: bytes) -> bool:
    return b"CANARY" not in data


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_taken_out_wherever_it_stands(name: str) -> None:
    secret, scrub = SECRETS[name], Scrubber()
    document = json.dumps({"a": [{"b": secret}], "n": 1})
    for text in (
        secret,
        f"before\n{secret}",
        document,
        json.dumps({"msg": document}),
        json.dumps({"msg": json.dumps({"msg": document})}),
        f"level=x {document}",
        f'{{"ts":1}}\n{secret}\n{{"ts":2}}\n',
        f"{document}\n{document}\n",
    ):
        done = scrub(text.encode())
        assert is_clean(done.data), done.data
        assert done.removed
        assert MARK in done.data


def test_fields_that_are_named_like_a_secret_are_emptied() -> None:
    document = {
        "password": f'with "quotes" {CANARY}',
        "x-consul-token": CANARY,
        "SecretID": CANARY,
        "tokens": {"issuer": "https://issuer"},
        "token_file": "/etc/token",
        "token": None,
        "nested": {"api_key": [CANARY, CANARY]},
    }
    done = Scrubber()(json.dumps(document).encode())
    assert is_clean(done.data)
    kept = json.loads(done.data)
    assert kept["tokens"] == {"issuer": "https://issuer"}
    assert kept["token_file"] == "/etc/token"
    assert kept["token"] is None
    assert kept["nested"] == {"api_key": ["[removed]"] * 2}


@pytest.mark.parametrize(
    "text",
    [
        KNOWN,
        f"in the middle{KNOWN}of a word",
        json.dumps({KNOWN: 1}),
        "M2I5YTdjNTIta25vd24tdG9rZW4=",
        f"GET /{KNOWN}/x",
    ],
)
def test_what_is_known_to_be_secret_is_taken_out_without_a_name(text: str) -> None:
    done = Scrubber([KNOWN.encode()])(text.encode())
    assert KNOWN.encode() not in done.data
    assert b"M2I5" not in done.data
    assert done.removed == 1
    assert KNOWN not in repr(Scrubber([KNOWN.encode()]))


@pytest.mark.parametrize(
    "text",
    [
        '{"status":503,"path":"/users/1","request_id":"f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}\n',
        'meshctl_proxy_up 1\nistio_requests_total{reporter="source"} 3\n',
        "consul: {token_file: /etc/consul.token}\n",
        "the token of the caller is not valid\n",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    done = Scrubber()(text.encode())
    assert done.removed == 0
    same = json.loads(done.data) == json.loads(text) if text.startswith("{") else False
    assert same or done.data == text.encode()


@given(st.binary(max_size=300))
def test_any_bytes_are_taken_and_a_second_time_changes_nothing(data: bytes) -> None:
    scrub = Scrubber([KNOWN.encode()])
    once = scrub(data)
    assert scrub(once.data).data == once.data


@pytest.mark.parametrize(
    "unit",
    ["a-", "eyJ-", "token ", 'token"', 'token="', " ", "x://", "\\", "{", "[", "-----BEGIN ",
     "token:", "authorization", "basic ", "password: |\n", "a.token"],
)  # fmt: skip
def test_no_text_makes_it_slow(unit: str) -> None:
    # With a pattern that goes back and forth this would not end.
    Scrubber()((unit * (300_000 // len(unit))).encode())
