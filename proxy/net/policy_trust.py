"""``policy-keys.json`` read from disk: by whose signature policy is believed."""

from proxy.model.codec import Malformed
from proxy.model.names import TrustDomain
from proxy.model.policy_keys import PolicyTrust, parse

_MAX_BYTES = 64 * 1024


class PolicyKeysUnusable(Exception):
    """Why the file names no keys, in one sentence."""


def load(path: str, trust_domain: TrustDomain) -> PolicyTrust:
    """Raises PolicyKeysUnusable."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise PolicyKeysUnusable(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise PolicyKeysUnusable(f"{path} is larger than {_MAX_BYTES} bytes")
    try:
        return parse(data, trust_domain)
    except Malformed as error:
        raise PolicyKeysUnusable(f"{path}: {error}") from error
