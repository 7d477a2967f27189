"""A client certificate for asking a host whether it trusts a root.

It names ``names.probe_id``, which is no service's: whoever verifies it learns that its chain is
good, and lets it in nowhere. It lives for minutes and its key is thrown away with it.
"""

import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from ssl import CERT_NONE, PROTOCOL_TLS_CLIENT, SSLContext, TLSVersion

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshctl.pki.authority import BACKDATE_S, Issuer, pem
from meshctl.pki.certificates import leaf_draft
from proxy.model.names import probe_id

LIFE_S = 600
"""As long as asking every host once takes at most."""


def probing(root: Issuer, now: datetime) -> SSLContext:
    """For connections that show a new probe signed under ``root``, and believe any server: what
    is asked is whom the server believes."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(root, key.public_key(), now)
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.minimum_version = TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tempfile.TemporaryDirectory() as folder:  # 0700; OpenSSL takes keys from files only
        path = Path(folder) / "probe.pem"
        path.write_bytes(secret + pem(certificate))
        context.load_cert_chain(path)
    return context


def _certificate(root: Issuer, key: ec.EllipticCurvePublicKey, now: datetime) -> x509.Certificate:
    ca = root.certificate
    now = now.replace(microsecond=0)
    return leaf_draft(
        ca,
        key,
        max(now - timedelta(seconds=BACKDATE_S), ca.not_valid_before_utc),
        min(now + timedelta(seconds=LIFE_S), ca.not_valid_after_utc),
        subject=[x509.NameAttribute(NameOID.COMMON_NAME, "meshctl probe")],
        names=[x509.UniformResourceIdentifier(probe_id(root.trust_domain))],
        uses=[ExtendedKeyUsageOID.CLIENT_AUTH],
    ).sign(root.key, hashes.SHA256())
