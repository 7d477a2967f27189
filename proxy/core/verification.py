"""Whether what was published was signed by whom this mesh believes.

The same code for a proxy that takes a policy and for the operator's side, which believes nothing
that it reads back from the registry either.
"""

from collections.abc import Generator

from proxy.core import ed25519
from proxy.model.codec import Malformed
from proxy.model.policy_keys import PolicyTrust
from proxy.model.signed import Kind, open_envelope, stating
from proxy.model.snapshot import MAX_PACKED, finish


class Unverified(Exception):
    """Why it is not believed: the end of a sentence."""


def verifying(kind: Kind, published: bytes, trust: PolicyTrust) -> Generator[None, None, bytes]:
    """What is in the envelope, of which nothing was looked at before its signature was good.

    In pieces below 0.3 ms. Raises Unverified.
    """
    if not trust.keys:
        raise Unverified("there are no policy keys to verify it by; meshctl deploy brings them")
    if len(published) > MAX_PACKED:
        raise Unverified(f"it has {len(published)} bytes, more than the {MAX_PACKED} that fit")
    try:
        envelope = open_envelope(kind, published)
    except Malformed as error:
        raise Unverified(str(error)) from error
    key = trust.keys.get(envelope.key_id)
    if key is None:
        known = ", ".join(sorted(trust.keys))
        raise Unverified(f"it is signed with the key {envelope.key_id}, not with {known}")
    message = yield from stating(kind, envelope.content)
    is_valid = yield from ed25519.verifying(key, message, envelope.signature)
    if not is_valid:
        raise Unverified("its signature is wrong: it was altered after it was signed")
    return envelope.content


def verified(kind: Kind, published: bytes, trust: PolicyTrust) -> bytes:
    """``verifying``, all at once. Raises Unverified."""
    return finish(verifying(kind, published, trust))
