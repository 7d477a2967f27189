"""Asks one signer for one certificate: TLS with the identity that is to be renewed, one POST.

What enters is a certificate request, what leaves is a chain or a ``SignerError`` that says whether
another signer may do better. The signer is known by its identity, never by its address.
"""

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import Literal

from proxy.core.peer import identify_signer
from proxy.model.codec import Malformed, Value, decode, encode
from proxy.model.names import InvalidName, TrustDomain, signer_server_name
from proxy.model.settings import Address
from proxy.net.exchange import Connection, ExchangeError, Response

CONNECT_S = 2.0
CALL_S = 10.0
"""The whole of it, connecting included."""
MAX_ANSWER_BYTES = 64 * 1024

Kind = Literal["unreachable", "refused", "revoked", "busy"]


class SignerError(Exception):
    """One sentence that names the signer."""

    def __init__(self, kind: Kind, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.retry_after_s = retry_after_s


class _Renewed(Value, frozen=True, kw_only=True):
    chain: str


class _Refused(Value, frozen=True, kw_only=True):
    error: str
    hint: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerClient:
    """Stateless: no connection, no TLS session is kept between two questions."""

    trust_domain: TrustDomain

    async def renew(self, signer: Address, context: ssl.SSLContext, csr_pem: bytes) -> bytes:
        """The new chain, PEM. Raises SignerError."""
        where = f"{signer.host}:{signer.port}"
        try:
            async with asyncio.timeout(CALL_S):
                connection = await self._connect(signer, context, where)
                try:
                    response = await connection.ask(_request(where, csr_pem))
                finally:
                    connection.close()
        except TimeoutError as error:
            raise SignerError(
                "unreachable", f"the signer {where} did not answer within {CALL_S:g} s"
            ) from error
        except ExchangeError as error:
            # In TLS 1.3 a refusal of our certificate arrives as an end after the handshake.
            raise SignerError(
                "unreachable",
                f"the signer {where}: {error}; it may not accept this host's certificate",
            ) from error
        return _read(response, where)

    async def _connect(self, signer: Address, context: ssl.SSLContext, where: str) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                transport, connection = await loop.create_connection(
                    lambda: Connection(MAX_ANSWER_BYTES),
                    signer.host,
                    signer.port,
                    ssl=context,
                    server_hostname=signer_server_name(self.trust_domain),
                )
        except TimeoutError as error:
            raise SignerError(
                "unreachable", f"the signer {where} cannot be reached within {CONNECT_S:g} s"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise SignerError(
                "unreachable", f"the signer {where} is not trusted: {error.verify_message}"
            ) from error
        except ssl.SSLError as error:
            reason = (error.reason or "TLS failed").replace("_", " ").lower()
            raise SignerError("unreachable", f"the signer {where}: {reason}") from error
        except (OSError, UnicodeError) as error:
            number = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(number) if number and number > 0 else type(error).__name__
            raise SignerError(
                "unreachable", f"the signer {where} cannot be reached: {reason}"
            ) from error
        peer = transport.get_extra_info("ssl_object")
        try:
            identify_signer(peer.getpeercert(binary_form=True) or b"", self.trust_domain)
        except InvalidName as error:
            connection.close()
            raise SignerError("unreachable", f"{where} is not a signer: {error}") from error
        return connection


def _request(where: str, csr_pem: bytes) -> bytes:
    body = encode({"csr": csr_pem.decode("ascii")})
    head = (
        f"POST /v1/renew HTTP/1.1\r\nHost: {where}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _read(response: Response, where: str) -> bytes:
    try:
        if response.status == 200:
            return decode(response.body, _Renewed).chain.encode()
        refused = decode(response.body, _Refused)
    except Malformed as error:
        raise SignerError(
            "refused", f"the signer {where} answered {response.status} with something else"
        ) from error
    kind: Kind = "refused"
    if refused.code == "revoked":
        kind = "revoked"
    elif response.status in (429, 503):
        kind = "busy"
    raise SignerError(
        kind,
        f"the signer {where}: {refused.error}",
        retry_after_s=_seconds(response.headers.get(b"retry-after", b"")),
    )


def _seconds(value: bytes) -> float:
    return float(value) if value.isdigit() and len(value) < 6 else 0.0
