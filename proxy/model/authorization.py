"""Who may call a service, as data. Part of ``policy.ServicePolicy``.

Deny before allow, default deny: an intention that denies decides before all that allow, wherever
it stands; among those that allow, one is enough; without any, nothing is allowed.
"""

from typing import Final

from proxy.model.codec import Value
from proxy.model.routing import Match

EVERYBODY: Final = "*"
"""In a list of callers: every service that the inventory declares."""


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
