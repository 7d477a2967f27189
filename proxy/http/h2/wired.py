"""The engine on a transport, as both halves need it: one write a turn of the loop, and its end."""

import asyncio
from typing import Any, ClassVar, Final

from proxy.http.h2.connection import Connection, ConnectionBroken, Stream
from proxy.http.h2.frames import COMPRESSION_ERROR
from proxy.http.h2.hpack import Decoder, HpackError
from proxy.http.pace import Uptake
from proxy.http.scratch import BULK_BYTES, BulkReader, plain
from proxy.http.wire import WRITE_HIGH_BYTES, Wire, forget_unsent

MOST_WITHHELD: Final = 8 * 1024 * 1024
"""That has come for paused streams: 256 of them may hold a window each. Then the connection is not
read until half of it is taken."""
MOST_UNTAKEN: Final = 1024 * 1024
"""Of what was written and the peer does not read while it goes on sending."""


class Wired(Connection, asyncio.Protocol):
    """Nothing is written by itself while bytes are being read: what they lead to leaves at once,
    in one piece. Everything else leaves in the loop's next turn, with what is written until then:
    what has become readable meanwhile has its part in it, and the peer wakes up once."""

    __slots__ = (
        "_call_soon",
        "_is_flush_due",
        "_is_out_large",
        "_out",
        "_quiet_since",
        "_transport",
        "_uptake",
        "decoder",
        "is_read_paused",
    )

    ping_after_s: ClassVar[float]
    """Without a byte from a peer that has streams: is it still there?"""

    _transport: Wire

    def __init__(self) -> None:
        super().__init__()
        self._out: list[Any] = []
        self._is_out_large = False
        """Too large to be copied once more."""
        self._is_flush_due = False
        self.is_read_paused = False
        self._uptake = Uptake()
        self._quiet_since = 0.0
        self.decoder = Decoder()

    # The half

    def broken(self, error: ConnectionBroken) -> None:
        """The peer broke the rules. It has been told, and the connection is over."""
        raise NotImplementedError

    # The transport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH_BYTES)
        hand_views = getattr(transport, "hand_views", None)
        if hand_views is not None:
            hand_views(self.data_received)
        self._call_soon = asyncio.get_running_loop().call_soon
        self.start()

    def data_received(self, data: bytes | memoryview) -> None:
        """A view is valid during the call only."""
        was_due, self._is_flush_due = self._is_flush_due, True
        try:
            self.receive(data)
        except ConnectionBroken as error:
            self._break(error)
            return
        self._is_flush_due = was_due
        if self._out:
            self._write_out()
        if len(data) > BULK_BYTES and data.__class__ is bytes and not self.is_lost:
            BulkReader(plain, self._transport, self, self.data_received)
        if self.withheld > MOST_WITHHELD or (
            self.is_write_paused and self._transport.get_write_buffer_size() > MOST_UNTAKEN
        ):
            self.is_read_paused = True
            self._transport.pause_reading()

    def ease(self, stream: Stream) -> None:
        super().ease(stream)
        if self.is_read_paused and not self.is_write_paused:
            self._read_on()

    def _read_on(self) -> None:
        if self.withheld <= MOST_WITHHELD // 2 and not self.is_lost:
            self.is_read_paused = False
            self._transport.resume_reading()

    def end(self, code: int, detail: str) -> None:
        """For what the peer does, or does not do."""
        try:
            self.fail(code, detail)
        except ConnectionBroken as error:
            self._break(error)

    def _break(self, error: ConnectionBroken) -> None:
        self._flush()
        self.is_lost = True
        self.broken(error)

    def settings_acknowledged(self) -> None:
        self.decoder.acknowledged()

    def block_skipped(self, block: bytes) -> None:
        if not self.decoder.is_stateless:
            try:
                self.decoder.decode(block)
            except HpackError as error:
                self.fail(COMPRESSION_ERROR, str(error))

    def eof_received(self) -> bool:
        return False

    def resume_writing(self) -> None:
        if self.is_read_paused:
            self._read_on()
        super().resume_writing()

    def pause_writing(self) -> None:
        self._uptake.forget()
        super().pause_writing()

    # Out

    def write(self, data: bytes) -> None:
        self._out.append(data)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._call_soon(self._call_soon, self._flush)

    def write_frame(self, header: bytes, payload: bytes) -> None:
        out = self._out
        out.append(header)
        out.append(payload)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._call_soon(self._call_soon, self._flush)

    def write_parts(self, parts: list[bytes | memoryview]) -> None:
        self._out += parts
        if not self._is_out_large:
            # Much does not wait for more: whoever sends it learns only then that it is too much.
            self._is_out_large = self._is_flush_due = True
            self._call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._out:
            self._write_out()

    def _write_out(self) -> None:
        out, self._out = self._out, []
        if self._is_out_large:
            self._is_out_large = False
            if not self.is_lost:
                self._transport.writelines(out)
        elif not self.is_lost:
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])

    def close(self) -> None:
        """After what is written."""
        self._flush()
        self.is_lost = True
        self._transport.close()

    def abort(self) -> None:
        self.is_lost = True
        self._transport.abort()

    @property
    def is_connected(self) -> bool:
        """There has been a transport."""
        return hasattr(self, "_transport")

    def hang_up(self) -> None:
        """Closes, but waits for nobody who does not read."""
        self.is_lost = True
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def peer(self) -> Any:
        return self._transport.get_extra_info("peername")

    # From the sweeper

    def sweep(self, now: float) -> None:
        """Once a second."""
        if self.is_lost:
            return
        if self.is_read_paused:
            self._has_heard = True  # it would be, were it read
        if self._has_heard or not self.streams:
            self._quiet_since = now
        elif now - self._quiet_since > self.ping_after_s:
            self._quiet_since = now
            self.ping()
        try:
            super().sweep(now)
        except ConnectionBroken as error:
            self._break(error)

    def is_stuck(self, now: float) -> bool:
        """Whether the peer does not take what is written, and has had time to. Once a second."""
        return self.is_write_paused and self._uptake.is_stuck(self._transport, now)

    def reset(self) -> None:
        """Aborts, and lets the kernel forget what it still holds for the peer."""
        forget_unsent(self._transport)
        self.abort()
