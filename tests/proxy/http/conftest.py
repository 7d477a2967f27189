"""Both ends of a shared connection without sockets: frames in, frames and calls out."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.core.retry import Failure, Verdict
from proxy.http.exchange import Exchange
from proxy.http.head import RequestHead, ResponseHead, parse_request
from proxy.http.ledger import Ledger
from proxy.http.streams_client import StreamsClient
from proxy.http.streams_server import StreamsServer
from proxy.model.policy import Timeouts

Frame = tuple[int, int, bytes]


class Transport:
    """Records; takes whatever is written unless ``untaken`` says otherwise."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.writes = 0
        self.untaken = 0
        self.reader: Any = None
        self._is_reading = True
        self.end = ""
        """Or: closed, aborted."""

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.out += data

    def writelines(self, parts: list[Any]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = self.end or "aborted"

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True

    def is_reading(self) -> bool:
        return self._is_reading

    def set_protocol(self, protocol: Any) -> None:
        self.reader = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 7) if name.endswith("name") else default


def frames_of(data: bytes) -> Iterator[Frame]:
    at = 0
    while at < len(data):
        length, number, kind = struct.unpack_from(">IIB", data, at)
        at += 9 + length
        assert at <= len(data), "not a whole frame"
        yield number, kind, data[at - length : at]


class End:
    """One end: what it is given, and what it sends."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.transport = Transport()
        channel.connection_made(self.transport)

    def sent(self) -> list[Frame]:
        """Since the last time it was asked."""
        self.channel._flush()
        found = list(frames_of(bytes(self.transport.out)))
        self.transport.out.clear()
        return found

    def receive(self, *frames: bytes) -> None:
        self.channel.data_received(b"".join(frames))


@dataclass
class Upstream:
    """The half that answers a request, played by the test."""

    exchange: Any = None
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)
    is_complete: bool = False
    is_cancelled: bool = False
    is_paused: bool = False

    def send(self, exchange: Any) -> None:
        self.exchange = exchange
        self.body = exchange.take_body()
        self.is_complete, self.trailers = exchange.is_request_done, exchange.trailers

    def send_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        assert not self.is_complete
        self.body += data
        self.is_complete, self.trailers = is_end, trailers

    def cancel(self) -> None:
        self.is_cancelled = True

    def pause_response(self) -> None:
        self.is_paused = True

    def resume_response(self) -> None:
        self.is_paused = False


class Handler:
    trusts_flag = True
    authority = b"api"
    subject = "web -> api"

    def __init__(self) -> None:
        self.timeouts = Timeouts()
        self.exchanges: list[Exchange] = []
        self.ups: list[Upstream] = []
        self.finished_ones: list[Exchange] = []
        self.dispatched: Callable[[Exchange], None] | None = None

    def dispatch(self, exchange: Exchange) -> None:
        exchange.timeouts = self.timeouts
        self.exchanges.append(exchange)
        if self.dispatched is not None:
            self.dispatched(exchange)
            return
        up = Upstream()
        self.ups.append(up)
        exchange.attach(up)

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        return False

    def finished(self, exchange: Exchange) -> None:
        self.finished_ones.append(exchange)


class Server(End):
    """The called proxy's end."""

    channel: StreamsServer

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.ledger = Ledger(100, self.refusals.append)
        self.handler = Handler()
        super().__init__(StreamsServer(self.ledger, self.handler))

    @property
    def ups(self) -> list[Upstream]:
        return self.handler.ups


@dataclass
class Downstream:
    """The half that asks, played by the test."""

    head: ResponseHead | None = None
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)
    informed: list[int] = field(default_factory=list)
    is_complete: bool = False
    is_abandoned: bool = False
    is_paused: bool = False

    @property
    def status(self) -> int:
        return self.head.status if self.head is not None else 0

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None:
        assert self.head is None
        self.head = head
        self.respond_data(data, is_end, [])

    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None:
        assert not self.is_complete
        self.body += data
        self.is_complete, self.trailers = is_end, trailers

    def respond_whole(self, head: ResponseHead, data: bytes, trailers: list[bytes]) -> None:
        self.respond(head, data, False)
        self.respond_data(b"", True, trailers)

    def inform(self, head: ResponseHead) -> None:
        self.informed.append(head.status)

    def abandon(self) -> None:
        self.is_abandoned = True

    def pause_request(self) -> None:
        self.is_paused = True

    def resume_request(self) -> None:
        self.is_paused = False

    def client(self) -> bytes:
        return b""


class Pool:
    def __init__(self) -> None:
        self.ended = 0
        self.is_lost = False

    def connected_shared(self, connection: StreamsClient) -> None:
        pass

    def stream_ended(self, connection: StreamsClient) -> None:
        self.ended += 1

    def lost_shared(self, connection: StreamsClient) -> None:
        self.is_lost = True


@dataclass
class Failed:
    failure: Failure
    has_begun: bool
    is_reused: bool


class Recorded(Exchange):
    """Also notes how its tries failed."""

    __slots__ = ("failures",)

    failures: list[Failed]

    def upstream_failed(
        self, failure: Failure, detail: str, *, has_begun: bool = False, is_reused: bool = False
    ) -> None:
        self.failures.append(Failed(failure, has_begun, is_reused))
        super().upstream_failed(failure, detail, has_begun=has_begun, is_reused=is_reused)


class Client(End):
    """The calling proxy's end."""

    channel: StreamsClient

    def __init__(self) -> None:
        self.pool = Pool()
        self.errors: list[str] = []
        self.ledger = Ledger(100, lambda _: None, self.errors.append)
        self.handler = Handler()
        super().__init__(StreamsClient(self.pool))
        self.handler.dispatched = self.channel.open

    def ask(
        self,
        body: bytes = b"",
        *,
        is_end: bool = True,
        trailers: tuple[bytes, ...] = (),
        block: bytes = b"GET / HTTP/1.1\r\nhost: api",
    ) -> tuple[Downstream, Any]:
        head: RequestHead = parse_request(block)
        down = Downstream()
        exchange = Recorded(down, head, self.handler, self.ledger)
        exchange.failures = []
        exchange.begin(body, is_end, list(trailers))
        return down, exchange


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def client() -> Client:
    return Client()


@pytest.fixture
def ends() -> tuple[type[Client], type[Server]]:
    """To make several, inside a running loop."""
    return Client, Server
