"""The caller of gRPC streams: how many messages got through, and whether each stream ended well.

Run as a program (``python -m benchkit.streaming_load PORT MODE CONNECTIONS STREAMS SECONDS``),
where ``STREAMS`` are those of each connection; one line of JSON is its answer. In the process of
the benchmark itself: ``answers`` and ``held``.
"""

import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchkit import wire
from benchkit.contestants import CALLED, ROUTING_HEADER
from benchkit.processes import Failed
from benchkit.streaming_app import ECHO, FLOOD, IDLE, MESSAGE_BYTES
from benchkit.streams import Connection, Stream

MODES = {"flood": FLOOD, "echo": ECHO}
METHODS = 16
"""Different ones, in turn."""

_CONNECT_S = 5.0
_GRACE_S = 10.0
_PREFIX_BYTES = 5
_WHOLE_BYTES = MESSAGE_BYTES + _PREFIX_BYTES


def path(number: int) -> str:
    """The dot is for nghttpd, which takes the content type from what is behind it."""
    return f"{CALLED}/Get{number % METHODS}.grpc"


def request(number: int) -> bytes:
    """The header block of a call, as gRPC clients send it."""
    return wire.block(
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path(number)),
            (":authority", "api"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-bench/1"),
            (ROUTING_HEADER, "t1"),
        ]
    )


class Calling(Connection):
    def __init__(self, one: socket.socket) -> None:
        super().__init__(one, is_client=True)
        self._next = 1
        self.is_echoing = False
        self.whole_bytes = _WHOLE_BYTES
        """What comes back on a stream is so many times this."""
        self.sent = self.received_bytes = self.ended = 0
        self.wrong: list[str] = []
        self._answered: set[int] = set()
        self._is_over = False

    @property
    def answered(self) -> int:
        """Streams whose first message is there."""
        return len(self._answered)

    def call(self, mode: bytes, size: int = MESSAGE_BYTES) -> None:
        number = self._next
        self._next += 2
        stream = self.begin(number)
        self.headers(number, request(number // 2))
        self.send(number, stream, wire.message(size, mode))
        self.sent += 1

    def end(self) -> None:
        """Nothing more will be said on any stream."""
        self._is_over = True
        for number, stream in list(self.streams.items()):
            self.finish(number, stream)

    def on_finished(self, number: int, stream: Stream) -> None:
        self.write(wire.frame(wire.DATA, wire.END_STREAM, number))

    def on_headers(self, number: int, block: bytes, *, is_end: bool) -> None:
        if not is_end:
            if not wire.is_200(block):
                self.wrong.append("another status than 200")
            return
        stream = self.streams.pop(number)
        self.ended += 1
        if not wire.is_grpc_ok(block):
            self.wrong.append("a call failed")
        elif stream.received % self.whole_bytes:
            self.wrong.append("a message was not whole")
        elif not self._is_over:
            self.wrong.append("a stream ended early")

    def on_data(self, number: int, stream: Stream, payload: bytes, *, is_end: bool) -> None:
        self.received_bytes += len(payload)
        if stream.received % self.whole_bytes == 0:
            self._answered.add(number)
            if self.is_echoing and not self._is_over:
                self.send(number, stream, _ECHOED)
                self.sent += 1
        if is_end:
            self.streams.pop(number, None)
            self.wrong.append("a stream ended without trailers")

    def on_reset(self, number: int, code: int) -> None:
        self.wrong.append(f"a stream was reset, code {code}")


_ECHOED = wire.message(MESSAGE_BYTES, ECHO)


def answers(port: int) -> str:
    """Empty if a call of one message is answered with one, else what happened instead."""
    try:
        with ExitStack() as cleanup:
            (one,) = _connected(cleanup, port, 1)
            one.whole_bytes = 1
            one.call(IDLE, 100)
            _ended([one])
            return "" if one.received_bytes else "no message came back"
    except (Failed, OSError) as error:
        return str(error)


@contextmanager
def held(port: int, *, connections: int, streams: int) -> Iterator[None]:
    """``streams`` on each of the connections, each after one message either way; they end well
    with the context. Raises Failed if one does not."""
    with ExitStack() as cleanup:
        calling = _connected(cleanup, port, connections)
        for one in calling:
            for _ in range(streams):
                one.call(IDLE, 100)
            # One after the other: what is asked for is that they are held, not a rush.
            _answered(one, streams)
        yield
        _ended(calling)


def run(port: int, mode: str, connections: int, streams: int, seconds: float) -> dict[str, object]:
    with ExitStack() as cleanup:
        calling = _connected(cleanup, port, connections)
        for one in calling:
            one.is_echoing = mode == "echo"
            for _ in range(streams):
                one.call(MODES[mode])
        began = time.monotonic()
        _loop(calling, until=lambda: time.monotonic() > began + seconds)
        _ended(calling)
        took = time.monotonic() - began
        received = sum(one.received_bytes for one in calling) // _WHOLE_BYTES
    return {
        "sent": sum(one.sent for one in calling),
        "received": received,
        "duration_s": took,
    }


def _connected(cleanup: ExitStack, port: int, count: int) -> list[Calling]:
    found = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), _CONNECT_S)
        found.append(Calling(cleanup.enter_context(one)))
    return found


def _answered(one: Calling, streams: int) -> None:
    """Waits for the first message of each. Raises Failed."""
    _loop([one], until=lambda: one.answered == streams, deadline=time.monotonic() + _GRACE_S)


def _ended(calling: Sequence[Calling]) -> None:
    """Ends all streams and waits for their trailers. Raises Failed."""
    for one in calling:
        one.end()
    _loop(
        calling,
        until=lambda: not any(one.streams for one in calling),
        deadline=time.monotonic() + _GRACE_S,
    )


def _loop(
    calling: Sequence[Calling], *, until: Callable[[], bool], deadline: float | None = None
) -> None:
    """Raises Failed for whatever goes wrong, and at the deadline."""
    with selectors.DefaultSelector() as selector:
        for one in calling:
            one.flush()
            selector.register(one.socket, _wanted(one), one)
        while not until():
            if deadline is not None and time.monotonic() > deadline:
                raise Failed(f"{sum(len(one.streams) for one in calling)} streams did not end")
            for key, events in selector.select(0.1):
                one = key.data
                try:
                    if events & selectors.EVENT_READ and not one.read():
                        raise Failed("a connection was closed")
                    one.flush()
                except (OSError, wire.Broken) as error:
                    raise Failed(f"a connection broke: {error}") from error
                if one.wrong:
                    raise Failed(f"{len(one.wrong)} x {one.wrong[0]}")
                if (wanted := _wanted(one)) != key.events:
                    selector.modify(one.socket, wanted, one)


def _wanted(one: Calling) -> int:
    return selectors.EVENT_READ | (selectors.EVENT_WRITE if one.has_waiting else 0)


if __name__ == "__main__":
    _, *_words = sys.argv
    try:
        _counted = run(
            int(_words[0]), _words[1], int(_words[2]), int(_words[3]), seconds=float(_words[4])
        )
    except Failed as failed:
        sys.exit(str(failed))
    print(json.dumps(_counted))
