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
import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

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

MAX_PEM_BYTES = 256 * 1024
MAX_CHAIN = 5
"""Certificates from leaf to root."""
T = TypeVar("T", bound=x509.ExtensionType)

KEY, CHAIN, CURRENT, PENDING = "key.pem", "chain.pem", "current", "pending"


class Refused(Exception):
    """One sentence that says what is wrong."""


class Shown(Value, frozen=True, kw_only=True):
    """One line of ``show``."""

    service: str
    identity: IdentityStatus | None
    error: str


def request(state_dir: Path, service: ServiceName, trust_domain: TrustDomain) -> bytes:
    """A new pending key, replacing an earlier one; the request for its certificate, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(spiffe_id(trust_domain, service))]
    )
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)]))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with _locked(state_dir, service) as directory:
        pending = directory / PENDING
        _make_directory(pending)
        _write(pending / KEY, encoded)
    return csr.public_bytes(serialization.Encoding.PEM)


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
    certificates = _certificates(chain, "the chain")
    leaf = certificates[0]
    _check_leaf(leaf, trust_domain, service, now)
    _check_chain(certificates, _certificates(bundle, "the trust bundle"), now)
    canonical = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)
    with _locked(state_dir, service) as directory:
        current = directory / CURRENT
        target = directory / f"{leaf.serial_number:x}"
        if _read_link(current) == target.name and _matches(target / KEY, leaf):
            if (target / CHAIN).read_bytes() != canonical:
                _write(target / CHAIN, canonical)  # same leaf, other intermediates
            return _status(leaf, trust_domain, service)
        pending_key = directory / PENDING / KEY
        if not pending_key.exists():
            raise Refused(f"{service} has no pending key: run `request` first")
        if not _matches(pending_key, leaf):
            raise Refused(f"the certificate for {service} is not for the pending key")
        _put_in_force(directory, target, pending_key.read_bytes(), canonical)
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
            status = inspect(state_dir, parse_service(name), trust_domain)
        except (Refused, InvalidName) as error:
            shown.append(Shown(service=name, identity=None, error=str(error)))
        else:
            shown.append(Shown(service=name, identity=status, error=""))
    return tuple(shown)


def inspect(
    state_dir: Path, service: ServiceName, trust_domain: TrustDomain | None = None
) -> IdentityStatus:
    """The identity in force on disk; checks that key and chain belong together, not its time."""
    current = state_dir / "identities" / service / CURRENT
    if not current.is_dir():
        raise Refused(f"{service} has no certificate in force")
    leaf = _certificates(_read(current / CHAIN), str(current / CHAIN))[0]
    if not _matches(current / KEY, leaf):
        raise Refused(f"{current / KEY} is not the key of the certificate beside it")
    return _status(leaf, trust_domain, service)


def _check_leaf(
    leaf: x509.Certificate, trust_domain: TrustDomain, service: ServiceName, now: datetime
) -> None:
    expected = spiffe_id(trust_domain, service)
    found = _spiffe(leaf)
    if found != expected:
        raise Refused(f"the certificate is for {found}, not for {expected}")
    if _is_ca(leaf):
        raise Refused("the certificate is a CA's, not a workload's")
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    needed = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    if usage is None or not needed <= set(usage):
        raise Refused("the certificate lacks the extended key usages clientAuth and serverAuth")
    _check_time(leaf, "the certificate", now)


def _check_chain(
    chain: Sequence[x509.Certificate], bundle: Sequence[x509.Certificate], now: datetime
) -> None:
    if len(chain) > MAX_CHAIN:
        raise Refused(f"the chain has more than {MAX_CHAIN} certificates")
    for lower, upper in pairwise(chain):
        _check_time(upper, "a CA in the chain", now)
        if not _is_ca(upper) or not _is_issued_by(lower, upper):
            raise Refused("the chain is not in order: each certificate must be issued by the next")
    for root in bundle:
        is_there = chain[-1] == root and _is_ca(root)
        if is_there or (_is_ca(root) and _is_issued_by(chain[-1], root)):
            _check_time(root, "the root", now)
            return
    raise Refused("the chain does not lead to a certificate of the trust bundle")


def _check_time(certificate: x509.Certificate, what: str, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise Refused(
            f"{what} is not valid before {_rfc3339(certificate.not_valid_before_utc)}; "
            "is this host's clock right?"
        )
    if now >= certificate.not_valid_after_utc:
        raise Refused(f"{what} expired at {_rfc3339(certificate.not_valid_after_utc)}")


def _is_issued_by(lower: x509.Certificate, upper: x509.Certificate) -> bool:
    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_ca(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Refused(f"the certificate's extensions cannot be read: {error}") from error


def _spiffe(leaf: x509.Certificate) -> str:
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None or len(names) != 1:
        raise Refused("the certificate must have exactly one name, its SPIFFE ID")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Refused("the certificate's name is not a URI")
    return uris[0]


def _status(
    leaf: x509.Certificate, trust_domain: TrustDomain | None, service: ServiceName
) -> IdentityStatus:
    identity = _spiffe(leaf)
    if trust_domain is not None and identity != spiffe_id(trust_domain, service):
        raise Refused(f"{service}'s certificate is for {identity}")
    if not identity.endswith(f"/svc/{service}"):
        raise Refused(f"{service}'s certificate is for {identity}")
    return IdentityStatus(
        spiffe_id=identity,
        serial=f"{leaf.serial_number:x}",
        not_before=_rfc3339(leaf.not_valid_before_utc),
        not_after=_rfc3339(leaf.not_valid_after_utc),
    )


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _certificates(pem: bytes, what: str) -> list[x509.Certificate]:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise Refused(f"{what} is not a PEM certificate: truncated or corrupt") from error
    if len(certificates) != pem.count(b"-----BEGIN"):  # the parser skips a block without an end
        raise Refused(f"{what} has more in it than whole certificates: truncated or corrupt")
    return certificates


def _matches(key_file: Path, leaf: x509.Certificate) -> bool:
    try:
        key = serialization.load_pem_private_key(_read(key_file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Refused(f"{key_file} is not a private key: truncated or corrupt") from error
    spki = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*spki) == leaf.public_key().public_bytes(*spki)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_PEM_BYTES:
        raise Refused(f"{path} is larger than {MAX_PEM_BYTES} bytes")
    return data


def _put_in_force(directory: Path, target: Path, key: bytes, chain: bytes) -> None:
    """Ends with one rename; before it the old identity is in force, after it the new one."""
    previous = _read_link(directory / CURRENT)
    incoming = directory / f".{target.name}.new"
    _remove(incoming)
    _make_directory(incoming)
    _write(incoming / KEY, key)
    _write(incoming / CHAIN, chain)
    _remove(target)  # left by an interrupted run: it is not what `current` names
    incoming.rename(target)
    link = directory / f".{CURRENT}.new"
    with suppress(FileNotFoundError):
        link.unlink()
    link.symlink_to(target.name)
    link.rename(directory / CURRENT)
    _sync(directory)
    _remove(directory / PENDING)
    keep = {target.name, previous, CURRENT}
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink() and entry.name not in keep:
            _remove(entry)


@contextmanager
def _locked(state_dir: Path, service: ServiceName) -> Iterator[Path]:
    """The service's directory, for one writer at a time."""
    if not state_dir.is_dir():
        raise Refused(f"{state_dir} is not a directory")
    _make_directory(state_dir / "identities")
    directory = state_dir / "identities" / service
    _make_directory(directory)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"the identity of {service} is being changed right now") from error
        yield directory
    finally:
        os.close(lock)


