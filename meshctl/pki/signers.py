"""Certificates of the signers, kept by the operator: whose leaves are good without asking anybody.

``ca/signers/<host>.pem`` in the state directory, newest first. Earlier ones stay until they end:
the leaves they signed are in force for some time after a signer got a new key. Public parts only.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from meshctl import durable
from meshctl.errors import StateCorrupt
from meshctl.pki.authority import pem
from meshctl.pki.certificates import is_issued_by
from proxy.model.names import HostName, InvalidName, parse_host

FOLDER = "signers"
Certificate: TypeAlias = x509.Certificate

_KEPT = 4
"""Of one host: a signer whose key was replaced more often than this within a leaf's life is being
repaired, and a leaf of an even older key is then issued anew, which does no harm."""


@dataclass(frozen=True, slots=True)
class SignerCertificates:
    """``folder`` is that of the CA. Hold the state's lock to change anything."""

    ca_folder: Path

    def read(self) -> dict[HostName, tuple[x509.Certificate, ...]]:
        """By host, newest first. Raises StateCorrupt for a file that is not certificates."""
        found = {}
        for path in sorted((self.ca_folder / FOLDER).glob("*.pem")):
            try:
                found[parse_host(path.stem)] = _certificates(path)
            except InvalidName:
                continue  # not ours
        return found

    def fingerprints(self, root: Certificate, hosts: Collection[HostName]) -> frozenset[str]:
        """Of those whose leaves are good: of ``hosts``, and under ``root``."""
        return frozenset(
            fingerprint(certificate)
            for host, certificates in self.read().items()
            for certificate in certificates
            if host in hosts and is_issued_by(certificate, root)
        )

    def keep(self, host: HostName, certificate: x509.Certificate, now: datetime) -> None:
        """Call it before the signer gets the certificate: it must never be the only one to know.

        Raises MeshError when it cannot be written.
        """
        folder = self.ca_folder / FOLDER
        with durable.translated(folder, "made"):
            folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{host}.pem"
        before = _certificates(path) if path.exists() else ()
        kept = [certificate]
        kept += (
            older
            for older in before
            if older != certificate and older.not_valid_after_utc > now
        )  # fmt: skip
        durable.write(path, pem(*kept[:_KEPT]))

    def forget(self, host: HostName) -> None:
        """Its leaves are not good any more: the next deploy issues them anew."""
        path = self.ca_folder / FOLDER / f"{host}.pem"
        with durable.translated(path, "removed"):
            path.unlink(missing_ok=True)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER, lower-case hex: as facts name the issuer of a leaf."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(durable.read(path)))
    except (ValueError, x509.InvalidVersion) as error:
        raise StateCorrupt(
            f"{path} is damaged: it is not certificates in PEM form",
            hint=f"remove {path}; the next deploy certifies that signer anew",
        ) from error
