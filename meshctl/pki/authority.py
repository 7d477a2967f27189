"""The CA's decisions: values in, certificates out; no files, no clock, no network.

Issuing a leaf is a visible pipeline (``sign_leaf``): check the request, decide the identity, set
the terms, enforce the rules, sign. The request contributes its public key and nothing else; the
identity comes from the deploy record. Everything refused is a MeshError with one sentence.
"""

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshctl.errors import MeshError, Refused
from meshctl.pki.certificates import authority_key, draft, leaf_draft, usage
from meshctl.pki.record import DeployRecord
from proxy.model.names import (
    HostName,
    InvalidName,
    ServiceName,
    SpiffeId,
    TrustDomain,
    parse_host,
    parse_trust_domain,
    spiffe_id,
)

ROOT_LIFE_S = 10 * 365 * 86400
"""10 years: Consul's root. It changes only by rotation, which every host takes part in."""
ISSUING_LIFE_S = 365 * 86400
"""1 year: Consul's intermediate."""
LEAF_LIFE_S = 30 * 86400
"""30 days while leaves are renewed by an operator."""
SIGNED_LEAF_LIFE_S = 24 * 3600
"""24 hours (Istio) where signers renew them."""
LEAF_LIFE_MIN_S = 60
"""Below this a leaf would end while it is being installed."""
BACKDATE_S = 60
"""NotBefore lies this far back (Consul): hosts' clocks may be behind ours."""
CA_WARN_S = 60 * 86400
"""A CA that ends sooner than this is worth a warning (Linkerd)."""

# P-256 at every level. A chain is as strong as its weakest link, and leaves are P-256; P-384 above
# them would add no strength, and several times the CPU to each handshake (OpenSSL has assembler
# for P-256 only).
_CURVE = ec.SECP256R1

HOST_NAME = NameOID.ORGANIZATIONAL_UNIT_NAME
"""The part of a leaf's subject that names its host."""

