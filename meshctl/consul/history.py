"""Policies that were published, kept in Consul beside the one in force: for looking and going back.

Informational: proxies never read it, and what it lacks is only missed by people.
"""

from proxy.model.codec import Value
from proxy.model.names import TrustDomain
from proxy.model.policy import Policy

PREFIX = "meshctl/history/"
KEPT = 50
"""Entries; a policy has a few KiB, one for 1,000 services some 200, and nobody goes further back
by number."""


class Entry(Value, frozen=True, kw_only=True):
    generation: int
    trust_domain: TrustDomain
    policy: Policy
    published_at: str = ""
    """RFC 3339, UTC; empty: it was published by something that wrote no entry."""
    by: str = ""
    """``user@machine``."""
    why: str = ""
    """``rollback to 3``; empty for an ordinary change."""


def key(generation: int) -> str:
    """Sorts as the generation does."""
    return f"{PREFIX}{generation:010d}"
