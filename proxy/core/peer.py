"""Who is at the other end of a TLS connection, from a certificate that is already verified.

The chain, the validity and the signature are OpenSSL's business; what it does not check is
here: that the certificate is a leaf for this use, of the kind that a CA of this mesh makes, and
that it names exactly one identity, of this mesh.
"""

from proxy.core.certificate import (
    CLIENT_AUTH,
    CRL_SIGN,
    DIGITAL_SIGNATURE,
    KEY_CERT_SIGN,
    P256,
    SERVER_AUTH,
    Certificate,
    NotStrict,
    read,
)
from proxy.model.names import InvalidName, ServiceName, TrustDomain, parse_spiffe_id, signer_id

_SHOWN_CHARACTERS = 300


def identify(der: bytes, trust_domain: TrustDomain, *, is_server: bool) -> ServiceName:
    """``der``: the peer's leaf; ``is_server``: what the peer is.

    Raises InvalidName, whose text says what the certificate has instead.
    """
    return parse_spiffe_id(_name(der, is_server=is_server), trust_domain)


def identify_signer(der: bytes, trust_domain: TrustDomain) -> None:
    """That the server is one of the mesh's signers, in the same way. Raises InvalidName."""
    name, wanted = _name(der, is_server=True), signer_id(trust_domain)
    if name != wanted:
        raise InvalidName(f"the certificate is for {name!r}, not {wanted}")


def _name(der: bytes, *, is_server: bool) -> str:
    """The one URI of a leaf that may be used in this role."""
    try:
        certificate = read(der)
    except NotStrict as error:
        raise InvalidName(f"the certificate is malformed: {error}") from error
    uris = certificate.uris
    if len(uris) != 1 or len(certificate.names) != 1:
        raise InvalidName(
            f"the certificate has {len(certificate.names)} alternative names, {len(uris)} of them "
            "URIs, not exactly one name, a URI"
        )
    # What is not ASCII is no URI (RFC 3986); shown with escapes, it can be no identity of ours.
    name = uris[0].decode("ascii", "backslashreplace")
    if reason := _unfit(certificate, is_server=is_server):
        raise InvalidName(f"the certificate of {name[:_SHOWN_CHARACTERS]!r} {reason}")
    return name


def _unfit(certificate: Certificate, *, is_server: bool) -> str:
    """Why it is not a leaf for this role; empty: it is."""
    if certificate.is_ca:
        return "is a CA's, not a service's"
    usage = certificate.key_usage
    # X509-SVID, section 4.3: a leaf has the extension, may sign, and may not sign certificates.
    if usage is None or not usage & DIGITAL_SIGNATURE:
        return "is not for signatures"
    if usage & (KEY_CERT_SIGN | CRL_SIGN):
        return "is a CA's, not a service's"
    if (SERVER_AUTH if is_server else CLIENT_AUTH) not in certificate.uses:
        return f"is not for a TLS {'server' if is_server else 'client'}"
    if certificate.key_algorithm != P256:
        return "has a key that is not P-256, which no CA of this mesh signs"
    return ""