_CSR_MAX_BYTES = 16 * 1024
"""A P-256 request is under 1 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A CA certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def trust_domain(self) -> TrustDomain:
        return trust_domain_of(self.certificate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A freshly signed identity."""

    certificate: x509.Certificate
    issuing: x509.Certificate
    host: HostName
    service: ServiceName
    spiffe_id: SpiffeId

    @property
    def chain_pem(self) -> bytes:
        """What the host gets: the leaf, then the issuing CA."""
        return pem(self.certificate, self.issuing)

    @property
    def serial(self) -> str:
        return serial_text(self.certificate)

    @property
    def not_after(self) -> datetime:
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What a leaf is going to say, before it is allowed to."""

    host: HostName
    spiffe_id: SpiffeId
    public_key: ec.EllipticCurvePublicKey
    not_before: datetime
    not_after: datetime


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def serial_text(certificate: x509.Certificate) -> str:
    """Lower-case hex without leading zeros, as everywhere in the mesh."""
    return f"{certificate.serial_number:x}"


def trust_domain_of(certificate: x509.Certificate) -> TrustDomain:
    """The trust domain of a CA certificate: its one SAN is ``spiffe://<trust domain>``.

    Raises MeshError when it is not a CA of a mesh.
    """
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = [name.value for name in san]
        if constraints.ca and len(names) == 1 and str(names[0]).startswith("spiffe://"):
            return parse_trust_domain(str(names[0]).removeprefix("spiffe://"))
    except (
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ):
        pass
    raise MeshError(f"{certificate.subject.rfc4514_string()!r} is not the CA of a mesh")


def create_root(trust_domain: TrustDomain, now: datetime, *, life_s: float = ROOT_LIFE_S) -> Issuer:
    """A new self-signed root: what every host of the mesh will trust."""
    key = ec.generate_private_key(_CURVE())
    public = key.public_key()
    name = _ca_name(trust_domain, "root CA", public)
    builder = _ca_builder(trust_domain, name, name, public, now, now + timedelta(seconds=life_s))
    # One CA below it; path length 1 keeps it usable for an issuing CA per signer.
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    return Issuer(certificate=builder.sign(key, hashes.SHA256()), key=key)


def create_issuing(root: Issuer, now: datetime, *, life_s: float = ISSUING_LIFE_S) -> Issuer:
    """A new issuing CA under ``root``, never valid longer than it.

    It can sign leaves only, and only for this trust domain: a stolen issuing key makes no
    certificate that a browser, or another mesh, would take for a name of theirs.
    """
    _require_valid(root.certificate, now, "root CA", "meshctl certs rescue")
    key = ec.generate_private_key(_CURVE())
    certificate = _certify_ca(root, key.public_key(), "issuing CA", now, life_s)
    return Issuer(certificate=certificate, key=key)


def certify_signer(
    root: Issuer, csr_pem: bytes, now: datetime, *, life_s: float = ISSUING_LIFE_S
) -> x509.Certificate:
    """An issuing CA for a key that was made on a control host and stays there.

    Held to the same rules as ``create_issuing``. Raises Refused.
    """
    _require_valid(root.certificate, now, "root CA", "meshctl certs rescue")
    return _certify_ca(root, check_request(csr_pem), "signer CA", now, life_s)


def _certify_ca(
    root: Issuer, key: ec.EllipticCurvePublicKey, what: str, now: datetime, life_s: float
) -> x509.Certificate:
    trust_domain = root.trust_domain
    until = min(now + timedelta(seconds=life_s), root.certificate.not_valid_after_utc)
    builder = _ca_builder(
        trust_domain,
        _ca_name(trust_domain, what, key),
        root.certificate.subject,
        key,
        now,
        until,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(authority_key(root.certificate), critical=False)
    builder = builder.add_extension(
        x509.NameConstraints(
            # RFC 5280, 4.2.1.10: a URI constraint is matched against the host part. Names of
            # other kinds stay free unless excluded, each kind by its widest subtree.
            permitted_subtrees=[x509.UniformResourceIdentifier(trust_domain)],
            excluded_subtrees=[
                x509.DNSName(""),
                x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
                x509.IPAddress(ipaddress.ip_network("::/0")),
            ],
        ),
        critical=True,
    )
    return builder.sign(root.key, hashes.SHA256())


def sign_leaf(
    issuer: Issuer,
    csr_pem: bytes,
    *,
    record: DeployRecord,
    host: HostName,
    service: ServiceName,
    now: datetime,
    life_s: float = LEAF_LIFE_S,
) -> Leaf:
    """The identity of ``service`` on ``host``, for the key that the request proves to hold.

    ``host`` and ``service`` say who the caller of this function is talking to; the deploy record
    says whether that host may have it. Raises Refused; nothing is signed then.
    """
    public_key = check_request(csr_pem)
    identity = decide_identity(record, issuer.trust_domain, host, service)
    terms = _set_terms(issuer, host, identity, public_key, now, life_s)
    _enforce(issuer, terms, now)
    return Leaf(
        certificate=_sign(issuer, terms),
        issuing=issuer.certificate,
        host=host,
        service=service,
        spiffe_id=identity,
    )


def host_of(leaf: x509.Certificate) -> HostName | None:
    """The host that a leaf of ours was made for; None: it does not say."""
    found = leaf.subject.get_attributes_for_oid(HOST_NAME)
    if len(found) != 1 or len(leaf.subject) != 1:
        return None
    try:
        return parse_host(str(found[0].value))
    except InvalidName:
        return None


def check_request(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose sender holds the private one.

    Subject, SANs and every extension asked for are ignored on purpose. Raises Refused.
    """
    if len(csr_pem) > _CSR_MAX_BYTES:
        raise Refused(f"the certificate request is larger than {_CSR_MAX_BYTES} bytes")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        public_key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm, InvalidSignature) as error:
        raise Refused(f"the certificate request cannot be read: {error}") from error
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
        public_key.curve, _CURVE
    ):
        raise Refused("the certificate request's key is not an EC P-256 key")
    if not is_signed:
        raise Refused("the certificate request is not signed by the key it contains")
    return public_key


