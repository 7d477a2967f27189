"""TLS over a plain transport: a protocol to the one below, a transport to the one above.

The loop's own TLS is not used, for three reasons. It ends the connection when the peer ends its
side, while a relayed TCP session needs each direction to end by itself (RFC 8446, section 6.1;
docs/decisions/0004). It asks OpenSSL once more after each record and pays an exception for the
answer. And it keeps a quarter of a megabyte of buffer for each connection.

What arrives is decrypted at once and handed on in one call, so nothing is left inside; when the
protocol above asks for a pause, reading stops below. OpenSSL's buffers stay as large as the most
they ever held, so much is handed to it, and taken from it, in pieces; the loop below still reads
and writes all of it at once, which is what makes it cheap.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from proxy.http import scratch
from proxy.http.ledger import Ledger

HANDSHAKE_TIMEOUT_S = 10.0
_READ_BYTES = 16 * 1024  # one record holds no more (RFC 8446, section 5.1)
_RECORD_BYTES = _READ_BYTES + 5 + 256  # with its header and all that may be added (section 5.2)
_PIECE_BYTES = 32 * 1024  # 16 KiB cost a tenth more CPU for each byte, 64 KiB as much
_JOINED_BYTES = 8 * 1024  # a copy of so little costs less than a record of its own
_CONTROL_BYTES = 64 * 1024  # unsent answers to a peer's own TLS messages, such as KeyUpdate
_HANDSHAKE_BYTES = 128 * 1024  # two certificate chains fit many times
_RECORD_HANDSHAKE = 0x16


class PeerRefused(Exception):
    """The handshake is complete, and the peer is not who may be here."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


Accept = Callable[["TlsTransport"], asyncio.Protocol]
"""Called once the handshake is complete and before anything else is sent: verifies the peer
and returns the protocol above, or raises PeerRefused."""

Failed = Callable[[str, str], None]
"""Called at most once, with a reason from a small set and a detail for people, if the handshake
does not complete."""


