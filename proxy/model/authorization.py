"""Who may call a service, as data. Part of ``policy.ServicePolicy``.

Deny before allow, default deny: an intention that denies decides before all that allow, wherever
it stands; among those that allow, one is enough; without any, nothing is allowed.
"""

from typing import Final, Literal

from proxy.model.codec import Value
from proxy.model.names import ServiceName
from proxy.model.routing import Match, TextMatch

EVERYBODY: Final = "*"
"""In a list of callers: every service that the inventory declares."""

UNKNOWN: Final = ServiceName("unknown")
"""A caller without an identity, as Istio's metrics have it."""

Mode = Literal["strict", "permissive"]
"""``permissive``: callers without an identity are served too, on a port of their own."""


class TokenProvider(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Whose JSON Web Tokens are believed. Exactly one of ``jwks_file`` and ``jwks_url`` is set."""

    issuer: str
    audiences: tuple[str, ...]
    """The token's must have one of them; never empty."""
    jwks_file: str = ""
    """An absolute path on each host that carries a service with this provider."""
    jwks_url: str = ""
    """https, or http on loopback."""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    header: str = "authorization"
    """Lower case; ``authorization`` has ``Bearer`` before the token, another the token alone."""
    refresh_s: float = 300.0
    """How old keys may get before they are asked for again; an unknown key id asks at once."""
    leeway_s: float = 30.0
    """For ``exp`` and ``nbf``."""


class TokenRule(Value, frozen=True, kw_only=True, omit_defaults=True):
    """A valid token of ``provider``, with all of these claims."""

    provider: str
    """A key of ``Policy.tokens``."""
    claims: dict[str, TextMatch] = {}
    """By name, or by a path with dots (``realm.roles``). Of a list, one element is enough."""


class Intention(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One rule. Exactly one of ``allow`` and ``deny`` has callers.

    Its id, wherever a decision is explained, is ``<service>/<name>``. It narrows what the
    inventory declares, and never widens it.
    """

    name: str
    allow: tuple[str, ...] = ()
    """Services, or EVERYBODY."""
    deny: tuple[str, ...] = ()
    is_audit: bool = False
    """Decides nothing: what it would have decided otherwise is logged and counted."""
    match: Match = Match()
    """http only, without ``sources``. A path is compared in its normal form, which is what the
    application gets; one that applications may read in different ways is refused before."""
    token: TokenRule | None = None
    """http only, with ``allow`` only."""
