"""Certificates as the commands that make identities judge them: order, time, names, keys.

Nothing here decides whom to trust: a chain leads to the trust bundle, or it is refused.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from proxy import keyfiles
from proxy.keyfiles import Refused

MAX_CHAIN = 5
"""Certificates from leaf to root."""
T = TypeVar("T", bound=x509.ExtensionType)


def check_chain(
    chain: Sequence[x509.Certificate], bundle: Sequence[x509.Certificate], now: datetime
) -> None:
    if len(chain) > MAX_CHAIN:
        raise Refused(f"the chain has more than {MAX_CHAIN} certificates")
    for lower, upper in pairwise(chain):
        check_time(upper, "a CA in the chain", now)
        if not is_ca(upper) or not is_issued_by(lower, upper):
            raise Refused("the chain is not in order: each certificate must be issued by the next")
    for root in bundle:
        is_there = chain[-1] == root and is_ca(root)
        if is_there or (is_ca(root) and is_issued_by(chain[-1], root)):
            check_time(root, "the root", now)
            return
    raise Refused("the chain does not lead to a certificate of the trust bundle")


def check_time(certificate: x509.Certificate, what: str, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise Refused(
            f"{what} is not valid before {rfc3339(certificate.not_valid_before_utc)}; "
            "is this host's clock right?"
        )
    if now >= certificate.not_valid_after_utc:
        raise Refused(f"{what} expired at {rfc3339(certificate.not_valid_after_utc)}")


def is_issued_by(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_ca(certificate: x509.Certificate) -> bool:
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Refused(f"the certificate's extensions cannot be read: {error}") from error


def only_name(leaf: x509.Certificate) -> str:
    names = extension(leaf, x509.SubjectAlternativeName)
    if names is None or len(names) != 1:
        raise Refused("the certificate must have exactly one name, its SPIFFE ID")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Refused("the certificate's name is not a URI")
    return uris[0]


def host_of(leaf: x509.Certificate) -> str:
    """The host that a leaf names in its subject; empty: it names none."""
    found = leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise Refused(f"{what} is not a PEM certificate: truncated or corrupt") from error
    if len(certificates) != pem.count(b"-----BEGIN"):  # the parser skips a block without an end
        raise Refused(f"{what} has more in it than whole certificates: truncated or corrupt")
    return certificates


def matches(key_file: Path, leaf: x509.Certificate) -> bool:
    try:
        key = serialization.load_pem_private_key(keyfiles.read(key_file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused(f"{key_file} is not a private key: truncated or corrupt") from error
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*spki) == leaf.public_key().public_bytes(*spki)
