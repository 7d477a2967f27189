"""A command that goes on, on one SSH channel: its output as lines, its input open until its end."""

from collections.abc import Callable

import asyncssh

from meshctl.transport.command import CHUNK_BYTES
from meshctl.transport.lines import Lines, LineTooLong
from meshctl.transport.ssh import channel

STREAM_MAX_S = 86400.0
"""For a command without a deadline: so that one whose connection was cut, and that nobody could
end, does not stay for ever."""

Failed = Callable[[Exception | None, int | None, bytes], Exception | None]
"""What broke it, its exit status, the end of its standard error -> what the reader shall get."""


class StreamSession(channel.CommandSession):
    def __init__(self, failed: Failed) -> None:
        super().__init__(CHUNK_BYTES)
        self.lines = Lines(pause=self._pause, resume=self._resume)
        self._failed = failed
        self._orphan: int | None = None

    @property
    def orphan(self) -> int | None:
        return self._orphan if self._was_stopped and self._exit_status is None else None

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            self.stderr += data
            self._orphan = self._orphan or channel.announced(self.stderr)
            del self.stderr[:-CHUNK_BYTES]
            return
        try:
            self.lines.feed(data)
        except LineTooLong as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """The reader gets what ``failed`` makes of it."""
        self._failure = self._failure or error
        self.lines.end(self._failed(self._failure, None, self.output))
        self.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lines.end(self._failed(self._failure, self._exit_status, self.output))

    def _pause(self) -> None:
        if self._channel is not None:
            self._channel.pause_reading()

    def _resume(self) -> None:
        if self._channel is not None:
            self._channel.resume_reading()
