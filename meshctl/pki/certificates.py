"""What certificates of every CA here have in common; who gets which is for the callers. Pure."""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def draft(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    since: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        # 159 random bits; the CA/Browser Forum asks for 64.
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def leaf_draft(
    ca: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    since: datetime,
    until: datetime,
    *,
    names: Sequence[x509.GeneralName],
    uses: Sequence[x509.ObjectIdentifier],
    subject: Sequence[x509.NameAttribute[str]] = (),
) -> x509.CertificateBuilder:
    """No CA, for signatures only, under ``ca``. ``uses``: of the extended key usage. The names are
    critical, as the subject is none."""
    return (
        draft(x509.Name(subject), ca.subject, key, since, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(authority_key(ca), critical=False)
    )


def usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in allowed for name in _USAGES})


def authority_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """For what ``ca`` issues."""
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_subject_key(ca))


def key_id(ca: x509.Certificate) -> str:
    """SubjectKeyIdentifier in hex: what the certificates it issued name as their issuer."""
    return _subject_key(ca).digest.hex()


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _subject_key(ca: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
