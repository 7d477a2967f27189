"""``policy-keys.json``: by whose signature a proxy believes a policy.

It comes over SSH, beside the trust bundle, and is read again on each reload.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from proxy.model.codec import Malformed, Value, decode
from proxy.model.names import TrustDomain
from proxy.model.signed import key_id

KEY_BYTES = 32
MAX_KEYS = 4
"""One, and a second one while it is being replaced."""
MAX_GENERATION = 2**53
"""Above it some readers of JSON would round. By one a second it takes 285 million years to get
there, so that whatever says more is lying."""


class PolicyKeys(Value, frozen=True, kw_only=True):
    """The file."""

    trust_domain: TrustDomain
    keys: tuple[str, ...]
    """Ed25519 public keys, 32 bytes each, in base64."""
    minimum_generation: int = 0
    """A proxy that never had a policy is not to be given one from before its own time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTrust:
    """The same, ready for use."""

    keys: Mapping[str, bytes]
    """Public keys by key id; empty: no policy can be verified."""
    minimum_generation: int = 0


def parse(data: bytes, trust_domain: TrustDomain) -> PolicyTrust:
    """Raises Malformed, also for the keys of another mesh."""
    found = decode(data, PolicyKeys)
    if found.trust_domain != trust_domain:
        raise Malformed(f"the keys are of the mesh {found.trust_domain}, not of {trust_domain}")
    if not 1 <= len(found.keys) <= MAX_KEYS:
        raise Malformed(f"{len(found.keys)} keys, not 1 to {MAX_KEYS}")
    if not 0 <= found.minimum_generation <= MAX_GENERATION:
        raise Malformed(f"minimum_generation {found.minimum_generation} is out of range")
    keys = tuple(_key(text) for text in found.keys)
    return PolicyTrust(
        keys=MappingProxyType({key_id(key): key for key in keys}),
        minimum_generation=found.minimum_generation,
    )


def encode_key(public_key: bytes) -> str:
    """As it stands in the file."""
    return base64.b64encode(public_key).decode()


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("a key is not base64") from error
    if len(key) != KEY_BYTES:
        raise Malformed(f"a key has {len(key)} bytes, not {KEY_BYTES}")
    return key
