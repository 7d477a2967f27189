"""TCP sessions: bytes both ways until both ways have ended.

Each direction ends by itself: a client that has sent all and shuts down its side still gets the
whole answer. A reset on one side becomes a reset on the other, never an orderly end.

Bytes are read in large pieces, because that is what decides how much CPU they cost.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any

from proxy.http import scratch
from proxy.http.ledger import Ledger
from proxy.http.wire import WRITE_HIGH_BYTES
from proxy.model.endpoint import Endpoint
from proxy.model.flags import Flag
from proxy.net.dataplane_metrics import Reporter
from proxy.net.pool_dial import Dial, Dialer
from proxy.net.tls import TlsTransport

_EARLY_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


class Relay:
    """One session: the near half was accepted, the far half is dialled.

    ``start`` is called when the near half is there, and dials the far one.
    """

    __slots__ = (
        *("_began", "_connect_s", "_dial", "_dialled", "_idle_s", "_is_over", "_ledger"),
        *("_reporter", "detail", "far", "near", "policy"),
    )

    def __init__(self, ledger: Ledger, reporter: Reporter, idle_s: float) -> None:
        self._ledger = ledger
        self._reporter = reporter
        self._idle_s = idle_s
        self._is_over = False
        self._dial: Dial | None = None
        self._began = ledger.now
        self._dialled = self._connect_s = 0.0
        self.detail = ""
        """What there is to be said of its end beyond the flag's sentence."""
        self.policy = ""
        """The id of what denied it."""
        series = reporter.tcp()
        series.opened.value += 1
        self.near = RelayHalf(self, ledger, series.received)
        self.far = RelayHalf(self, ledger, series.sent)
        self.near.other, self.far.other = self.far, self.near

    def start(self) -> None:
        """Ends in ``dial`` or in ``refuse``."""
        raise NotImplementedError

    def ended(self) -> None:
        """The session is over."""

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def endpoint(self) -> Endpoint | None:
        """The far half's, or that of the last try."""
        return None

    @property
    def attempts(self) -> int:
        """Endpoints that were dialled."""
        return 1

    def begin(self) -> None:
        self._began = monotonic()
        self._ledger.connections.add(self)
        self._ledger.exchanges.add(self)
        self.start()

    def dial(
        self,
        dialer: Dialer,
        address: str,
        port: int,
        timeout_s: float,
        failed: Callable[[str], None],
    ) -> None:
        """Tries to connect the far half."""

        def ended(detail: str) -> None:
            self._count_dial()
            failed(detail)

        self._dialled = monotonic()
        self._dial = dialer.dial(address, port, timeout_s, self.far, ended)

    def connected(self) -> None:
        self._count_dial()
        if self._dial is not None:
            self._dial.succeeded()
            self._dial = None

    def _count_dial(self) -> None:
        """It is over, whatever came of it."""
        if self._dialled:
            self._connect_s += monotonic() - self._dialled
            self._dialled = 0.0

    def refuse(self, flag: Flag, detail: str = "") -> None:
        """There is nobody to talk to; TCP has no words for why, metric and log have."""
        self.detail = detail
        self.end(flag.value, is_reset=True)

    def end(self, flag: str = "", *, is_reset: bool = False) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        self._ledger.connections.discard(self)
        self._ledger.exchanges.discard(self)
        known: dict[str, Any] = {
            "now": monotonic(),
            "started": self._began,
            "endpoint": self.endpoint,
            "attempts": self.attempts,
            "flag": flag,
            "policy": self.policy,
            "detail": self.detail,
            "sent_bytes": self.far.received_bytes,
            "received_bytes": self.near.received_bytes,
        }
        if self._reporter.log is not None:
            self._count_dial()
            self._reporter.log.session(connect_s=self._connect_s, **known)
        self._reporter.session_ended(**known)
        self.ended()
        self._reporter.tcp(flag).closed.value += 1
        for half in (self.near, self.far):
            half.finish(is_reset=is_reset)

    def sweep(self, now: float) -> None:
        if now - max(self.near.touched, self.far.touched) > self._idle_s:
            self.end(Flag.STREAM_IDLE.value, is_reset=True)

    def abort(self) -> None:
        self.end(Flag.OVERLOAD.value, is_reset=True)

    def close_if_idle(self) -> None:
        """A session is never idle in the sense of a request's connection."""


