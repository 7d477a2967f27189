"""Policies that were published, kept in Consul beside the one in force: for looking and going back.

Informational: proxies never read it, and what it lacks is only missed by people. Each entry is
signed like a snapshot, but as an entry: going back to one is signing it again, and Consul must not
be able to have a policy of its own signed in this way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.core.verification import Unverified, verified
from proxy.model.codec import Malformed, Value, decode
from proxy.model.names import TrustDomain
from proxy.model.policy import Policy
from proxy.model.policy_keys import PolicyTrust
from proxy.model.signed import Kind
from proxy.model.snapshot import plain

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


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    entries: tuple[Entry, ...]
    """Verified; the newest first."""
    unverified: tuple[str, ...]
    """``meshctl/history/0000000007: it is not signed``: not believed, and not shown."""


def key(generation: int) -> str:
    """Sorts as the generation does."""
    return f"{PREFIX}{generation:010d}"


def read(pairs: Iterable[Mapping[str, Any]], trust: PolicyTrust) -> History:
    """``pairs`` as Consul gives them; what makes no sense is not believed either."""
    entries: list[Entry] = []
    unverified: list[str] = []
    for pair in pairs:
        try:
            name, value = pair["Key"], pair.get("Value") or b""
            entry = decode(plain(verified(Kind.HISTORY, value, trust)), Entry)
        except (Unverified, Malformed) as error:
            unverified.append(f"{name}: {error}")
        except (AttributeError, KeyError, TypeError):
            unverified.append("an entry that is not a key with its value")
        else:
            if name == key(entry.generation):
                entries.append(entry)
            else:
                unverified.append(f"{name}: it is the entry of generation {entry.generation}")
    return History(
        entries=tuple(sorted(entries, key=lambda entry: entry.generation, reverse=True)),
        unverified=tuple(unverified),
    )


def outlived(keys: Iterable[str]) -> list[str]:
    """Which entries are to go. Of numbers above ten digits the order is no longer that of text."""
    return sorted(keys, key=lambda name: (len(name), name))[:-KEPT]
