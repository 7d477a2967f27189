"""``python -m meshctl.signer.keys``: makes, installs and shows a signer's intermediate.

The key is made where the signer runs and never leaves; the root certifies it from afar: what
leaves is a request on stdout, what enters is a certificate on stdin, put in force only if it is a
CA for exactly that key, for signing leaves only, of this mesh, and leads to the trust bundle.

Started by root, it first becomes the owner of the state directory. Exit code 0, or 1 with one
sentence on stderr.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshctl.errors import MeshError
from meshctl.pki.authority import Issuer, pem, serial_text, trust_domain_of
from meshctl.signer.settings import CaStatus, ShownCa
from proxy import chains, keyfiles, keypairs
from proxy.keyfiles import Refused
from proxy.model.codec import encode
from proxy.model.names import InvalidName, TrustDomain, parse_trust_domain

FOLDER = "intermediate"
"""Below the state directory."""


def request(state_dir: Path, trust_domain: TrustDomain) -> bytes:
    """A new pending key, replacing an earlier one; the request for its certificate, PEM."""
    with _locked(state_dir) as directory:
        return keypairs.make(directory, uris=[f"spiffe://{trust_domain}"])  # the root names it


def install(
    state_dir: Path, trust_domain: TrustDomain, bundle: bytes, chain: bytes, *, now: datetime
) -> CaStatus:
    """Puts the chain in force with the pending key. Raises Refused; then nothing has changed.

    Doing it again with the same chain is not an error, so that an interrupted deploy converges.
    """
    certificates = chains.certificates(chain, "the chain")
    ca = certificates[0]
    _check_ca(ca, trust_domain, now)
    chains.check_chain(certificates, chains.certificates(bundle, "the trust bundle"), now)
    with _locked(state_dir) as directory:
        # Alone: hosts have the root already, and get this one with each leaf.
        keypairs.put_in_force(directory, ca, pem(ca), "the certificate")
    return status_of(ca)


def load(state_dir: Path, trust_domain: TrustDomain) -> Issuer:
    """The intermediate in force, with its key; its time is not looked at. Raises Refused."""
    nothing = f"{state_dir} has no signer's certificate in force"
    (ca, *_), key_file = keypairs.in_force(state_dir / FOLDER, nothing)
    _check_kind(ca, trust_domain)
    key = serialization.load_pem_private_key(keyfiles.read(key_file), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused(f"{key_file} is not an EC key")
    return Issuer(certificate=ca, key=key)


def show(state_dir: Path) -> ShownCa:
    """What is in force, or why nothing is."""
    try:
        (ca, *_), _ = keypairs.in_force(state_dir / FOLDER, "no certificate in force")
        load(state_dir, _trust_domain(ca))
    except Refused as error:
        return ShownCa(signer=None, error=str(error))
    return ShownCa(signer=status_of(ca), error="")


def status_of(ca: x509.Certificate) -> CaStatus:
    """Raises Refused for what is no CA of a mesh."""
    above = chains.extension(ca, x509.AuthorityKeyIdentifier)
    key_id = above.key_identifier if above is not None else None
    return CaStatus(
        serial=serial_text(ca),
        trust_domain=_trust_domain(ca),
        issuer_key_id=(key_id or b"").hex(),
        fingerprint=ca.fingerprint(hashes.SHA256()).hex(),
        not_before=chains.rfc3339(ca.not_valid_before_utc),
        not_after=chains.rfc3339(ca.not_valid_after_utc),
        certificate=pem(ca).decode("ascii"),
    )


def _check_ca(ca: x509.Certificate, trust_domain: TrustDomain, now: datetime) -> None:
    _check_kind(ca, trust_domain)
    chains.check_time(ca, "the certificate", now)


def _check_kind(ca: x509.Certificate, trust_domain: TrustDomain) -> None:
    constraints = chains.extension(ca, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise Refused("the certificate is not a CA's")
    if constraints.path_length != 0:
        raise Refused("the certificate may make other CAs; a signer's has path length 0")
    found = _trust_domain(ca)
    if found != trust_domain:
        raise Refused(f"the certificate is for the trust domain {found}, not for {trust_domain}")


def _trust_domain(ca: x509.Certificate) -> TrustDomain:
    try:
        return trust_domain_of(ca)
    except MeshError as error:
        raise Refused(str(error)) from error


@contextmanager
def _locked(state_dir: Path) -> Iterator[Path]:
    if not state_dir.is_dir():
        raise Refused(f"{state_dir} is not a directory")
    directory = state_dir / FOLDER
    with keyfiles.locked(directory, "the signer's certificate"):
        yield directory


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m meshctl.signer.keys")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("request", "install", "show"):
        command = commands.add_parser(name)
        command.add_argument("--state-dir", type=Path, required=True)
        if name != "show":
            command.add_argument("--trust-domain", type=_parse_domain, required=True)
        if name == "install":
            command.add_argument("--trust-bundle", type=Path, required=True)
    chosen = parser.parse_args(argv)
    return keyfiles.told(lambda: _run(chosen), chosen.state_dir)


def _run(chosen: argparse.Namespace) -> bytes:
    # Read with the caller's rights: the bundle belongs to the configuration, not to the state.
    bundle = keyfiles.read(chosen.trust_bundle) if chosen.command == "install" else b""
    default_backend()  # imported lazily, perhaps from where the owner cannot read
    keyfiles.become_owner(chosen.state_dir)
    match chosen.command:
        case "request":
            return request(chosen.state_dir, chosen.trust_domain)
        case "install":
            chain = keyfiles.read_chain()
            status = install(
                chosen.state_dir, chosen.trust_domain, bundle, chain, now=datetime.now(UTC)
            )
            return encode(status) + b"\n"
        case _:
            return encode(show(chosen.state_dir)) + b"\n"


def _parse_domain(text: str) -> TrustDomain:
    try:
        return parse_trust_domain(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