def decide_identity(
    record: DeployRecord, trust_domain: TrustDomain, host: HostName, service: ServiceName
) -> SpiffeId:
    """Raises Refused when the deploy record does not give ``host`` that service."""
    if not record.allows(host, service):
        raise Refused(
            f"host {host} may not have the identity of {service}: it is not deployed there",
            hint="add the service to the host in the inventory, then run meshctl deploy",
        )
    return spiffe_id(trust_domain, service)


def _set_terms(
    issuer: Issuer,
    host: HostName,
    identity: SpiffeId,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    life_s: float,
) -> _Terms:
    """Validity as wanted, cut to the issuer's: a leaf that outlives its issuer fails by itself
    one day, long after anybody remembers why."""
    now = now.astimezone(UTC).replace(microsecond=0)
    ca = issuer.certificate
    return _Terms(
        host=host,
        spiffe_id=identity,
        public_key=public_key,
        not_before=max(now - timedelta(seconds=BACKDATE_S), ca.not_valid_before_utc),
        not_after=min(now + timedelta(seconds=life_s), ca.not_valid_after_utc),
    )


def _enforce(issuer: Issuer, terms: _Terms, now: datetime) -> None:
    """The rules that hold whatever was asked for. Raises Refused."""
    ca = issuer.certificate
    _require_valid(ca, now, "issuing CA", "meshctl init --renew-issuing")
    if not terms.spiffe_id.startswith(f"spiffe://{issuer.trust_domain}/svc/"):
        raise Refused(f"{terms.spiffe_id} is not in this CA's trust domain")
    if terms.not_after > ca.not_valid_after_utc:
        raise Refused(f"the identity of {terms.spiffe_id} would outlive its issuing CA")
    # Certificates count in whole seconds: a leaf of exactly the least life is one of it.
    if terms.not_after - now.replace(microsecond=0) < timedelta(seconds=LEAF_LIFE_MIN_S):
        raise Refused(
            f"the identity of {terms.spiffe_id} would end within {LEAF_LIFE_MIN_S} s",
            hint="meshctl init --renew-issuing",
        )
    if _public_numbers(terms.public_key) == _public_numbers(ca.public_key()):
        raise Refused("the certificate request's key is the issuing CA's own")


def _sign(issuer: Issuer, terms: _Terms) -> x509.Certificate:
    return (
        leaf_draft(
            issuer.certificate,
            terms.public_key,
            terms.not_before,
            terms.not_after,
            # Which host it was made for: so that a signer, asked to renew it, can look the host
            # up. Not an identity, and not a kind of name that anybody matches.
            subject=[x509.NameAttribute(HOST_NAME, terms.host)],
            names=[x509.UniformResourceIdentifier(terms.spiffe_id)],
            # Each workload is both: server to its callers, client of its upstreams.
            uses=[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(terms.public_key), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def _ca_name(trust_domain: TrustDomain, what: str, key: ec.EllipticCurvePublicKey) -> x509.Name:
    # A part of the key's digest: two roots during a rotation must not share a name. The common
    # name is limited to 64 characters (RFC 5280, upper bounds), trust domains are longer.
    digest = x509.SubjectKeyIdentifier.from_public_key(key).digest.hex()[:8]
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "meshctl"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain[:40]} {what} {digest}"),
        ]
    )


def _ca_builder(
    trust_domain: TrustDomain,
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    now = now.astimezone(UTC).replace(microsecond=0)
    since = now - timedelta(seconds=BACKDATE_S)
    return (
        draft(subject, issuer, key, since, until.astimezone(UTC).replace(microsecond=0))
        .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
        # X509-SVID, section 4.1: the SPIFFE ID of a signing certificate has no path.
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _require_valid(ca: x509.Certificate, now: datetime, what: str, hint: str) -> None:
    if now >= ca.not_valid_after_utc:
        ended = ca.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
        raise Refused(f"the {what} ended on {ended}", hint=hint)
    if now < ca.not_valid_before_utc:
        starts = ca.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
        raise Refused(
            f"the {what} is not valid before {starts}", hint="set this machine's clock right"
        )


def _public_numbers(key: object) -> object:
    return key.public_numbers() if isinstance(key, ec.EllipticCurvePublicKey) else None
