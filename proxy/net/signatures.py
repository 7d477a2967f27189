"""JSON Web Tokens verified against a JWK set. Imported only where policy asks for tokens: the
library and what it needs cost each process some megabytes.

Which key and which algorithm is decided here and not by the token: the algorithm must be one of
the provider's, must fit the kind of the key, and only public keys are ever held, so that neither
``none`` nor a public key used as a shared secret gets anywhere (RFC 8725, section 3.1).
"""

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.algorithms import get_default_algorithms

from proxy.core.authorization import Claims, Untrusted
from proxy.model.authorization import TokenProvider
from proxy.net.jwks import NoKeys

_MAX_KEYS: Final = 200
_MIN_RSA_BYTES: Final = 256  # NIST SP 800-131A: 2048 bits
_FITS: Final = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", ("",))),
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
_MAKER: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
_NAMED_ID: Final = 64

_REFUSALS: Final[tuple[tuple[type[Exception], Untrusted], ...]] = (
    (jwt.ExpiredSignatureError, Untrusted("expired", "the token has expired")),
    (jwt.ImmatureSignatureError, Untrusted("not-yet", "the token is not valid yet")),
    (jwt.InvalidIssuerError, Untrusted("issuer", "the token is of another issuer")),
    (jwt.InvalidAudienceError, Untrusted("audience", "the token is for somebody else")),
    (jwt.MissingRequiredClaimError, Untrusted("claims", "the token lacks exp, iss or aud")),
    (jwt.InvalidSignatureError, Untrusted("signature", "the token's signature is wrong")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    kind: tuple[str, str]
    """``kty`` and ``crv``."""
    algorithm: str
    """The only one that it is for; empty: any that fits."""
    material: Any


class KeySet:
    """Public keys by their ids."""

    def __init__(self, data: bytes) -> None:
        """``data``: RFC 7517, section 5. What is of no use is left out. Raises NoKeys."""
        try:
            listed = json.loads(data)["keys"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NoKeys("it is not a JWK set") from error
        if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
            raise NoKeys(f"it is not a JWK set of at most {_MAX_KEYS} keys")
        self._keys: dict[str, list[_Key]] = {}
        for each in listed:
            key = _key(each) if isinstance(each, dict) else None
            if key is not None:
                self._keys.setdefault(each["kid"], []).append(key)
        if not self._keys:
            raise NoKeys("it has no public key with an id that tokens can be verified with")

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(sorted(self._keys))

    def verify(self, token: bytes, provider: TokenProvider) -> Claims | Untrusted:
        """``reason`` is ``unknown-key`` where a newer set may help."""
        try:
            header = jwt.get_unverified_header(token)
            return self._verify(token, header, provider)
        except Exception as error:
            # Whatever a stranger's bytes make of the parsers, a refusal is the answer.
            return next(
                (found for kind, found in _REFUSALS if isinstance(error, kind)),
                Untrusted("malformed", "it has no token that can be read"),
            )

    def _verify(
        self, token: bytes, header: Mapping[str, Any], provider: TokenProvider
    ) -> Claims | Untrusted:
        algorithm, key_id = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in provider.algorithms:
            return Untrusted("algorithm", "the token is signed in a way that is not accepted")
        if "crit" in header:  # RFC 7515, section 4.1.11: we understand none of them
            return Untrusted("malformed", "the token asks for an extension that is not known")
        if not isinstance(key_id, str):
            return Untrusted("malformed", "the token does not say which key it is signed with")
        kty, curves = _FITS[algorithm]
        known = self._keys.get(key_id)
        if known is None:
            is_plain = key_id.isascii() and key_id.isprintable() and len(key_id) <= _NAMED_ID
            named = f" with the id {key_id!r}" if is_plain else ""
            return Untrusted("unknown-key", f"there is no key{named} to verify the token with")
        for key in known:
            if key.kind[0] == kty and key.kind[1] in curves and key.algorithm in ("", algorithm):
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key.material,
                    algorithms=[algorithm],
                    audience=list(provider.audiences),
                    issuer=provider.issuer,
                    leeway=provider.leeway_s,
                    options={"require": ["exp", "iss", "aud"]},
                )
                return claims
        return Untrusted("algorithm", "the token's key is not for the way it is signed")


def _key(jwk: Mapping[str, Any]) -> _Key | None:
    """None: of no use here, as are shared secrets, private keys, and keys for encryption."""
    kty, curve, algorithm = jwk.get("kty"), jwk.get("crv", ""), jwk.get("alg", "")
    operations = jwk.get("key_ops", ["verify"])
    if (
        not isinstance(jwk.get("kid"), str)
        or kty not in _MAKER
        or "d" in jwk
        or jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
        or (kty == "RSA" and _length(jwk.get("n")) < _MIN_RSA_BYTES)
    ):
        return None
    curve = "" if kty == "RSA" else curve
    if not any(kty == fits[0] and curve in fits[1] for fits in _FITS.values()):
        return None
    try:
        material = get_default_algorithms()[_MAKER[kty]].from_jwk(dict(jwk))
    except Exception:  # a key that the library takes for broken, in whatever way
        return None
    return _Key(kind=(kty, curve), algorithm=str(algorithm), material=material)


def _length(value: object) -> int:
    """Bytes of a number as JWKs have it, without leading zeros."""
    if not isinstance(value, str):
        return 0
    try:
        return len(urlsafe_b64decode(value + "=" * (-len(value) % 4)).lstrip(b"\0"))
    except ValueError:
        return 0
