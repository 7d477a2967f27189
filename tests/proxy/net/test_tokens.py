"""What is kept of verified tokens, and for how long; the rest is in features/test_tokens.py."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from proxy.core.authorization import Untrusted
from proxy.core.metrics import Metrics
from proxy.model.authorization import TokenProvider
from proxy.net import tokens
from proxy.net.tokens import TokenVerifier

KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def provider(tmp_path: Path) -> TokenProvider:
    jwk = {**ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True), "kid": "k"}
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [jwk]}))
    return TokenProvider(issuer="i", audiences=("a",), jwks_file=str(path), leeway_s=0.0)


def token(number: int = 0, lasts_s: float = 600) -> bytes:
    claims = {"iss": "i", "aud": "a", "exp": time.time() + lasts_s, "n": number}
    return jwt.encode(claims, KEY, "ES256", headers={"kid": "k"}).encode()


def reason(found: Any) -> str:
    return found.reason if isinstance(found, Untrusted) else ""


async def test_before_anybody_is_served_the_keys_are_there_at_once(
    provider: TokenProvider,
) -> None:
    verifier = TokenVerifier(Metrics())
    verifier.apply({"users": provider})
    assert reason(verifier.verify("users", token())) == ""
    assert reason(verifier.verify("others", token())) == "unavailable"
    verifier.close()


async def test_a_remembered_token_expires_like_any_other(
    provider: TokenProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = TokenVerifier(Metrics())
    verifier.apply({"users": provider})
    short = token(lasts_s=30)
    assert reason(verifier.verify("users", short)) == ""
    now = time.time() + 31
    monkeypatch.setattr(tokens, "time", lambda: now)
    # It is verified afresh, by the library's own clock; what counts is that it was forgotten.
    seen: list[bytes] = []
    keys = verifier._providers["users"]._keys
    assert keys is not None
    monkeypatch.setattr(
        keys, "verify", lambda each, _: seen.append(each) or Untrusted("expired", "")
    )
    assert reason(verifier.verify("users", short)) == "expired"
    assert seen == [short]


async def test_so_many_are_remembered_and_the_oldest_is_forgotten(
    provider: TokenProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "MAX_REMEMBERED", 3)
    verifier = TokenVerifier(Metrics())
    verifier.apply({"users": provider})
    for number in range(5):
        assert reason(verifier.verify("users", token(number))) == ""
    assert len(verifier._providers["users"]._verified) == 3


async def test_a_changed_provider_starts_anew_and_a_removed_one_is_gone(
    provider: TokenProvider,
) -> None:
    metrics = Metrics()
    verifier = TokenVerifier(metrics)
    verifier.apply({"users": provider})
    good = token()
    assert reason(verifier.verify("users", good)) == ""
    verifier.apply({"users": provider})
    assert verifier._providers["users"]._verified, "the same as before is left alone"
    other = TokenProvider(issuer="j", audiences=("a",), jwks_file=provider.jwks_file)
    verifier.apply({"users": other})
    assert reason(verifier.verify("users", good)) == "issuer"
    verifier.apply({})
    assert reason(verifier.verify("users", good)) == "unavailable"
    assert b'mesh_jwks_keys{provider="users"}' not in metrics.render()


async def test_without_the_library_tokens_are_refused_and_the_rest_lives(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
sys.modules["jwt"] = None
from proxy.core.metrics import Metrics
from proxy.model.authorization import TokenProvider
from proxy.net.tokens import TokenVerifier

async def main():
    verifier = TokenVerifier(Metrics())
    path = {str(tmp_path / "keys.json")!r}
    open(path, "w").write("{{}}")
    verifier.apply({{"users": TokenProvider(issuer="i", audiences=("a",), jwks_file=path)}})
    assert verifier.verify("users", b"a.b.c").reason == "no-keys"
    assert "cannot be verified on this host" in str(verifier.describe())

asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
