"""Certificates for one run, the same for every contestant: a root, an issuing CA, leaves.

Run as a program (``python identities.py DIRECTORY TRUST_DOMAIN SERVICE...``) by the interpreter
that has ``cryptography``, so that the rest of the benchmark needs nothing but the standard
library. Leaves: ``DIRECTORY/<service>/{key,chain}.pem``; the root: ``DIRECTORY/trust.pem``.
"""

import datetime
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = datetime.timedelta(days=1)
_BACKDATED = datetime.timedelta(minutes=1)


def make(directory: Path, trust_domain: str, services: list[str]) -> None:
    """Writes everything; keys have mode 0600 in directories of mode 0700."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _authority("bench root", root_key, None, root_key, path_length=1)
    issuing_key = ec.generate_private_key(ec.SECP256R1())
    issuing = _authority("bench issuing", issuing_key, root, root_key, path_length=0)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "trust.pem").write_bytes(_pem(root))
    for service in services:
        key = ec.generate_private_key(ec.SECP256R1())
        chain = _pem(_leaf(trust_domain, service, key, issuing, issuing_key)) + _pem(issuing)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        home = directory / service
        home.mkdir(mode=0o700)
        _write(home / "key.pem", private)
        _write(home / "chain.pem", chain)
        _write(home / "both.pem", chain + private)  # HAProxy wants them in one file


def _authority(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    path_length: int,
) -> x509.Certificate:
    subject = _name(name)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(subject, issuer.subject if issuer else subject, key, issuer_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _leaf(
    trust_domain: str,
    service: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """The common name is there for HAProxy 2.6, which cannot match a URI in a certificate."""
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    uri = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/svc/{service}")
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _builder(_name(f"{service}.{trust_domain}"), issuer.subject, key, issuer_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