def _make_directory(path: Path) -> None:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if path.is_symlink() or not path.is_dir():
        raise Refused(f"{path} is not a directory")
    path.chmod(0o700)  # the umask may have taken bits away, an earlier hand may have added some


def _write(path: Path, data: bytes) -> None:
    """Atomic, durable, 0600 from the start."""
    temporary = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        temporary.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(directory: Path) -> None:
    """A directory of ours: files only."""
    if not directory.is_dir():
        return
    for entry in directory.iterdir():
        entry.unlink()
    directory.rmdir()


def _read_link(path: Path) -> str:
    return os.readlink(path) if path.is_symlink() else ""


def _become_owner(state_dir: Path) -> None:
    """Root gives up root, for good."""
    if os.geteuid() != 0:
        return
    try:
        owner = state_dir.stat()
    except OSError as error:
        raise Refused(f"{state_dir} cannot be read: {error.strerror}") from error
    if owner.st_uid == 0:
        return
    default_backend()  # imported lazily, perhaps from where the owner cannot read
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)


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
    os.umask(0o077)
    try:
        sys.stdout.buffer.write(_run(chosen))
        sys.stdout.buffer.flush()
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or chosen.state_dir}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _run(chosen: argparse.Namespace) -> bytes:
    # Read with the caller's rights: the bundle belongs to the configuration, not to the state.
    bundle = _read(chosen.trust_bundle) if chosen.command == "install" else b""
    _become_owner(chosen.state_dir)
    match chosen.command:
        case "request":
            return request(chosen.state_dir, chosen.service, chosen.trust_domain)
        case "install":
            chain = sys.stdin.buffer.read(MAX_PEM_BYTES + 1)
            if len(chain) > MAX_PEM_BYTES:
                raise Refused(f"the chain is larger than {MAX_PEM_BYTES} bytes")
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
