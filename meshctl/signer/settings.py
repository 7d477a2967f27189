"""What a signer is told (``signer.json``) and what it says of itself on its admin port."""

from proxy.model.codec import Value
from proxy.model.names import HostName, TrustDomain
from proxy.model.settings import Address

ADMIN = Address(host="127.0.0.1", port=15009)
LEAF_LIFE_S = 24 * 3600.0
"""24 hours (Istio)."""
CSR_PER_S = 50.0
"""Consul's ``csr_max_per_second``: a whole mesh that starts at once must not take the CPU."""


class SignerSettings(Value, frozen=True, kw_only=True):
    """``signer.json``: rendered by ``meshctl``, read once at start."""

    host: HostName
    trust_domain: TrustDomain
    listen: Address
    """TLS 1.3 with client certificates; proxies dial it."""
    admin: Address = ADMIN
    """Loopback only."""
    state_dir: str
    """``intermediate/current/{key.pem,chain.pem}`` and ``issued.jsonl``."""
    trust_bundle: str
    """PEM file: the roots that a client's certificate may chain to."""
    record: str
    """JSON file, a ``DeployRecord``: which host may have which identity."""
    leaf_life_s: float = LEAF_LIFE_S
    csr_per_s: float = CSR_PER_S
    """Certificates signed in a second, of all callers; beyond it they are asked to come again."""
    release: str = ""
    """Digest of the release that runs; reported, so that drift shows."""


class CaStatus(Value, frozen=True, kw_only=True):
    """The intermediate in force. Moments are RFC 3339, UTC; hex is lower case."""

    serial: str
    trust_domain: TrustDomain
    issuer_key_id: str
    """The key identifier of the root that certified it."""
    fingerprint: str
    """SHA-256 of the certificate's DER."""
    not_before: str
    not_after: str
    certificate: str
    """PEM."""


class ShownCa(Value, frozen=True, kw_only=True):
    """What ``meshctl.signer.keys show`` prints."""

    signer: CaStatus | None
    error: str
    """Why there is none in force, or none that can be used."""


class SignerStatus(Value, frozen=True, kw_only=True):
    """``GET /status`` of the admin port."""

    host: HostName
    version: str
    release: str
    started_at: str
    signer: CaStatus
    record_digest: str
    """Of the bytes of the record in force (``codec.digest``)."""
    bundle_digest: str
    leaf_life_s: float
    signed: int
    """Since the start."""
    refused: int
    reload_error: str
    """Why the last reload changed nothing; empty after one that worked."""
