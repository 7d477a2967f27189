"""What a host really serves: the certificate seen on the wire, not the one believed installed."""

import asyncio
import ssl
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from meshctl.errors import MeshError, Unreachable
from meshctl.pki.authority import serial_text
from proxy.model.settings import Address

_HANDSHAKE_S = 10.0
_READ_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A leaf as presented in a handshake; its chain was verified if that was asked for."""

    serial: str
    identities: tuple[str, ...]
    """URI SANs; exactly one in a leaf of ours."""
    issuer: str
    not_before: datetime
    not_after: datetime
    key: str
    fingerprint: str
    """SHA-256 of the DER, in hex."""


async def fetch_served(address: Address, server_name: str, *, trust_bundle: bytes | None) -> Served:
    """The leaf that ``address`` presents for ``server_name``.

    With ``trust_bundle`` (PEM), the chain has to verify against it, dates included. We have no
    certificate to show, so the server ends the connection afterwards: in TLS 1.3 its own
    certificate has been proven by then. Raises Unreachable or MeshError, which say why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the name is a SPIFFE ID, which the caller compares
    if trust_bundle is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=trust_bundle.decode("ascii"))
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            _, writer = await asyncio.open_connection(
                address.host, address.port, ssl=context, server_hostname=server_name
            )
    except ssl.SSLCertVerificationError as error:
        raise MeshError(
            f"the certificate served for {server_name} does not verify: {error.verify_message}"
        ) from error
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or str(error) or "no answer in time"
        raise Unreachable(f"no TLS handshake for {server_name}: {reason}") from error
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return _read(der)


async def probe_trust(address: Address, server_name: str, context: ssl.SSLContext) -> bool:
    """Whether a proxy's inbound port believes the certificate that ``context`` shows
    (``probe.probing``), as the workload that ``server_name`` selects.

    In TLS 1.3 a client is verified last, when its own handshake is over: one that is not believed
    reads an alert. One that is, but is no service's, reads the authenticated end of the session,
    which nobody but the server itself can send. Raises Unreachable for anything else: a
    connection that breaks off proves nothing.
    """
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                return await _is_believed(reader, writer, server_name, context)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or str(error) or "no answer in time"
        raise Unreachable(f"no answer to a TLS probe of {server_name}: {reason}") from error


async def _is_believed(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    server_name: str,
    context: ssl.SSLContext,
) -> bool:
    # Not asyncio's own TLS: there a cut connection looks like one that was ended.
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    is_done = False
    while True:
        try:
            if not is_done:
                session.do_handshake()
                is_done = True
            if not session.read(_READ_BYTES):
                return True
            continue  # what it says is of no interest
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError as error:
            if is_done and "ALERT" in (error.reason or ""):
                return False
            raise
        if data := outgoing.read():
            writer.write(data)
            await writer.drain()
        received = await reader.read(_READ_BYTES)
        if not received:
            raise Unreachable(f"the TLS probe of {server_name} was cut off without an answer")
        incoming.write(received)


def _read(der: bytes) -> Served:
    certificate = x509.load_der_x509_certificate(der)
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identities = tuple(san.get_values_for_type(x509.UniformResourceIdentifier))
    except x509.ExtensionNotFound:
        identities = ()
    key = certificate.public_key()
    curve = getattr(getattr(key, "curve", None), "name", "")
    return Served(
        serial=serial_text(certificate),
        identities=identities,
        issuer=certificate.issuer.rfc4514_string(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        key=f"EC {curve}" if curve else type(key).__name__,
        fingerprint=certificate.fingerprint(certificate.signature_hash_algorithm).hex()
        if certificate.signature_hash_algorithm
        else "",
    )
