"""A small mesh with real certificates: a root, an issuing CA, signers and leaves on disk."""

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshctl.pki import authority
from meshctl.pki.authority import Issuer
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.signer import keys as signer_keys
from meshctl.signer.settings import SignerSettings
from proxy import keys as proxy_keys
from proxy.model import codec
from proxy.model.names import HostName, ServiceName, TrustDomain, signer_server_name
from proxy.model.settings import Address

DOMAIN = TrustDomain("mesh.test")
HOST, API, WEB = HostName("one"), ServiceName("api"), ServiceName("web")
RECORD = DeployRecord(hosts={HOST: HostRecord(services=(API,))})


def make_request(key: ec.EllipticCurvePrivateKey | None = None, *names: str) -> bytes:
    """PEM; ``names``: URIs that it asks for."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        uris = [x509.UniformResourceIdentifier(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class World:
    folder: Path
    domain: TrustDomain = DOMAIN
    root: Issuer = field(init=False)
    issuing: Issuer = field(init=False)

    def __post_init__(self) -> None:
        now = datetime.now(UTC)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.root = authority.create_root(self.domain, now)
        self.issuing = authority.create_issuing(self.root, now)
        self.bundle.write_bytes(authority.pem(self.root.certificate))

    @property
    def bundle(self) -> Path:
        return self.folder / "trust-bundle.pem"

    def signer(
        self,
        name: str = "signer",
        *,
        port: int = 0,
        admin: int = 0,
        record: DeployRecord = RECORD,
        life_s: float = 365 * 86400,
        **settings: Any,
    ) -> SignerSettings:
        """Made as a deploy makes it: key there, certified by the root, installed."""
        folder = self.folder / name
        state = folder / "state"
        state.mkdir(parents=True, mode=0o700)
        now = datetime.now(UTC)
        csr = signer_keys.request(state, self.domain)
        ca = authority.certify_signer(self.root, csr, now, life_s=life_s)
        bundle = self.bundle.read_bytes()
        signer_keys.install(state, self.domain, bundle, authority.pem(ca), now=now)
        (folder / "record.json").write_bytes(codec.encode_readable(record))
        made = SignerSettings(
            host=HostName(name),
            trust_domain=self.domain,
            listen=Address(host="127.0.0.1", port=port),
            admin=Address(host="127.0.0.1", port=admin),
            state_dir=str(state),
            trust_bundle=str(self.bundle),
            record=str(folder / "record.json"),
            **settings,
        )
        (folder / "signer.json").write_bytes(codec.encode_readable(made))
        return made

    def leaf(
        self,
        service: ServiceName = API,
        host: HostName = HOST,
        *,
        issuer: Issuer | None = None,
        life_s: float = 3600,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Path:
        """A file with key and chain, of an ordinary leaf."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        record = DeployRecord(hosts={host: HostRecord(services=(service,))})
        leaf = authority.sign_leaf(
            issuer or self.issuing,
            make_request(key),
            record=record,
            host=host,
            service=service,
            now=datetime.now(UTC),
            life_s=life_s,
        )
        return self.file(key, leaf.chain_pem)

    def file(self, key: ec.EllipticCurvePrivateKey, chain: bytes) -> Path:
        path = self.folder / f"{x509.random_serial_number():x}.pem"
        path.write_bytes(key_pem(key) + chain)
        return path

    def custom(
        self,
        *uris: str,
        uses: tuple[x509.ObjectIdentifier, ...] = (),
        is_ca: bool = False,
        host: str = HOST,
        is_signature_allowed: bool = True,
        issuer: Issuer | None = None,
        ends_in: timedelta = timedelta(hours=1),
    ) -> Path:
        """A leaf that no CA of ours would sign."""
        issuer = issuer or self.issuing
        now = datetime.now(UTC).replace(microsecond=0)
        key = ec.generate_private_key(ec.SECP256R1())
        unused = dict.fromkeys(
            (
                *("content_commitment", "key_encipherment", "data_encipherment"),
                *("key_agreement", "crl_sign", "encipher_only", "decipher_only"),
            ),
            False,
        )
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = (
            x509.CertificateBuilder()
            .subject_name(
                x509.Name([x509.NameAttribute(authority.HOST_NAME, host)] if host else [])
            )
            .issuer_name(issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=60))
            .not_valid_after(now + ends_in)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=is_signature_allowed, key_cert_sign=is_ca, **unused
                ),
                critical=True,
            )
        )
        if uses:
            builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        leaf = builder.sign(issuer.key, hashes.SHA256())
        return self.file(key, authority.pem(leaf, issuer.certificate))

    def identity(self, state: Path, service: ServiceName, host: HostName, life_s: float) -> None:
        """On the disk of a proxy, as a deploy puts it there."""
        record = DeployRecord(hosts={host: HostRecord(services=(service,))})
        csr = proxy_keys.request(state, service, self.domain)
        now = datetime.now(UTC)
        leaf = authority.sign_leaf(
            self.issuing, csr, record=record, host=host, service=service, now=now, life_s=life_s
        )
        proxy_keys.install(
            state, service, self.domain, self.bundle.read_bytes(), leaf.chain_pem, now=now
        )

    def context(self, certificate: Path | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.bundle)
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context

    async def renew(
        self,
        port: int,
        certificate: Path | None,
        *,
        csr: bytes | None = None,
        body: bytes | None = None,
        line: str = "POST /v1/renew",
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        """Raises OSError where TLS does not let us in."""
        if body is None:
            body = codec.encode({"csr": (csr or make_request()).decode()})
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=context or self.context(certificate),
            server_hostname=signer_server_name(self.domain),
        )
        try:
            head = f"{line} HTTP/1.1\r\nHost: signer\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            received = await asyncio.wait_for(reader.read(), 30)
        finally:
            writer.transport.abort()
        if not received:
            raise ConnectionResetError("no answer")
        head_bytes, _, content = received.partition(b"\r\n\r\n")
        first, *lines = head_bytes.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ") for each in lines)}
        return Answer(int(first.split()[1]), headers, codec.decode(content, dict[str, str]))
