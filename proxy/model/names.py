"""Names that are valid by construction, and the one place where an identity is spelled.

A raw string enters through ``parse_*`` and leaves as a ``NewType``; what is refused is
described well enough to be shown to an operator as it is.
"""

import re
from typing import NewType

ServiceName = NewType("ServiceName", str)
HostName = NewType("HostName", str)
TrustDomain = NewType("TrustDomain", str)
SpiffeId = NewType("SpiffeId", str)

# RFC 1123 label: it becomes part of a DNS name (SNI), of a SPIFFE path and of a Consul service
# name, and this is the intersection of what the three accept.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,48}[a-z0-9])?")
LABEL_RULE = "lower-case letters, digits and inner hyphens, at most 50 characters"

# SPIFFE ID, section 2.1: lower case, digits, '.', '-', '_'; we leave '_' out because the trust
# domain is also the suffix of the server name in TLS.
_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
TRUST_DOMAIN_RULE = "a lower-case DNS name such as mesh.example.com, at most 190 characters"
_TRUST_DOMAIN_MAX = 190  # so that <service>.<trust domain> stays below DNS's 253


class InvalidName(ValueError):
    """A name that breaks its rule; the message says which rule."""


def parse_service(text: str) -> ServiceName:
    if _LABEL.fullmatch(text) is None:
        raise InvalidName(f"{text!r} is not a service name: use {LABEL_RULE}")
    return ServiceName(text)


def parse_host(text: str) -> HostName:
    if _LABEL.fullmatch(text) is None:
        raise InvalidName(f"{text!r} is not a host name: use {LABEL_RULE}")
    return HostName(text)


def parse_zone(text: str) -> str:
    """A failure domain: an availability zone, a rack, a site."""
    if _LABEL.fullmatch(text) is None:
        raise InvalidName(f"{text!r} is not a zone: use {LABEL_RULE}")
    return text


def parse_trust_domain(text: str) -> TrustDomain:
    if len(text) > _TRUST_DOMAIN_MAX or _TRUST_DOMAIN.fullmatch(text) is None:
        raise InvalidName(f"{text!r} is not a trust domain: use {TRUST_DOMAIN_RULE}")
    return TrustDomain(text)


def spiffe_id(trust_domain: TrustDomain, service: ServiceName) -> SpiffeId:
    """The identity of every workload of ``service``: ``spiffe://<trust domain>/svc/<service>``."""
    return SpiffeId(f"spiffe://{trust_domain}/svc/{service}")


def parse_spiffe_id(text: str, trust_domain: TrustDomain) -> ServiceName:
    """The service that an identity of *this* trust domain names.

    Raises InvalidName for another trust domain, another path, a query, a fragment, a port or
    user part: whatever is not exactly what ``spiffe_id`` makes.
    """
    prefix = f"spiffe://{trust_domain}/svc/"
    if not text.startswith(prefix):
        raise InvalidName(f"{text!r} is not an identity of a service in {trust_domain}")
    return parse_service(text[len(prefix) :])


def signer_id(trust_domain: TrustDomain) -> SpiffeId:
    """The identity of the mesh's signers; no service can have it."""
    return SpiffeId(f"spiffe://{trust_domain}/mesh/signer")


def probe_id(trust_domain: TrustDomain) -> SpiffeId:
    """What ``meshctl`` shows to learn whom a proxy trusts; no proxy lets it in."""
    return SpiffeId(f"spiffe://{trust_domain}/mesh/probe")


def signer_server_name(trust_domain: TrustDomain) -> str:
    """The TLS server name of signers; a service's has one label before the trust domain."""
    return f"signer.mesh.{trust_domain}"


def server_name(trust_domain: TrustDomain, service: ServiceName) -> str:
    """The TLS server name (SNI) that selects a workload behind a host's one inbound port."""
    return f"{service}.{trust_domain}"
