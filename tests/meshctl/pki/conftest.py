"""A CA, requests and a real TLS handshake for the tests of the PKI."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshctl.pki.authority import Issuer, create_issuing, create_root, pem
from meshctl.pki.record import DeployRecord, HostRecord
from proxy.model.names import HostName, ServiceName, TrustDomain

TD = TrustDomain("mesh.internal")
HOST = HostName("web-1")
WEB = ServiceName("web")
RECORD = DeployRecord(hosts={HOST: HostRecord(services=(WEB,))})


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="session")
def root(now: datetime) -> Issuer:
    return create_root(TD, now)


@pytest.fixture(scope="session")
def issuing(root: Issuer, now: datetime) -> Issuer:
    return create_issuing(root, now)


@pytest.fixture(scope="session")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="session")
def csr(key: ec.EllipticCurvePrivateKey) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


Handshake = Callable[..., str | None]


@pytest.fixture
def handshake(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> Handshake:
    """A mutual TLS 1.3 handshake in memory, same chain on both sides.

    Returns None when both sides accepted, else OpenSSL's reason.
    """

    def shake(root: x509.Certificate, *chain: x509.Certificate) -> str | None:
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "key.pem").write_bytes(private)
        (tmp_path / "chain.pem").write_bytes(pem(*chain))
        (tmp_path / "root.pem").write_bytes(pem(root))

        def context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
            made = ssl.SSLContext(protocol)
            made.minimum_version = ssl.TLSVersion.TLSv1_3
            made.check_hostname = False
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(tmp_path / "root.pem")
            made.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
            return made

        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(to_client, to_server)
        server = context(ssl.PROTOCOL_TLS_SERVER).wrap_bio(to_server, to_client, server_side=True)
        waiting = [client, server]
        for _ in range(10):
            for side in list(waiting):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLCertVerificationError as error:
                    return error.verify_message
                waiting.remove(side)
            if not waiting:
                return None
        raise AssertionError("the handshake did not end")

    return shake
