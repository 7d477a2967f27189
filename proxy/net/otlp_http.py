"""One try to give one batch to a receiver of OTLP over HTTP, and whether to try once more."""

import asyncio
import gzip
import ssl
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from proxy import __version__
from proxy.net.exchange import Connection, Disconnected, ExchangeError, Response, connect

SEND_S = 10.0
"""One try as a whole: the default of OTLP exporters."""
MAX_ANSWER_BYTES: Final = 64 * 1024
COMPRESSED_BYTES: Final = 1400
"""What fits into one packet is not worth it."""

_RETRIED: Final = frozenset((429, 502, 503, 504))
"""OTLP specification, "Failures": all others are final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Where an OTLP URL leads."""

    is_tls: bool
    host: str
    port: int
    authority: str
    """As it goes into ``Host``."""
    target: str
    is_far: bool
    """Not on this host: what is sent there is worth compressing."""


def parse_receiver(url: str) -> Receiver:
    """Of a sound ``Telemetry.otlp``. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https URL with a host")
    is_tls = parts.scheme == "https"
    return Receiver(
        is_tls=is_tls,
        host=parts.hostname,
        port=parts.port or (443 if is_tls else 80),
        authority=parts.netloc.rpartition("@")[2],
        target=parts.path or "/",
        is_far=not _is_loopback(parts.hostname),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Undelivered(Exception):
    def __init__(self, why: str, *, reason: str, may_retry: bool, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.reason = reason
        """The metric's label."""
        self.may_retry = may_retry
        self.after_s = after_s
        """What the receiver asked for."""


class Sender:
    """Keeps one connection for the next batch."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._turn = 0
        """Another one after each ``disconnect``."""

    def disconnect(self) -> None:
        """Ends a try that is under way as well: it may be repeated."""
        self._turn += 1
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def send(self, receiver: Receiver, body: bytes) -> bytes:
        """The body of an answer that says the batch was taken. Raises Undelivered."""
        try:
            async with asyncio.timeout(SEND_S):
                response = await self._ask(receiver, body)
        except TimeoutError as error:
            raise Undelivered(
                f"no answer within {SEND_S:g} s", reason="unreachable", may_retry=True
            ) from error
        except Disconnected as error:
            raise Undelivered(str(error), reason="unreachable", may_retry=True) from error
        except (ExchangeError, OSError) as error:
            raise Undelivered(str(error), reason="refused", may_retry=False) from error
        if 200 <= response.status < 300:
            return response.body
        raise Undelivered(
            f"the answer is a {response.status}",
            reason="refused",
            may_retry=response.status in _RETRIED,
            after_s=_retry_after_s(response.headers.get(b"retry-after", b"")),
        )

    async def _ask(self, receiver: Receiver, body: bytes) -> Response:
        encoding = ""
        if receiver.is_far and len(body) >= COMPRESSED_BYTES:
            body = gzip.compress(body, 1, mtime=0)
            encoding = "Content-Encoding: gzip\r\n"
        head = (
            f"POST {receiver.target} HTTP/1.1\r\nHost: {receiver.authority}\r\n"
            f"User-Agent: meshctl/{__version__}\r\nContent-Type: application/x-protobuf\r\n"
            f"{encoding}Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        turn = self._turn
        kept = self._connection
        if kept is not None and kept.is_open:
            try:
                return await kept.ask(head + body)
            except Disconnected as error:
                if error.was_answering or turn != self._turn:
                    raise
                # It was closed in the same moment, as idle: a fresh one will tell.
        tls: ssl.SSLContext | None = None
        if receiver.is_tls:
            # Some 20 ms of reading the system's CAs; for each connection, as they change.
            tls = await asyncio.to_thread(ssl.create_default_context)
        connection = await connect(
            receiver.host, receiver.port, max_body_bytes=MAX_ANSWER_BYTES, tls=tls
        )
        if turn != self._turn:
            connection.close()
            raise Disconnected("the receiver has changed", was_answering=False)
        if kept is not None:
            kept.close()
        self._connection = connection
        return await connection.ask(head + body)


def _retry_after_s(value: bytes) -> float:
    """Seconds, or a date (RFC 9110, section 10.2.3); 0: none that can be understood."""
    if value.isdigit() and len(value) < 6:
        return float(value)
    try:
        at = parsedate_to_datetime(value.decode("ascii"))
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return max(0.0, at.timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
