"""Who asks, and whether they may: the certificate of the connection and the deploy record decide,
never the request. Pure.

OpenSSL has verified the chain to the trust bundle, the dates and the signatures before any of
this; what it does not look at is checked here.
"""

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshctl.errors import MeshError
from meshctl.pki import authority
from meshctl.pki.record import DeployRecord
from proxy.core import peer
from proxy.model.names import HostName, InvalidName, ServiceName, TrustDomain


class Code(StrEnum):
    """Why there is no certificate: in the answer, the log line and the metric."""

    BAD_REQUEST = "bad_request"
    KEY_REUSED = "key_reused"
    NOT_AN_IDENTITY = "not_an_identity"
    REVOKED = "revoked"
    RATE_LIMITED = "rate_limited"
    NOT_READY = "not_ready"


STATUS = {
    Code.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    Code.KEY_REUSED: HTTPStatus.BAD_REQUEST,
    Code.NOT_AN_IDENTITY: HTTPStatus.FORBIDDEN,
    Code.REVOKED: HTTPStatus.FORBIDDEN,
    Code.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.NOT_READY: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Refusal(Exception):
    """One sentence for whoever asked; ``hint`` is the operator's next command."""

    def __init__(self, code: Code, message: str, *, hint: str = "", retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.code, self.hint, self.retry_after_s = code, hint, retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The identity that is to be renewed, as the certificate of the connection has it."""

    service: ServiceName
    host: HostName
    serial: str
    public_key: object

    def __str__(self) -> str:
        return f"{self.service}@{self.host}"


def identify(der: bytes, trust_domain: TrustDomain) -> Caller:
    """Raises Refusal for anything but a workload's leaf of this mesh that names its host."""
    try:
        # The very code by which proxies judge each other, and hostile certificates are tried on.
        service = peer.identify(der, trust_domain, is_server=False)
        leaf = x509.load_der_x509_certificate(der)
        host = authority.host_of(leaf)
    except (InvalidName, ValueError) as error:
        raise Refusal(Code.NOT_AN_IDENTITY, f"the connection's certificate: {error}") from error
    if host is None:
        raise Refusal(
            Code.NOT_AN_IDENTITY,
            f"the certificate of {service} does not say which host it was made for",
            hint="run meshctl certs rotate",
        )
    return Caller(
        service=service,
        host=host,
        serial=authority.serial_text(leaf),
        public_key=leaf.public_key(),
    )


def allow(caller: Caller, record: DeployRecord) -> None:
    """Raises Refusal when the record does not give the caller's host its service, any more."""
    if not record.allows(caller.host, caller.service):
        raise Refusal(
            Code.REVOKED,
            f"host {caller.host} may not have the identity of {caller.service}:"
            " it is not deployed there",
            hint="add the service to the host in the inventory, then run meshctl deploy",
        )


def check_request(csr_pem: bytes, caller: Caller) -> None:
    """Raises Refusal for what is no request, or one for the key that the caller has already: a
    renewal is the moment at which a key that was copied stops being of use.
    """
    try:
        key = authority.check_request(csr_pem)
    except MeshError as error:
        raise Refusal(Code.BAD_REQUEST, str(error)) from error
    old = caller.public_key
    if isinstance(old, ec.EllipticCurvePublicKey) and key.public_numbers() == old.public_numbers():
        raise Refusal(
            Code.KEY_REUSED,
            "the request is for the key of the certificate that is to be renewed",
            hint="make a new key for each certificate",
        )
