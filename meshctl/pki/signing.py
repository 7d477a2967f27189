"""What publishing takes: a mesh's policy key, and the operator's own memory of what was published.

The registry is not asked how far the numbering is: it could say anything. The number of a
publication is written down here before anything is signed with it, so that no two policies are
ever signed with the same one, whatever becomes of the first.
"""

from dataclasses import dataclass, field

from meshctl.errors import Refused
from meshctl.pki import policykey
from meshctl.pki.passphrase import Source
from meshctl.pki.policykey import PolicyKey
from meshctl.pki.store import CaStore
from meshctl.state import StateDir
from proxy.model.codec import Value
from proxy.model.names import TrustDomain
from proxy.model.policy_keys import MAX_GENERATION, PolicyTrust

PUBLISHED_FILE = "published.json"
MAX_LEAP = 2**32
"""How far the registry's word is taken when our own memory is shorter (a restored backup, another
operator's machine). Consul counts its writes in the same numbers, some hundred a second at most;
a lie costs this much of 2^53, so that two million of them would be needed."""


class Published(Value, frozen=True, kw_only=True):
    """``published.json``."""

    generation: int
    """The highest that was ever signed from here."""


def last_published(state: StateDir) -> int:
    """0: nothing yet."""
    found = state.read(PUBLISHED_FILE, Published)
    return found.generation if found is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """An unlocked policy key and its counter. Hold the state's lock."""

    state: StateDir
    key: PolicyKey = field(repr=False)

    @property
    def trust_domain(self) -> TrustDomain:
        return self.state.trust_domain

    @property
    def trust(self) -> PolicyTrust:
        return self.key.trust

    @property
    def last_published(self) -> int:
        return last_published(self.state)

    def next_generation(self, verified: int, claimed: int) -> int:
        """A number that was never used, noted as used. ``verified``: of a policy with our
        signature; ``claimed``: what the registry says besides, believed within ``MAX_LEAP``.

        Raises Refused when there are none left.
        """
        base = max(self.last_published, verified)
        if base < claimed <= base + MAX_LEAP:
            base = claimed
        if base >= MAX_GENERATION:
            raise Refused(
                f"the numbering of policies has come to its end at {base}",
                hint="proxies refuse lower ones; make a new mesh",
            )
        self.state.write(PUBLISHED_FILE, Published(generation=base + 1))
        return base + 1


def unlocked(state: StateDir, passphrase: Source) -> Signing:
    """For a mesh that has a key; raises as ``policykey.unlock``."""
    return Signing(state=state, key=policykey.unlock(CaStore.open(state).folder, passphrase))


def make_missing_key(ca: CaStore, passphrase: Source) -> bool:
    """As ``policykey.make_missing``; where keys are encrypted, the passphrase has to open the CA
    before a new key is put under it."""
    if policykey.read_public(ca.folder) is not None:
        return policykey.make_missing(ca.folder, None)
    if not ca.is_encrypted:
        return policykey.make_missing(ca.folder, None)
    given = passphrase()
    ca.unlock(lambda: given)
    return policykey.make_missing(ca.folder, given)