class RelayHalf(asyncio.Protocol):
    """One of the two connections."""

    __slots__ = (
        "_early",
        "_early_bytes",
        "_is_ended",
        "_is_full",
        "_is_lending",
        "_ledger",
        "_lent",
        "_received",
        "_relay",
        "_transport",
        "other",
        "received_bytes",
        "touched",
    )

    other: "RelayHalf"

    def __init__(self, relay: Relay, ledger: Ledger, received: Any) -> None:
        self._relay = relay
        self._ledger = ledger
        self._received = received
        """The series that counts what arrives here."""
        self.received_bytes = 0
        """In this session."""
        self._transport: Any = None
        self._early: list[bytes] = []
        """To be written here once there is a connection."""
        self._early_bytes = 0
        self._is_ended = False
        """Nothing more arrives here."""
        self._is_full = False
        """More is waiting to be written here than should."""
        self._is_lending = False
        """The transport keeps what it could not write at once, and not a copy of it."""
        self._lent: list[memoryview] = []
        """What it keeps."""
        self.touched = ledger.now

    def peer(self) -> bytes:
        """The address at the other end."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return name[0].encode() if name else b""

    def connection_made(self, transport: Any) -> None:
        relay = self._relay
        if relay.is_over:
            transport.abort()
            return
        self._transport = transport
        if isinstance(transport, TlsTransport):
            transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        else:
            # Full as soon as one byte waits, and not full when none does: so it is known when
            # the transport needs what it was lent.
            transport.set_write_buffer_limits(0)
            self._is_lending = True
        self.touched = self._ledger.now
        if relay.near is self:
            relay.begin()
            return
        relay.connected()
        self._read_in_bulk()
        self.other._read_in_bulk()
        if self._early:
            transport.write(b"".join(self._early))
            self._early.clear()
        near = self.other
        if near._is_ended:
            transport.write_eof()
        elif near._transport is not None and self._early_bytes > _EARLY_BYTES and not self._is_full:
            near._transport.resume_reading()

    def _read_in_bulk(self) -> None:
        """Only now: what arrives before there is somebody to take it should be little."""
        transport = self._transport
        if isinstance(transport, TlsTransport):
            transport.read_in_bulk(self.received)
        elif transport is not None:
            transport.set_protocol(scratch.ScratchReader(scratch.plain, self, self.received))

    def received(self, data: memoryview) -> None:
        """A view of the shared scratch."""
        self.touched = self._ledger.now
        size = len(data)
        self._received.value += size
        self.received_bytes += size
        other = self.other
        if other._transport is None:
            return  # lost a moment ago, and with it the session
        other._transport.write(data)
        if other._is_full and other._is_lending:
            other._lent.append(scratch.plain.lend())

    def data_received(self, data: bytes) -> None:
        """What arrives before the session is one, or with the last of a handshake."""
        self.touched = self._ledger.now
        self._received.value += len(data)
        self.received_bytes += len(data)
        other = self.other
        if other._transport is not None:
            other._transport.write(data)
            return
        other._early.append(data)
        other._early_bytes += len(data)
        if other._early_bytes > _EARLY_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self.touched = self._ledger.now
        self._is_ended = True
        other = self.other
        if other._is_ended:
            self._relay.end()
        elif other._transport is not None:
            other._transport.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lent.clear()
        if exc is None and self._is_ended and self.other._is_ended:
            self._relay.end()
        else:
            flag = Flag.DOWNSTREAM_RESET if self._relay.near is self else Flag.UPSTREAM_RESET
            self._relay.end(flag.value, is_reset=True)

    def pause_writing(self) -> None:
        self._is_full = True
        if self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_full = False
        while self._lent:
            scratch.plain.take_back(self._lent.pop())
        self.touched = self._ledger.now
        if self.other._transport is not None:
            self.other._transport.resume_reading()

    def finish(self, *, is_reset: bool) -> None:
        transport = self._transport
        if transport is None:
            return
        if not is_reset:
            transport.close()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()


class Closed(asyncio.Protocol):
    """A connection that nobody has room for."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()
