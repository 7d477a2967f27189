"""``python -m proxy.keys``: makes, installs and shows the identities of this host's workloads.

The one part of the proxy that needs ``cryptography``; a short-lived command, so that the proxy
itself does not carry it. The key is made here and never leaves; what leaves is a request for a
certificate on stdout, what enters is a chain on stdin, and it is put in force only if it is
exactly what was asked for.

Started by root, it first becomes the owner of the state directory: files get the right owner, and
nothing that user could plant there is followed with root's rights.

Exit code 0, or 1 with one sentence on stderr.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy import chains, keyfiles, keypairs
from proxy.keyfiles import Refused
from proxy.model.codec import Value, encode
from proxy.model.names import (
    InvalidName,
    ServiceName,
    TrustDomain,
    parse_service,
    parse_trust_domain,
    spiffe_id,
)
from proxy.model.status import IdentityStatus

__all__ = ["Refused", "Shown", "inspect", "install", "main", "request", "show"]


class Shown(Value, frozen=True, kw_only=True):
    """One line of ``show``."""

    service: str
    identity: IdentityStatus | None
    error: str
    host: str = ""
    """That the leaf was made for, which a signer needs to renew it; empty: it does not say."""


def request(state_dir: Path, service: ServiceName, trust_domain: TrustDomain) -> bytes:
    """A new pending key, replacing an earlier one; the request for its certificate, PEM."""
    with _locked(state_dir, service) as directory:
        return keypairs.make(
            directory, common_name=service, uris=[spiffe_id(trust_domain, service)]
        )


def install(
    state_dir: Path,
    service: ServiceName,
    trust_domain: TrustDomain,
    bundle: bytes,
    chain: bytes,
    *,
    now: datetime,
) -> IdentityStatus:
    """Puts the chain in force with the pending key. Raises Refused; then nothing has changed.

    Doing it again with the same chain is not an error, so that an interrupted deploy converges.
    """
    certificates = chains.certificates(chain, "the chain")
    leaf = certificates[0]
    _check_leaf(leaf, trust_domain, service, now)
    chains.check_chain(certificates, chains.certificates(bundle, "the trust bundle"), now)
    canonical = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)
    with _locked(state_dir, service) as directory:
        keypairs.put_in_force(directory, leaf, canonical, f"the certificate for {service}")
    return _status(leaf, trust_domain, service)


def show(state_dir: Path, trust_domain: TrustDomain | None = None) -> tuple[Shown, ...]:
    """Every service with a directory, by name; what is unusable says why."""
    identities = state_dir / "identities"
    try:
        names = sorted(entry.name for entry in identities.iterdir() if entry.is_dir())
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise Refused(f"{identities} cannot be read: {error.strerror}") from error
    shown = []
    for name in names:
        try:
            leaf = _in_force(state_dir, parse_service(name))
            status = _status(leaf, trust_domain, parse_service(name))
        except (Refused, InvalidName) as error:
            shown.append(Shown(service=name, identity=None, error=str(error)))
        else:
            host = chains.host_of(leaf)
            shown.append(Shown(service=name, identity=status, error="", host=host))
    return tuple(shown)


def inspect(
    state_dir: Path, service: ServiceName, trust_domain: TrustDomain | None = None
) -> IdentityStatus:
    """The identity in force on disk; checks that key and chain belong together, not its time."""
    return _status(_in_force(state_dir, service), trust_domain, service)


def _in_force(state_dir: Path, service: ServiceName) -> x509.Certificate:
    directory = state_dir / "identities" / service
    chain, _ = keypairs.in_force(directory, f"{service} has no certificate in force")
    return chain[0]


def _check_leaf(
    leaf: x509.Certificate, trust_domain: TrustDomain, service: ServiceName, now: datetime
) -> None:
    expected = spiffe_id(trust_domain, service)
    found = chains.only_name(leaf)
    if found != expected:
        raise Refused(f"the certificate is for {found}, not for {expected}")
    if chains.is_ca(leaf):
        raise Refused("the certificate is a CA's, not a workload's")
    usage = chains.extension(leaf, x509.ExtendedKeyUsage)
    needed = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    if usage is None or not needed <= set(usage):
        raise Refused("the certificate lacks the extended key usages clientAuth and serverAuth")
    chains.check_time(leaf, "the certificate", now)


def _status(
    leaf: x509.Certificate, trust_domain: TrustDomain | None, service: ServiceName
) -> IdentityStatus:
    identity = chains.only_name(leaf)
    if trust_domain is not None and identity != spiffe_id(trust_domain, service):
        raise Refused(f"{service}'s certificate is for {identity}")
    if not identity.endswith(f"/svc/{service}"):
        raise Refused(f"{service}'s certificate is for {identity}")
    return IdentityStatus(
        spiffe_id=identity,
        serial=f"{leaf.serial_number:x}",
        not_before=chains.rfc3339(leaf.not_valid_before_utc),
        not_after=chains.rfc3339(leaf.not_valid_after_utc),
    )


@contextmanager
def _locked(state_dir: Path, service: ServiceName) -> Iterator[Path]:
    """The service's directory, for one writer at a time."""
    if not state_dir.is_dir():
        raise Refused(f"{state_dir} is not a directory")
    keyfiles.make_directory(state_dir / "identities")
    directory = state_dir / "identities" / service
    with keyfiles.locked(directory, f"the identity of {service}"):
        yield directory


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proxy.keys")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("request", "install", "show"):
        command = commands.add_parser(name)
        command.add_argument("--state-dir", type=Path, required=True)
        if name != "show":
            command.add_argument("--service", type=_named(parse_service), required=True)
            command.add_argument("--trust-domain", type=_named(parse_trust_domain), required=True)
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
            return request(chosen.state_dir, chosen.service, chosen.trust_domain)
        case "install":
            chain = keyfiles.read_chain()
            status = install(
                chosen.state_dir,
                chosen.service,
                chosen.trust_domain,
                bundle,
                chain,
                now=datetime.now(UTC),
            )
            return encode(status) + b"\n"
        case _:
            return encode(show(chosen.state_dir)) + b"\n"


def _named(parse: Callable[[str], str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        try:
            return parse(text)
        except InvalidName as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


if __name__ == "__main__":
    sys.exit(main())