class TlsTransport(asyncio.Protocol):
    """One connection, either side."""

    __slots__ = (
        "_accept",
        "_context",
        "_error",
        "_failed",
        "_handshake_bytes",
        "_incoming",
        "_is_closing",
        "_is_read_closed",
        "_is_server",
        "_is_write_closed",
        "_ledger",
        "_obj",
        "_outgoing",
        "_raw",
        "_read",
        "_server_name",
        "_since",
        "_take",
        "_upper",
    )

    _raw: Any
    _obj: ssl.SSLObject

    def __init__(
        self,
        context: ssl.SSLContext,
        accept: Accept,
        failed: Failed,
        *,
        server_name: str | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """A client if there is a ``server_name``; a ledger watches the handshake's deadline."""
        self._context = context
        self._accept = accept
        self._failed: Failed | None = failed
        self._server_name = server_name
        self._is_server = server_name is None
        self._ledger = ledger
        self._upper: asyncio.Protocol | None = None
        self._take: Callable[[memoryview], None] | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._handshake_bytes = 0
        self._is_read_closed = False
        self._is_write_closed = False
        self._is_closing = False
        self._error: Exception | None = None
        self._since = ledger.now if ledger is not None else 0.0

    # As a protocol

    def connection_made(self, transport: Any) -> None:
        self._raw = transport
        if self._is_closing:
            transport.abort()
            return
        self._obj = self._context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=self._is_server,
            server_hostname=self._server_name,
        )
        self._read = self._obj.read
        if self._ledger is not None:
            self._ledger.connections.add(self)
        if not self._is_server:
            self._handshake()

    def data_received(self, data: bytes) -> None:
        incoming = self._incoming
        upper = self._upper
        if upper is None:
            if self._is_closing or not self._is_handshake_done(data):
                return
            upper = self._upper
            if upper is None or self._is_closing or not incoming.pending:
                return
        elif len(data) <= _PIECE_BYTES:
            incoming.write(data)
        else:
            self._receive(memoryview(data))
            if self._take is not None and len(data) > scratch.BULK_BYTES and not self._is_closing:
                scratch.BulkReader(scratch.arrived, self._raw, self, self._receive)
            return
        try:
            data = self._read(_READ_BYTES)
        except ssl.SSLWantReadError:
            self._flush_control()
            return
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as error:
            self._break(error)
            return
        if not data:
            self._end_reading(upper)
        elif incoming.pending:
            scratch.plain.view[: len(data)] = data
            self._receive(memoryview(b""), len(data))
        else:
            upper.data_received(data)

    def _receive(self, data: memoryview, held: int = 0) -> None:
        """``held``: bytes of plaintext that are in the scratch already."""
        incoming, read = self._incoming, self._read
        plain = scratch.plain.view
        most = len(plain) - _READ_BYTES
        is_end = False
        failure: ssl.SSLError | None = None
        last = len(data) - _PIECE_BYTES
        for start in range(0, len(data) or 1, _PIECE_BYTES):
            incoming.write(data[start : start + _PIECE_BYTES])
            # With half a record, OpenSSL would ask for more, by a costly exception.
            enough = _RECORD_BYTES if start < last else 0
            try:
                while incoming.pending > enough:
                    if held > most:
                        self._hand_on(plain[:held])
                        plain, held = scratch.plain.view, 0
                    # The argument is a buffer of bytes, whatever the type stubs say.
                    count: int = read(_READ_BYTES, plain[held:])  # type: ignore[assignment]
                    if not count:
                        is_end = True
                        break
                    held += count
            except ssl.SSLWantReadError:
                self._flush_control()
                continue
            except ssl.SSLZeroReturnError:
                is_end = True
            except ssl.SSLError as error:
                failure = error
            if is_end or failure is not None or self._is_closing:
                break
        if held:
            self._hand_on(plain[:held])
        if failure is not None:
            self._break(failure)
        elif is_end:
            assert self._upper is not None
            self._end_reading(self._upper)

    def _hand_on(self, data: memoryview) -> None:
        if self._take is not None:
            self._take(data)
        elif self._upper is not None:
            self._upper.data_received(bytes(data))

    def hand_views(self, take: Callable[[memoryview], None]) -> None:
        """Of much, ``take`` gets a view that is valid during the call only, where
        ``data_received`` above would get a copy; and as much is read at a time as there is, for as
        long as it is much."""
        self._take = take

    def read_in_bulk(self, take: Callable[[memoryview], None]) -> None:
        """As ``hand_views``, and reads so whatever comes. Costs less for much, and more for
        little."""
        self.hand_views(take)
        self._raw.set_protocol(scratch.ScratchReader(scratch.arrived, self, self._receive))

    def _end_reading(self, upper: asyncio.Protocol) -> None:
        """The peer said, authenticated, that it sends no more."""
        if self._is_read_closed or self._is_closing:
            return
        self._is_read_closed = True
        is_kept = upper.eof_received()
        if self._is_write_closed or not is_kept:
            self.close()

    def eof_received(self) -> bool:
        """Without the peer's TLS end before it, what came may have been cut off by anybody."""
        if self._upper is None:
            self._fail("eof", "the connection was closed during the handshake")
            return False
        if not self._is_read_closed:
            self._error = ConnectionResetError("the connection was cut without an end of TLS")
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        upper = self._upper
        if upper is None:
            self._fail("eof", str(exc) if exc else "the connection was closed")
            return
        upper.connection_lost(self._error or exc)

    def pause_writing(self) -> None:
        if self._upper is not None:
            self._upper.pause_writing()

    def resume_writing(self) -> None:
        if self._upper is not None:
            self._upper.resume_writing()

    # The handshake

    def _is_handshake_done(self, data: bytes) -> bool:
        if self._is_server and not self._handshake_bytes and data[0] != _RECORD_HANDSHAKE:
            self._fail("plaintext", "the client does not speak TLS")
            return False
        self._handshake_bytes += len(data)
        self._incoming.write(data)
        return self._handshake()

    def _handshake(self) -> bool:
        try:
            self._obj.do_handshake()
        except ssl.SSLWantReadError:
            if self._handshake_bytes > _HANDSHAKE_BYTES:
                self._fail("protocol", "the handshake is too long")
            else:
                self._flush()
            return False
        except (ssl.SSLError, ssl.CertificateError) as error:
            self._flush()  # the alert that tells the peer why
            self._fail(*_explain(error))
            return False
        if self._ledger is not None:
            self._ledger.connections.discard(self)
            self._ledger = None
        try:
            upper = self._accept(self)
        except PeerRefused as refusal:
            if refusal.reason == "identity":
                self._shut_down()  # it learns that it was believed (meshctl.pki.served.probe_trust)
            self._flush()
            self._fail(refusal.reason, str(refusal))
            return False
        self._failed = None
        self._upper = upper
        upper.connection_made(self)  # type: ignore[arg-type]  # a transport in all that matters
        self._flush()
        return True

    def _fail(self, reason: str, detail: str) -> None:
        failed, self._failed = self._failed, None
        self._is_closing = True
        if self._ledger is not None:
            self._ledger.connections.discard(self)
        self._raw.close()
        if failed is not None:
            failed(reason, detail)

    def abandon(self) -> None:
        """Nobody waits for the handshake any more; nobody is told."""
        self._failed = None
        self._is_closing = True
        raw = getattr(self, "_raw", None)
        if raw is not None:
            raw.abort()

    def sweep(self, now: float) -> None:
        if self._upper is None and now - self._since > HANDSHAKE_TIMEOUT_S:
            self._fail("timeout", "the handshake was not complete in 10 s")

    def close_if_idle(self) -> None:
        """A handshake is not idle."""

    # As a transport

    @property
    def ssl_object(self) -> ssl.SSLObject:
        return self._obj

    def write(self, data: bytes | memoryview) -> None:
        """Nothing of ``data`` is needed any more when this returns."""
        if self._is_write_closed:
            return
        size = len(data)
        try:
            if size > _PIECE_BYTES:
                self._write_pieces(memoryview(data))
                return
            sent = self._obj.write(data)
            while sent < size:
                sent += self._obj.write(memoryview(data)[sent:])
        except ssl.SSLError as error:
            self._break(error)
            return
        self._raw.write(self._outgoing.read())

    def writelines(self, parts: list[bytes | memoryview]) -> None:
        """As ``write`` of all together; large parts are not copied first. In one system call: the
        other end wakes up once, and reads as much at a time."""
        if self._is_write_closed:
            return
        out: list[bytes] = []
        small: list[bytes | memoryview] = []
        try:
            for part in parts:
                if len(part) < _JOINED_BYTES:
                    small.append(part)
                    continue
                if small:
                    self._encrypt(memoryview(b"".join(small)), out)
                    small.clear()
                self._encrypt(memoryview(part), out)
            if small:
                self._encrypt(memoryview(b"".join(small)), out)
        except ssl.SSLError as error:
            self._break(error)
            return
        self._raw.writelines(out)

    def _write_pieces(self, data: memoryview) -> None:
        """Each written at once: its memory, still in the cache, then serves for the next."""
        for start in range(0, len(data), _PIECE_BYTES):
            self._raw.write(self._encrypted(data[start : start + _PIECE_BYTES]))

    def _encrypt(self, data: memoryview, out: list[bytes]) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            out.append(self._encrypted(data[start : start + _PIECE_BYTES]))

    def _encrypted(self, piece: memoryview) -> bytes:
        write = self._obj.write
        sent = write(piece)
        while sent < len(piece):
            sent += write(piece[sent:])
        return self._outgoing.read()

    def write_eof(self) -> None:
        """Ends this direction; the other goes on until the peer ends it."""
        if self._is_write_closed:
            return
        self._is_write_closed = True
        # OpenSSL sends the end and then looks for the peer's; all that had arrived has been
        # read, so it finds nothing and says that it would have to wait.
        self._shut_down()
        if self._is_read_closed:
            self._is_closing = True
            self._raw.close()

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if not self._is_write_closed:
            self._is_write_closed = True
            self._shut_down()
        self._raw.close()

    def abort(self) -> None:
        """Without an end of TLS: the peer sees that something is missing."""
        self._is_closing = self._is_write_closed = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        if not self._is_closing:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self._is_closing:
            self._raw.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        size: int = self._raw.get_write_buffer_size()
        return size

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """What comes from now on is another one's."""
        self._upper = protocol
        self._take = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def _shut_down(self) -> None:
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._obj.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _flush_control(self) -> None:
        if not self._outgoing.pending:
            return
        self._flush()
        if self._upper is not None and self._raw.get_write_buffer_size() > _CONTROL_BYTES:
            # Only a peer that sends control messages and does not read gets here often.
            self._raw.pause_reading()
            self._raw.abort()

    def _break(self, error: ssl.SSLError) -> None:
        """A fatal TLS error on an established connection."""
        reason = error.reason or ""
        if "ALERT" in reason and not self._is_server:
            # TLS 1.3: the server looks at our certificate after we have begun to send, and
            # refuses it with an alert; then it has not read a byte of what we sent.
            name = reason.removeprefix("TLSV1_ALERT_").removeprefix("SSLV3_ALERT_")
            text = name.removeprefix("TLSV13_ALERT_").replace("_", " ").lower()
            self._error = ConnectionRefusedError(f"the peer refused our certificate: {text}")
        else:
            self._error = ConnectionResetError(f"TLS: {reason.replace('_', ' ').lower()}")
        self._flush()
        self.abort()


def _explain(error: Exception) -> tuple[str, str]:
    """A reason from a small set, and OpenSSL's own words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate", f"the peer's certificate is not valid: {error.verify_message}"
    reason = getattr(error, "reason", None) or type(error).__name__
    text = reason.replace("_", " ").lower()
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "no_certificate", "the peer showed no certificate"
    if reason == "CALLBACK_FAILED":
        return "server_name", "the client asked for a server name that is not here"
    if "ALERT" in reason:
        return "alert", f"the peer refused: {text}"
    return "protocol", text
