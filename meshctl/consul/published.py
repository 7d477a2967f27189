"""What lies in Consul under the policy's key, held against the mesh's own key. Pure."""

from typing import Final

from meshctl.pki.signing import Signing
from proxy.core.verification import Unverified, verified
from proxy.model.codec import Malformed, Value, decode
from proxy.model.names import TrustDomain
from proxy.model.policy import Snapshot
from proxy.model.policy_keys import PolicyTrust
from proxy.model.signed import Kind, open_envelope
from proxy.model.snapshot import plain, unpack

ENVELOPE_BYTES: Final = 128
"""At least what an envelope adds."""


class _Claim(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    trust_domain: TrustDomain


def snapshot(data: bytes, trust: PolicyTrust) -> Snapshot:
    """Raises Unverified, or Malformed for what was signed and cannot be read."""
    return unpack(verified(Kind.POLICY, data, trust))


def ours(data: bytes, signing: Signing) -> Snapshot | None:
    """The snapshot that ``data`` is; None: it is not this mesh's, or broken."""
    try:
        found = snapshot(data, signing.trust)
    except (Unverified, Malformed):
        return None
    return found if found.trust_domain == signing.trust_domain else None


def claimed_trust_domain(data: bytes) -> TrustDomain | None:
    """The mesh that it says it is of, signed or not; None: it says nothing."""
    try:
        content = open_envelope(Kind.POLICY, data).content
    except Malformed:
        content = data  # unsigned, as releases before this one published
    try:
        return decode(plain(content), _Claim).trust_domain
    except Malformed:
        return None
