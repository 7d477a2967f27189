"""The CA of a managed Consul: it certifies the servers of one datacenter, and nothing else.

Its key is beside the tokens, 0600 and not encrypted: with it one can pose as a Consul server to
who can be led to one, and a hostile Consul denies service, no more. The mesh's own CA cannot do
this: its name constraints forbid the name that Consul looks for.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshctl import durable
from meshctl.errors import Refused, StateCorrupt
from meshctl.pki.authority import BACKDATE_S, Issuer, check_request, pem
from meshctl.pki.certificates import draft, is_issued_by, key_id, leaf_draft, usage
from meshctl.rpctls import RpcTls, ServerCertificate, server_name
from meshctl.state import StateDir
from proxy.model.names import HostName

FOLDER = "consul"
CA_LIFE_S = 10 * 365 * 86400
SERVER_LIFE_S = 365 * 86400
_KEY_FILE, _CA_FILE, _ENFORCED_FILE = "ca.key", "ca.pem", "tls-enforced"
_SERVERS = "servers"
_MAX_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class ConsulCa:
    """``folder`` is made when something is first kept in it."""

    folder: Path

    @classmethod
    def of(cls, state: StateDir) -> "ConsulCa":
        return cls(state.path / FOLDER)

    def read(self, hosts: Iterable[HostName], datacenter: str) -> RpcTls:
        """What is known of the servers on ``hosts``; a new CA where there is none.

        Raises StateCorrupt.
        """
        issuer = self._issuer(datetime.now(UTC))
        found = ((host, self._certificate(host, issuer, datacenter)) for host in hosts)
        return RpcTls(
            ca=pem(issuer.certificate),
            servers={host: made for host, made in found if made is not None},
            is_enforced=self._text(_ENFORCED_FILE) == key_id(issuer.certificate),
        )

    def certify(self, host: HostName, csr: bytes, datacenter: str, now: datetime) -> bytes:
        """A server's certificate for the key of that request, PEM; kept as the one that is on its
        way to ``host`` until ``confirm``. Raises Refused."""
        made = pem(_sign(self._issuer(now), csr, datacenter, now))
        durable.write(self._place(f"{_SERVERS}/{host}.pending"), made)
        return made

    def confirm(self, host: HostName) -> None:
        """The server's agent was started with what was made for it last."""
        path = self.folder / _SERVERS / f"{host}.pending"
        if path.exists():
            with durable.translated(path, "renamed"):
                path.replace(path.with_suffix(".pem"))

    def note_enforced(self) -> None:
        """From now on every agent is configured to call only servers with our certificate."""
        issuer = self._issuer(datetime.now(UTC))
        durable.write(self._place(_ENFORCED_FILE), key_id(issuer.certificate).encode() + b"\n")

    def forget_all(self) -> None:
        """The cluster is gone."""
        paths = [self.folder / name for name in (_KEY_FILE, _CA_FILE, _ENFORCED_FILE)]
        for path in (*paths, *(self.folder / _SERVERS).glob("*.p*")):
            with durable.translated(path, "removed"):
                path.unlink(missing_ok=True)

    def _issuer(self, now: datetime) -> Issuer:
        key = self._key()
        data = self._bytes(_CA_FILE)
        if data:
            certificate = self._parsed(_CA_FILE, data)
            # Another key's: the one that was there is lost. Hosts learn of the new one in steps.
            if certificate.public_key() == key.public_key():
                return Issuer(certificate=certificate, key=key)
        issuer = Issuer(certificate=_ca_certificate(key, now), key=key)
        durable.write(self._place(_CA_FILE), pem(issuer.certificate))
        return issuer

    def _key(self) -> ec.EllipticCurvePrivateKey:
        data = self._bytes(_KEY_FILE)
        if not data:
            made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            # Another meshctl may make it at the same time, as a dry run takes no lock: the first
            # one counts.
            with contextlib.suppress(Refused):
                durable.create(self._place(_KEY_FILE), made)
            data = self._bytes(_KEY_FILE)
        with contextlib.suppress(ValueError, TypeError):
            key = serialization.load_pem_private_key(data, password=None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
        raise self._corrupt(_KEY_FILE, "an EC key")

    def _certificate(
        self, host: HostName, issuer: Issuer, datacenter: str
    ) -> ServerCertificate | None:
        name = f"{_SERVERS}/{host}.pem"
        data = self._bytes(name)
        if not data:
            return None
        certificate = self._parsed(name, data)
        if not is_issued_by(certificate, issuer.certificate):
            return None  # of another CA
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if server_name(datacenter) not in names.get_values_for_type(x509.DNSName):
            return None
        return ServerCertificate(
            pem=data,
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )

    def _parsed(self, name: str, data: bytes) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(data)
        except ValueError:
            raise self._corrupt(name, "a certificate") from None

    def _corrupt(self, name: str, what: str) -> StateCorrupt:
        return StateCorrupt(
            f"{self.folder / name} is not {what}",
            hint="restore it from a backup, or remove it and run meshctl deploy, which makes a"
            " new one",
        )

    def _text(self, name: str) -> str:
        return self._bytes(name).decode("ascii", "replace").strip()

    def _bytes(self, name: str) -> bytes:
        try:
            return durable.read(self.folder / name, limit=_MAX_BYTES)
        except FileNotFoundError:
            return b""

    def _place(self, name: str) -> Path:
        path = self.folder / name
        with durable.translated(path.parent, "made"):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
        return path


def _ca_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # A part of the key's digest: two of them must not share a name.
    common = f"Consul servers CA {identifier.digest.hex()[:8]}"
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "meshctl"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )
    return (
        draft(name, name, key.public_key(), *_life(now, now + timedelta(seconds=CA_LIFE_S)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )


def _sign(issuer: Issuer, csr: bytes, datacenter: str, now: datetime) -> x509.Certificate:
    ca = issuer.certificate
    if not ca.not_valid_before_utc <= now < ca.not_valid_after_utc:
        raise Refused(
            "the CA of Consul is not valid now",
            hint="set this machine's clock right, or remove .meshctl/consul/ca.key and ca.pem and"
            " run meshctl deploy",
        )
    key = check_request(csr)
    until = min(now + timedelta(seconds=SERVER_LIFE_S), ca.not_valid_after_utc)
    return leaf_draft(
        ca,
        key,
        *_life(now, until),
        # The subject stays empty: a common name holds 64 characters, and nobody looks at it.
        names=[x509.DNSName(server_name(datacenter)), x509.DNSName("localhost")],
        # A server calls the others.
        uses=[ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    ).sign(issuer.key, hashes.SHA256())


def _life(now: datetime, until: datetime) -> tuple[datetime, datetime]:
    """In whole seconds, backdated."""
    since = now.astimezone(UTC).replace(microsecond=0) - timedelta(seconds=BACKDATE_S)
    return since, until.astimezone(UTC).replace(microsecond=0)
