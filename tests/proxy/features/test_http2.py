"""HTTP/2 through two proxies, with ends made of the h2 library: versions, ends, pressure."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h2.settings
import pytest
from h2.errors import ErrorCodes
from h2_ends import H2App, H2AppConnection, H2Client, Message, connect

from proxy.model.names import ServiceName
from proxy.model.policy import ServicePolicy
from proxy.model.settings import Address, Capacity, HealthCheck, Upstream, Workload

MIB = 1024 * 1024


class Ends:
    """``api2`` speaks HTTP/2, ``api`` HTTP/1.1; callers may use either for both."""

    def __init__(self, grid: Any) -> None:
        self.grid = grid
        self.app = H2App()
        self.clients: list[H2Client] = []

    async def start(self) -> None:
        await self.app.start()
        await self.grid.start()
        self.old = await self.grid.serve("api", "a1")
        await self.grid.serve("api2", "p1", protocol="http2", port=self.app.port)
        self.grid.apply()

    def address(self, service: str = "api2") -> Any:
        near = self.grid.planes["near"]
        return near.outbound_address(ServiceName("web"), ServiceName(service))

    async def client(
        self, service: str = "api2", settings: dict[int, int] | None = None
    ) -> H2Client:
        client = await connect(*self.address(service), settings)
        self.clients.append(client)
        return client

    async def grid_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        for client in self.clients:
            await client.stop()
        await self.app.stop()


@pytest.fixture
async def ends(cold_grid: Any) -> AsyncIterator[Ends]:
    ends = Ends(cold_grid)
    await ends.start()
    yield ends
    await ends.stop()


async def test_all_versions_go_together(ends: Ends) -> None:
    ends.app.answer = lambda request: (200, b"two:" + bytes(request.body), [("x-app", "h2")])
    for service, want in (("api", b"a1"), ("api2", b"two:")):
        old = await ends.grid.connect(service)
        response = await old.get("/")
        assert (response.status, response.body) == (200, want)
        new = await ends.client(service)
        message = await new.fetch("/")
        assert (message.status, bytes(message.body)) == (200, want)
    assert ends.app.requests[-1].get(":path") == "/"
    assert ends.app.requests[-1].get(":authority") == "api"


def body_of(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_535, 65_536, 3 * MIB + 7])
@pytest.mark.parametrize("service", ["api", "api2"])
async def test_bodies_and_trailers_cross_whole_both_ways(
    ends: Ends, service: str, size: int
) -> None:
    body = body_of(size)

    async def script(connection: H2AppConnection, request: Message) -> None:
        await connection.until(lambda: request.is_complete, 10)
        connection.h2.send_headers(request.number, [(":status", "200")])
        await connection.send_body(request.number, bytes(request.body), is_end=False)
        connection.h2.send_headers(request.number, [("x-sum", "2")], end_stream=True)
        connection.flush()

    ends.app.script = script
    ends.old.answer = lambda received: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\nX-Sum: 2\r\n\r\n"
        % (b"%x\r\n%b\r\n" % (len(received.body), received.body) if received.body else b"")
    )
    client = await ends.client(service)
    for _ in range(2):
        message = client.ask("/", "POST", is_end=False)
        await client.send_body(message.number, body, is_end=False)
        client.h2.send_headers(message.number, [("x-sum", "1")], end_stream=True)
        client.flush()
        await client.until(lambda message=message: message.is_over, 10)
        assert (message.status, message.reset) == (200, None)
        assert bytes(message.body) == body
        assert message.trailers == [("x-sum", "2")]
    if service == "api2":
        assert [each.trailers for each in ends.app.requests] == [[("x-sum", "1")]] * 2


async def test_a_length_is_passed_on_and_kept(ends: Ends) -> None:
    ends.app.answer = lambda request: (200, b"four", [("content-length", "4")])
    client = await ends.client()
    message = await client.fetch("/", "POST", body=b"12345", headers=[("content-length", "5")])
    assert message.get("content-length") == "4"
    assert ends.app.requests[0].get("content-length") == "5"


@pytest.mark.parametrize("service", ["api", "api2"])
async def test_answers_without_a_body_end_with_their_head(ends: Ends, service: str) -> None:
    ends.app.answer = lambda request: (
        (204, b"") if request.get(":path") == "/none" else (200, b"", [("content-length", "2")])
    )
    ends.old.answer = lambda received: (
        b"HTTP/1.1 204 No Content\r\n\r\n"
        if received.target == "/none"
        else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    )
    client = await ends.client(service)
    assert (await client.fetch("/none")).status == 204
    message = await client.fetch("/", "HEAD")
    assert (message.status, message.get("content-length"), message.body) == (200, "2", b"")


async def test_many_requests_are_on_one_connection_to_the_application(ends: Ends) -> None:
    opened = asyncio.Event()

    async def script(connection: H2AppConnection, request: Message) -> None:
        await opened.wait()
        connection.answer(request, 200, b"ok")

    ends.app.script = script
    client = await ends.client()
    messages = [client.ask() for _ in range(60)]
    await ends.grid_until(lambda: len(ends.app.heads) == 60)
    assert len(ends.app.connections) == 1
    opened.set()
    await client.until(lambda: all(each.is_complete for each in messages))
    assert {each.status for each in messages} == {200}


async def test_beyond_what_the_application_allows_there_are_more_connections(ends: Ends) -> None:
    opened = asyncio.Event()
    most = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
    ends.app.settings = {most: 10}

    async def script(connection: H2AppConnection, request: Message) -> None:
        await opened.wait()
        connection.answer(request, 200, b"ok")

    ends.app.script = script
    client = await ends.client()
    opened.set()
    await client.fetch()  # now the proxy knows
    opened.clear()
    messages = [client.ask() for _ in range(25)]
    await ends.grid_until(lambda: len(ends.app.heads) == 26)
    assert len(ends.app.connections) == 3
    opened.set()
    await client.until(lambda: all(each.is_complete for each in messages))


async def test_who_gives_up_is_heard_by_the_application(ends: Ends) -> None:
    async def script(connection: H2AppConnection, request: Message) -> None:
        await asyncio.Event().wait()

    ends.app.script = script
    client = await ends.client()
    message = client.ask()
    await ends.grid_until(lambda: ends.app.heads)
    client.reset(message)
    await ends.grid_until(lambda: ends.app.heads[0].reset)
    assert ends.app.heads[0].reset == ErrorCodes.CANCEL
    await ends.grid_until(lambda: not ends.grid.planes["p1"].requests_in_flight)
    assert ends.grid.metric("near", "istio_requests_total", response_flags="DC") == 1


async def test_a_stream_that_the_application_resets_is_a_502(ends: Ends) -> None:
    async def script(connection: H2AppConnection, request: Message) -> None:
        connection.h2.reset_stream(request.number, ErrorCodes.INTERNAL_ERROR)
        connection.flush()

    ends.app.script = script
    client = await ends.client()
    message = await client.fetch(method="POST", body=b"x")
    assert message.status == 502
    assert b"INTERNAL_ERROR" in message.body


async def test_an_answer_that_is_broken_off_resets_the_stream(ends: Ends) -> None:
    async def script(connection: H2AppConnection, request: Message) -> None:
        connection.h2.send_headers(request.number, [(":status", "200")])
        connection.h2.send_data(request.number, b"half")
        connection.flush()
        await asyncio.sleep(0)
        connection.writer.transport.abort()

    ends.app.script = script
    client = await ends.client()
    message = await client.fetch()
    assert (message.status, message.reset) == (200, ErrorCodes.INTERNAL_ERROR)
    ends.app.script = None
    assert (await client.fetch()).status == 200


async def test_what_the_application_has_refused_is_tried_again(ends: Ends) -> None:
    async def script(connection: H2AppConnection, request: Message) -> None:
        if len(ends.app.heads) == 1:
            connection.h2.reset_stream(request.number, ErrorCodes.REFUSED_STREAM)
            connection.flush()
        else:
            connection.answer(request, 200, b"ok")

    ends.app.script = script
    client = await ends.client()
    message = await client.fetch(method="POST", body=b"x")
    assert (message.status, len(ends.app.heads)) == (200, 2)


async def test_a_goaway_of_the_application_fails_no_request(ends: Ends) -> None:
    async def script(connection: H2AppConnection, request: Message) -> None:
        if request.get(":path") == "/go" and request.get("x-try") not in told:
            told.add(request.get("x-try"))
            connection.h2.close_connection(last_stream_id=request.number)
            connection.flush()
        await asyncio.sleep(0)
        connection.go_on()
        connection.answer(request, 200, b"ok")

    told: set[str | None] = set()
    ends.app.script = script
    client = await ends.client()
    for turn in range(6):
        messages = [
            client.ask("/go" if at == 3 else "/", "POST", body=b"x", headers=[("x-try", f"{turn}")])
            for at in range(10)
        ]
        await client.until(lambda messages=messages: all(each.is_over for each in messages))
        assert {each.status for each in messages} == {200}
    assert len(ends.app.connections) > 3


async def test_a_client_waits_for_100_through_both_proxies(ends: Ends) -> None:
    async def script(connection: H2AppConnection, request: Message) -> None:
        connection.h2.send_headers(request.number, [(":status", "100")])
        connection.flush()
        await connection.until(lambda: request.is_complete)
        connection.answer(request, 200, bytes(request.body))

    ends.app.script = script
    client = await ends.client()
    message = client.ask(
        "/", "POST", headers=[("expect", "100-continue"), ("content-length", "4")], is_end=False
    )
    await client.until(lambda: message.interim)
    assert message.interim == [[(":status", "100")]]
    await client.send_body(message.number, b"body")
    await client.until(lambda: message.is_over)
    assert (message.status, bytes(message.body)) == (200, b"body")


@pytest.mark.parametrize("service", ["api", "api2"])
async def test_an_answer_before_the_end_of_the_request_is_whole(ends: Ends, service: str) -> None:
    async def script(connection: H2AppConnection, request: Message) -> None:
        connection.answer(request, 403, b"no")

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    ends.app.script, ends.old.script = script, old
    client = await ends.client(service)
    message = client.ask("/", "POST", is_end=False)
    await client.until(lambda: message.reset is not None)
    assert (message.status, bytes(message.body)) == (403, b"no")
    assert (message.is_complete, message.reset) == (True, ErrorCodes.NO_ERROR)


async def test_a_refusal_of_the_proxy_says_why(ends: Ends) -> None:
    await ends.app.stop()
    client = await ends.client()
    message = await client.fetch()
    assert (message.status, message.get("x-mesh-flag")) == (503, "UF")
    assert message.get("content-type") == "text/plain; charset=utf-8"


async def test_one_port_for_all_goes_by_authority(ends: Ends) -> None:
    near = ends.grid.planes["near"]
    client = await connect(*near.hosts_address(ServiceName("web")))
    ends.clients.append(client)
    assert (await client.fetch(authority="api2.mesh")).body == b"ok"
    assert (await client.fetch(authority="api.mesh")).body == b"a1"
    message = await client.fetch(authority="nobody.mesh")
    assert (message.status, message.get("x-mesh-flag")) == (404, "NR")


async def test_an_application_that_does_not_speak_http2_is_said_so(ends: Ends) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await ends.grid.serve("orders", "o1", protocol="http2", port=port)
    ends.grid.apply()
    client = await ends.client("orders")
    message = await client.fetch(method="POST", body=b"x")
    assert (message.status, message.get("x-mesh-flag")) == (503, "UF")
    assert b"not HTTP/2" in message.body
    server.close()


async def test_a_drain_under_load_fails_no_request(ends: Ends) -> None:
    async def script(connection: H2AppConnection, request: Message) -> None:
        await asyncio.sleep(0.01)
        connection.answer(request, 200, b"ok")

    ends.app.script = script
    statuses: list[int] = []
    is_over = False

    async def load() -> None:
        client = await ends.client()
        while not is_over:
            if client.goaways:
                with contextlib.suppress(ConnectionRefusedError):
                    client = await ends.client()
                await asyncio.sleep(0.01)
                continue
            message = client.ask("/", "POST", body=b"x")
            await client.until(lambda message=message: message.is_over)
            statuses.append(message.status)

    await ends.grid.serve("api2", "p2", protocol="http2", port=ends.app.port)
    ends.grid.apply()
    tasks = [asyncio.create_task(load()) for _ in range(4)]
    await ends.grid_until(lambda: len(statuses) > 20)
    # The far one goes, then the near one.
    far = asyncio.create_task(ends.grid.planes["p1"].drain(20))
    before = len(statuses)
    await ends.grid_until(lambda: len(statuses) > before + 50)
    ends.grid.deregister("p1")
    ends.grid.apply()
    assert await asyncio.wait_for(far, 20)
    near = asyncio.create_task(ends.grid.planes["near"].drain(20))
    await ends.grid_until(lambda: all(client.goaways for client in ends.clients))
    is_over = True
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
        assert await near
    assert set(statuses) == {200}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("service", ["api", "api2"])
async def test_a_reader_that_stands_still_stops_the_sender(ends: Ends, service: str) -> None:
    sent = 0
    piece = bytes(MIB)

    async def script(connection: H2AppConnection, request: Message) -> None:
        nonlocal sent
        connection.h2.send_headers(request.number, [(":status", "200")])
        for _ in range(256):
            await connection.send_body(request.number, piece, is_end=False)
            sent += MIB
        connection.h2.end_stream(request.number)
        connection.flush()

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (256 * MIB))
        for _ in range(256):
            writer.write(piece)
            await writer.drain()
            sent += MIB

    ends.app.script, ends.old.script = script, old
    client = await ends.client(service)
    client.is_reading = False
    client.h2.increment_flow_control_window(MIB)  # of the connection: only the stream stands still
    before = resident_bytes()
    message = client.ask()
    await client.until(lambda: len(message.body) >= 65_535)
    still = -1
    while still != sent:  # until nothing moves any more
        still = sent
        await asyncio.sleep(0.3)
    assert len(message.body) == 65_535
    assert sent < 16 * MIB
    assert resident_bytes() - before < 32 * MIB
    # A small request on the same connection is not held up.
    ends.app.script = ends.old.script = None
    assert (await client.fetch()).status == 200
    # And the rest comes when it is read.
    client.is_reading = True
    client.h2.increment_flow_control_window(MIB, message.number)
    client.h2.acknowledge_received_data(65_535, message.number)
    client.flush()
    most = 0

    def is_done() -> bool:
        nonlocal most
        most = max(most, resident_bytes())
        received = len(message.body)
        if received > MIB:
            total.append(received)
            message.body.clear()
        return message.is_complete

    total: list[int] = []
    await client.until(is_done, 60)
    assert sum(total) + len(message.body) == 256 * MIB
    assert most - before < 48 * MIB


@pytest.mark.parametrize("service", ["api", "api2"])
async def test_an_application_that_does_not_read_stops_the_client(ends: Ends, service: str) -> None:
    opened = asyncio.Event()
    received = 0

    async def script(connection: H2AppConnection, request: Message) -> None:
        nonlocal received
        connection.is_reading = False
        await opened.wait()
        connection.is_reading = True
        connection.h2.acknowledge_received_data(65_535, request.number)
        connection.flush()
        await connection.until(lambda: request.is_complete, 60)
        received = len(request.body)
        connection.answer(request, 200, b"ok")

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"\r\n\r\n")
        await opened.wait()
        while received < 64 * MIB:
            received += len(await reader.read(MIB))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    ends.app.script, ends.old.script = script, old
    client = await ends.client(service)
    message = client.ask("/", "POST", headers=[("content-length", f"{64 * MIB}")], is_end=False)
    sending = asyncio.create_task(client.send_body(message.number, bytes(64 * MIB)))
    window = -1
    while window != client.h2.outbound_flow_control_window or window == 65_535:
        window = client.h2.outbound_flow_control_window
        await asyncio.sleep(0.3)
    assert not sending.done()
    opened.set()
    await asyncio.wait_for(sending, 60)
    await client.until(lambda: message.is_over, 60)
    assert (message.status, received) == (200, 64 * MIB)


KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class Tunnels:
    """An application of either version that grants WebSocket, sends ``hello`` and echoes."""

    def __init__(self, ends: Ends) -> None:
        self.keys: list[bytes] = []
        self.early = b""
        """What had come behind the handshake when it was granted."""
        ends.app.script, ends.old.script = self._new, self._old
        ends.app.settings = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}

    async def _old(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /chat HTTP/1.1\r\n")
        key = next(line for line in head.split(b"\r\n") if line.startswith(b"sec-websocket-key: "))
        self.keys.append(key[19:])
        with contextlib.suppress(TimeoutError):
            self.early = await asyncio.wait_for(reader.read(100), 0.1)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\nhello"
        )
        while data := await reader.read(100):
            writer.write(data)

    async def _new(self, connection: H2AppConnection, request: Message) -> None:
        assert request.get(":method") == "CONNECT"
        assert request.get(":protocol") == "websocket"
        assert request.get("sec-websocket-key") is None
        connection.h2.send_headers(request.number, [(":status", "200")])
        connection.h2.send_data(request.number, b"hello")
        connection.flush()
        at = 0
        while request.reset is None and not (request.is_complete and at == len(request.body)):
            await connection.until(lambda at=at: len(request.body) > at or request.is_over, 10)
            if request.reset is not None:
                break
            connection.h2.send_data(request.number, bytes(request.body[at:]))
            at = len(request.body)
            connection.flush()
        if request.reset is None:
            connection.h2.end_stream(request.number)
            connection.flush()


@pytest.mark.parametrize("service", ["api", "api2"])
async def test_a_websocket_over_http2_to_either_version(ends: Ends, service: str) -> None:
    tunnels = Tunnels(ends)
    client = await ends.client(service)
    message = client.ask("/chat", "CONNECT", protocol="websocket", is_end=False)
    client.h2.send_data(message.number, b"early")
    client.flush()
    await client.until(lambda: bytes(message.body) == b"helloearly")
    assert message.status == 200
    assert message.get("sec-websocket-accept") is None
    assert tunnels.early == b""
    assert all(len(base64.b64decode(key)) == 16 for key in tunnels.keys)
    client.h2.send_data(message.number, b"more")
    client.h2.end_stream(message.number)
    client.flush()
    await client.until(lambda: message.is_complete)
    assert bytes(message.body) == b"helloearlymore"
    await ends.grid_until(lambda: not ends.grid.planes["near"].requests_in_flight)


async def test_a_websocket_of_http1_to_an_application_of_http2(ends: Ends) -> None:
    Tunnels(ends)
    client = await ends.grid.connect("api2")
    client.send(
        b"GET /chat HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY.encode() + b"\r\n\r\n"
    )
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nsec-websocket-accept: " + ACCEPT.encode() + b"\r\n" in head
    assert await client.reader.readexactly(5) == b"hello"
    client.send(b"echo")
    assert await asyncio.wait_for(client.reader.readexactly(4), 5) == b"echo"
    client.writer.write_eof()
    assert await client.is_closed()


async def test_a_websocket_is_refused_where_the_application_does_not_know_how(ends: Ends) -> None:
    client = await ends.client()
    message = client.ask("/chat", "CONNECT", protocol="websocket", is_end=False)
    await client.until(lambda: message.is_over)
    assert message.status == 502
    assert not ends.app.heads


async def test_a_refused_websocket_is_an_ordinary_answer(ends: Ends) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

    ends.old.script = script
    client = await ends.client("api")
    message = client.ask("/chat", "CONNECT", protocol="websocket", is_end=False)
    await client.until(lambda: message.is_over)
    assert (message.status, bytes(message.body)) == (403, b"no")


def tls(ends: Ends, *protocols: str) -> ssl.SSLContext:
    """Of the workload web."""
    identity = ends.grid.pki.state_dir / "identities" / "web" / "current"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(ends.grid.pki.trust_bundle)
    context.load_cert_chain(identity / "chain.pem", identity / "key.pem")
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


async def test_a_peer_that_is_not_ours_may_speak_http2_over_mtls(ends: Ends) -> None:
    host, port = ends.grid.planes["p1"].inbound_address()
    client = H2Client(
        *await asyncio.open_connection(
            host, port, ssl=tls(ends, "h2", "http/1.1"), server_hostname="api2.mesh.test"
        )
    )
    ends.clients.append(client)
    tls_object = client.writer.get_extra_info("ssl_object")
    assert tls_object.selected_alpn_protocol() == "h2"
    client.begin()
    message = await client.fetch("/", "POST", body=b"x" * 100_00)
    assert (message.status, bytes(message.body)) == (200, b"ok")
    assert "spiffe://mesh.test/svc/web" in (
        ends.app.requests[0].get("x-forwarded-client-cert") or ""
    )


async def test_one_that_speaks_both_versions_of_ours_gets_ours(ends: Ends) -> None:
    host, port = ends.grid.planes["p1"].inbound_address()
    for offered, chosen in (
        (("mesh/1", "http/1.1"), "mesh/1"),
        (("h2", "mesh/1"), "mesh/1"),
        (("http/1.1",), "http/1.1"),
        ((), None),
    ):
        _, writer = await asyncio.open_connection(
            host, port, ssl=tls(ends, *offered), server_hostname="api2.mesh.test"
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
        writer.transport.abort()


async def test_callers_without_an_identity_may_speak_http2(ends: Ends) -> None:
    await ends.grid.serve("orders", "o1", has_plaintext=True)
    ends.grid.apply()
    client = await connect(*ends.grid.planes["o1"].plaintext_address(ServiceName("orders")))
    ends.clients.append(client)
    message = await client.fetch()
    assert (message.status, message.get("x-mesh-flag")) == (403, "UAEX")
    ends.grid.policy["orders"] = ServicePolicy(mode="permissive")
    ends.grid.apply()
    assert (await client.fetch()).body == b"o1"


async def test_a_process_of_another_user_is_told_why_in_http2(ends: Ends) -> None:
    workload = Workload(
        service=ServiceName("web"),
        protocol="http",
        version="1",
        app=Address(host="127.0.0.1", port=1),
        health=HealthCheck(),
        allow=(),
        upstreams=(Upstream(service=ServiceName("api"), protocol="http"),),
        outbound=Address(host="127.0.0.1", port=0),
        user="nobody",
    )
    plane = await ends.grid._add("local", (workload,))
    ends.grid.apply()
    client = await connect(*plane.hosts_address(ServiceName("web")))
    message = await client.fetch(authority="api.mesh")
    assert (message.status, message.get("x-mesh-flag")) == (403, "UAEX")
    assert b"may not call as web" in message.body
    guard = plane._guards.of(ServiceName("web"))
    assert guard.explaining == 1
    await client.stop()
    await ends.grid_until(lambda: guard.explaining == 0)


async def test_the_preface_counts_only_where_a_connection_begins(ends: Ends) -> None:
    client = await ends.grid.connect()
    assert (await client.get()).status == 200
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (await client.response()).status == 400


async def test_a_preface_may_come_byte_by_byte(ends: Ends) -> None:
    client = H2Client(*await asyncio.open_connection(*ends.address()))
    ends.clients.append(client)
    client.h2.initiate_connection()
    for byte in client.h2.data_to_send():
        client.writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    client.task = asyncio.create_task(client._read())
    assert (await client.fetch()).status == 200
    assert len(ends.grid.planes["near"]._outbound_ledger.connections) == 1


async def test_beyond_the_limit_of_connections_each_request_is_refused(cold_grid: Any) -> None:
    cold_grid.capacity = Capacity(connections=1)
    ends = Ends(cold_grid)
    await ends.start()
    first = await ends.client()
    assert (await first.fetch()).status == 200
    second = await ends.client()
    message = await second.fetch()
    assert (message.status, message.get("x-mesh-flag")) == (503, "OM")
    assert (await first.fetch()).status == 200
    await ends.stop()


async def test_bad_http2_is_counted_and_the_others_go_on(ends: Ends) -> None:
    good = await ends.client()
    bad = await ends.client()
    bad.writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x01")  # SETTINGS of a stream
    await bad.until(lambda: bad.goaways)
    assert bad.goaways[0][1] == ErrorCodes.PROTOCOL_ERROR
    await bad.closed()
    assert (await good.fetch()).status == 200
    await ends.grid_until(lambda: len(ends.grid.planes["near"]._outbound_ledger.connections) == 1)
