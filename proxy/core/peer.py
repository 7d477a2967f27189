"""Who is at the other end of a TLS connection, from a certificate that is already verified.

The chain, the validity and the signature are OpenSSL's business; what it does not check is
here: that the certificate is a leaf for this use, and that it names exactly one identity, of
this mesh.
"""

import re
from collections.abc import Mapping
from typing import Any

from proxy.model.names import InvalidName, ServiceName, TrustDomain, parse_spiffe_id

# DER of: OID 2.5.29.19 (basicConstraints), an optional `critical TRUE`, an OCTET STRING with a
# SEQUENCE whose first element is BOOLEAN TRUE.
_IS_CA = re.compile(rb"\x06\x03\x55\x1d\x13(?:\x01\x01\xff)?\x04.\x30.\x01\x01[^\x00]", re.DOTALL)
_SERVER_AUTH = bytes.fromhex("06082b06010505070301")
_CLIENT_AUTH = bytes.fromhex("06082b06010505070302")


def identify(
    certificate: Mapping[str, Any], der: bytes, trust_domain: TrustDomain, *, is_server: bool
) -> ServiceName:
    """``certificate``: as ``ssl.SSLObject.getpeercert`` gives it; ``is_server``: what the peer is.

    Raises InvalidName, whose text says what the certificate has instead.
    """
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(names) != 1:
        raise InvalidName(f"the certificate has {len(names)} URI names, not exactly one")
    service = parse_spiffe_id(names[0], trust_domain)
    if _IS_CA.search(der) is not None:
        raise InvalidName(f"the certificate of {names[0]} is a CA's, not a service's")
    if (_SERVER_AUTH if is_server else _CLIENT_AUTH) not in der:
        role = "server" if is_server else "client"
        raise InvalidName(f"the certificate of {names[0]} is not for a TLS {role}")
    return service
