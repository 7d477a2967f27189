"""A key that is made where it is used, and the certificate that comes back for it.

For the commands that make identities on a host (``proxy.keys``, and the signer's own). Hold the
directory's lock (``keyfiles.locked``) to change anything; the layout is ``keyfiles``'.
"""

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy import chains, keyfiles
from proxy.keyfiles import CHAIN, CURRENT, KEY, PENDING, Refused


def make(directory: Path, *, common_name: str = "", uris: Sequence[str] = ()) -> bytes:
    """A new pending key, replacing an earlier one; the request for its certificate, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        request = request.add_extension(names, critical=False)
    signed = request.sign(key, hashes.SHA256())
    pending = directory / PENDING
    keyfiles.make_directory(pending)
    keyfiles.write(
        pending / KEY,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return signed.public_bytes(serialization.Encoding.PEM)


def put_in_force(directory: Path, certificate: x509.Certificate, chain: bytes, what: str) -> None:
    """``chain``, which begins with ``certificate``, with the pending key. Raises Refused, naming
    the certificate as ``what``; then nothing has changed.

    Doing it again with the same one is not an error, so that an interrupted deploy converges.
    """
    target = directory / f"{certificate.serial_number:x}"
    is_current = keyfiles.read_link(directory / CURRENT) == target.name
    if is_current and chains.matches(target / KEY, certificate):
        if (target / CHAIN).read_bytes() != chain:
            keyfiles.write(target / CHAIN, chain)  # the same one, under other intermediates
        return
    pending_key = directory / PENDING / KEY
    if not pending_key.exists():
        raise Refused(f"there is no pending key for {what}: run `request` first")
    if not chains.matches(pending_key, certificate):
        raise Refused(f"{what} is not for the pending key")
    keyfiles.put_in_force(directory, target, pending_key.read_bytes(), chain)


def in_force(directory: Path, nothing: str) -> tuple[list[x509.Certificate], Path]:
    """The chain in force, never empty, and the file of its first certificate's key; that they
    belong together was looked at, their time was not. Raises Refused, with ``nothing`` where there
    is none."""
    current = directory / CURRENT
    if not current.is_dir():
        raise Refused(nothing)
    current = current.resolve()  # once: it may be switched between two reads
    path, key = current / CHAIN, current / KEY
    chain = chains.certificates(keyfiles.read(path), str(path))
    if not chains.matches(key, chain[0]):
        raise Refused(f"{key} is not the key of the certificate beside it")
    return chain, key
