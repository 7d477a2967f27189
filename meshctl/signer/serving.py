"""The signer's own certificate: made in memory under its intermediate, never written anywhere.

Proxies accept it by its SPIFFE ID, which no service can have. It lives a day and is made anew
long before, so that a stolen one, with no key on any disk, is soon of no use.
"""

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshctl.pki.authority import BACKDATE_S, Issuer, pem
from meshctl.pki.certificates import leaf_draft
from proxy.keyfiles import Refused
from proxy.model.names import TrustDomain, signer_id

LIFE_S = 24 * 3600.0
RENEW_AT = 2 / 3
"""Of its life, then it is made anew."""
MIN_LIFE_S = 60.0
"""An intermediate that ends sooner signs nothing that could be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What new connections are accepted with."""

    context: ssl.SSLContext
    renew_at: datetime


def make(issuer: Issuer, trust_domain: TrustDomain, bundle: bytes, now: datetime) -> Serving:
    """Raises Refused when the intermediate has ended or is about to, or the bundle is none."""
    now = now.astimezone(UTC).replace(microsecond=0)
    ca = issuer.certificate
    until = min(now + timedelta(seconds=LIFE_S), ca.not_valid_after_utc)
    life = until - now
    if life < timedelta(seconds=MIN_LIFE_S):
        raise Refused(
            f"the signer's certificate ends at {ca.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}:"
            " run meshctl deploy"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _leaf(issuer, trust_domain, key, now, until)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    context = _context(private + pem(leaf, ca), bundle)
    return Serving(context=context, renew_at=now + RENEW_AT * life)


def _leaf(
    issuer: Issuer,
    trust_domain: TrustDomain,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
) -> x509.Certificate:
    ca = issuer.certificate
    return leaf_draft(
        ca,
        key.public_key(),
        max(now - timedelta(seconds=BACKDATE_S), ca.not_valid_before_utc),
        until,
        names=[x509.UniformResourceIdentifier(signer_id(trust_domain))],
        uses=[ExtendedKeyUsageOID.SERVER_AUTH],
    ).sign(issuer.key, hashes.SHA256())


def _context(key_and_chain: bytes, bundle: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0  # a resumed session would skip the verification of its peer
    try:
        context.load_verify_locations(cadata=bundle.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise Refused("the trust bundle is not PEM certificates") from error
    # The ssl module reads keys from files only; this one exists in memory alone.
    descriptor = os.memfd_create("signer", os.MFD_CLOEXEC)
    try:
        with open(os.dup(descriptor), "wb") as file:
            file.write(key_and_chain)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
