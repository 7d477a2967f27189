"""The proxy's own HTTP/2 client, against servers whose HTTP/2 is not ours."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded

from proxy.http.head import CHUNKED, RequestHead
from proxy.model.settings import Address, HealthCheck
from proxy.net.exchange import Disconnected, ExchangeError, NotHttp
from proxy.net.health import probe
from proxy.net.http2_question import Answer, ask

OK = [(":status", "200"), ("x-a", "1")]
Script = Callable[[H2Connection, int], None]


class Server(asyncio.Protocol):
    """Runs ``script`` when a request has come to its end."""

    def __init__(self, script: Script, seen: list[Any]) -> None:
        self._script, self._seen = script, seen
        self._http = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._body = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._http.initiate_connection()
        transport.write(self._http.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._http.receive_data(data):
            self._event(event)
        self._transport.write(self._http.data_to_send())

    def _event(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self._seen.append(dict(event.headers))
        elif isinstance(event, DataReceived):
            self._body += event.data
        elif isinstance(event, StreamEnded):
            self._seen.append(self._body)
            self._script(self._http, event.stream_id)


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[tuple[int, list[Any]]]:
    """A port, and what comes there: the fields of a request and its body."""
    seen: list[Any] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Server(script, seen), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


def head(method: bytes = b"GET", target: bytes = b"/h") -> RequestHead:
    made = RequestHead(method, target, b"app:80", False)
    made.lines = [b"user-agent: meshctl-health"]
    return made


async def asked(script: Script, *, limit: int = 100, head_only: bool = False) -> Answer:
    async with serving(script) as (port, _), asyncio.timeout(5):
        return await ask("127.0.0.1", port, head(), max_body_bytes=limit, head_only=head_only)


def answers(*parts: bytes, trailers: bool = False) -> Script:
    def script(http: H2Connection, number: int) -> None:
        http.send_headers(number, OK)
        for part in parts:
            http.send_data(number, part)
        if trailers:
            http.send_headers(number, [("x-end", "2")], end_stream=True)
        else:
            http.end_stream(number)

    return script


async def test_a_question_is_answered_with_head_body_and_trailers() -> None:
    async with serving(answers(b"one", b"two", trailers=True)) as (port, seen), asyncio.timeout(5):
        post = head(b"POST")
        post.length = CHUNKED
        answer = await ask("127.0.0.1", port, post, b"body", max_body_bytes=100)
    assert answer == Answer(status=200, lines=[b"x-a: 1", b"x-end: 2"], body=b"onetwo")
    assert seen == [
        {
            b":method": b"POST",
            b":scheme": b"http",
            b":authority": b"app:80",
            b":path": b"/h",
            b"user-agent": b"meshctl-health",
        },
        b"body",
    ]


async def test_interim_answers_are_passed_over() -> None:
    def script(http: H2Connection, number: int) -> None:
        http.send_headers(number, [(":status", "103"), ("link", "</a>")])
        http.send_headers(number, OK, end_stream=True)

    assert (await asked(script)).status == 200


async def test_the_head_is_enough_where_no_more_is_asked_for() -> None:
    def script(http: H2Connection, number: int) -> None:
        http.send_headers(number, [(":status", "503")])  # and nothing else, for ever

    assert (await asked(script, head_only=True)).status == 503


async def test_an_answer_beyond_the_limit_is_none() -> None:
    assert (await asked(answers(b"x" * 100))).body == b"x" * 100
    with pytest.raises(NotHttp, match="larger than 100 bytes"):
        await asked(answers(b"x" * 60, b"x" * 41))


async def test_a_reset_and_a_goaway_say_which() -> None:
    def resets(http: H2Connection, number: int) -> None:
        http.reset_stream(number, ErrorCodes.REFUSED_STREAM)

    def goes(http: H2Connection, number: int) -> None:
        http.close_connection(ErrorCodes.INADEQUATE_SECURITY, last_stream_id=number)

    with pytest.raises(Disconnected, match="refused the request"):
        await asked(resets)
    with pytest.raises(NotHttp, match="INADEQUATE_SECURITY"):
        await asked(goes)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not HTTP/2"),
        (b"", "closed before an answer"),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", "closed before an answer"),
        # SETTINGS, then a header block with an index that is in no table
        (bytes.fromhex("000000040000000000" "0000010104000000" "01ff"), "not HTTP/2"),
    ],
    ids=["http/1.1", "nothing", "settings-alone", "hpack"],
)  # fmt: skip
async def test_what_is_not_http2_is_no_answer(data: bytes, why: str) -> None:
    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(says, "127.0.0.1", 0)
    async with server, asyncio.timeout(5):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ExchangeError, match=why):
            await ask("127.0.0.1", port, head(), max_body_bytes=100)


async def test_nobody_there_is_no_connection(unused_tcp_port: int) -> None:
    with pytest.raises(Disconnected, match="refused"):
        await ask("127.0.0.1", unused_tcp_port, head(), max_body_bytes=1)


@pytest.mark.parametrize("protocol", ["http2", "grpc"])
@pytest.mark.parametrize(("status", "is_well"), [("204", True), ("302", True), ("404", False)])
async def test_an_application_of_http2_is_asked_for_a_path_over_http2(
    protocol: Any, status: str, is_well: bool
) -> None:
    def script(http: H2Connection, number: int) -> None:
        http.send_headers(number, [(":status", status)], end_stream=True)

    check = HealthCheck(kind="http", path="/healthz", timeout_s=5.0)
    async with serving(script) as (port, seen):
        failure = await probe(Address(host="127.0.0.1", port=port), check, protocol)
    assert failure == (None if is_well else "GET /healthz answered 404")
    assert seen[0][b":path"] == b"/healthz"
    assert seen[0][b":authority"] == f"127.0.0.1:{port}".encode()


async def test_an_application_that_is_silent_is_not_waited_for() -> None:
    check = HealthCheck(kind="http", timeout_s=0.2)
    async with serving(lambda *_: None) as (port, _):
        failure = await probe(Address(host="127.0.0.1", port=port), check, "http2")
    assert failure == f"no answer from 127.0.0.1:{port} within 0.2 s"
