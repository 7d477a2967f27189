"""What intentions ask of a JSON Web Token: where it is in a request, and its claims. Pure.

Whether a token is genuine is somebody else's to say (``Verify``): that needs keys and a library.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from proxy.core.routing.conditions import Head, compile_text
from proxy.model.authorization import TokenProvider, TokenRule
from proxy.model.routing import TextMatch

MAX_TOKEN_BYTES: Final = 8 * 1024
"""What Apache and nginx take for a whole header; real ones have some 1 to 2 KiB."""

_BEARER: Final = b"bearer "
_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class Untrusted:
    """There is no token, or none to go by."""

    reason: str
    """One of a small set, for metrics."""
    why: str
    """For people, without anything of the token but the id of its key: ``it has expired``."""


Claims: TypeAlias = Mapping[str, Any]
Verify: TypeAlias = Callable[[str, bytes], Claims | Untrusted]
"""Name of the provider and token, to what it says. It is asked for each request."""


def no_tokens(provider: str, token: bytes) -> Untrusted:
    """For who can verify none."""
    return Untrusted("unavailable", "tokens cannot be verified here")


class TokenCondition:
    """``TokenRule`` compiled."""

    __slots__ = ("_claims", "_is_bearer", "_provider", "_start", "_verify", "match_header")

    match_header: str
    """Lower case; applications must have one reading of it."""

    def __init__(
        self, rule: TokenRule, providers: Mapping[str, TokenProvider], verify: Verify
    ) -> None:
        """Raises InvalidRegex."""
        provider = providers.get(rule.provider)
        self._provider = rule.provider
        self.match_header = provider.header.lower() if provider else "authorization"
        self._is_bearer = self.match_header == "authorization"
        self._start = f"{self.match_header}: ".encode()
        self._verify = verify if provider else no_tokens
        self._claims = tuple((name, _claim_test(text)) for name, text in rule.claims.items())

    def refusal(self, head: Head) -> Untrusted | None:
        """None: the request has a token that is genuine and says all that is asked for."""
        token = self._token(head)
        if isinstance(token, Untrusted):
            return token
        claims = self._verify(self._provider, token)
        if isinstance(claims, Untrusted):
            return claims
        for name, test in self._claims:
            if not test(_claim(claims, name)):
                return Untrusted("claims", f"the token's claim {name!r} is not what is asked for")
        return None

    def _token(self, head: Head) -> bytes | Untrusted:
        start = self._start
        found = [line[len(start) :] for line in head.lines if line.startswith(start)]
        if not found:
            return Untrusted("missing", f"it has no {self.match_header} with a token")
        if len(found) > 1:
            return Untrusted("malformed", f"it has more than one {self.match_header}")
        token = found[0]
        if self._is_bearer:
            if token[: len(_BEARER)].lower() != _BEARER:
                return Untrusted("missing", "its authorization is not a bearer token")
            token = token[len(_BEARER) :].strip(b" ")
        if len(token) > MAX_TOKEN_BYTES:
            return Untrusted("malformed", f"the token has more than {MAX_TOKEN_BYTES} bytes")
        return token


def _claim(claims: Claims, name: str) -> Any:
    """By its name, else by its path."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _NOTHING
        found = found[part]
    return found


def _claim_test(match: TextMatch) -> Callable[[Any], bool]:
    test = compile_text(match)

    def holds(value: Any) -> bool:
        if value is _NOTHING or value is None:
            return test(None)
        if isinstance(value, list):
            return any(test(_text(each)) for each in value) if value else test(None)
        return test(_text(value))

    return holds


def _text(value: Any) -> bytes:
    """As it would be written in JSON, a text without its quotes. An object has none: it meets no
    condition but that it is there."""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return str(value).encode() if isinstance(value, int | float) else b""
