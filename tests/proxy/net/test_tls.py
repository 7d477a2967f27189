"""Both ends of mTLS: who is let in, who is believed, and what the metrics say of the others."""

import asyncio
import datetime
import random
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from proxy.net import tls
from proxy.net.tls import TlsTransport

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
HOUR = datetime.timedelta(hours=1)


def client_context(mesh: Any, identity: Path | None, bundle: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(bundle or mesh.pki.trust_bundle))
    context.check_hostname = False
    if identity is not None:
        context.load_cert_chain(identity / "chain.pem", identity / "key.pem")
    return context


async def call_inbound(mesh: Any, context: ssl.SSLContext, name: str = "api.mesh.test") -> bytes:
    """What a client of its own making gets from the far side's inbound port."""
    host, port = mesh.planes["far"].inbound_address()
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    try:
        writer.write(GET)
        data = await asyncio.wait_for(reader.read(65536), 5)
        if not data:
            raise ConnectionError("closed without an answer")
        return data
    finally:
        writer.transport.abort()


async def test_a_client_with_an_identity_of_the_mesh_is_served(mesh: Any) -> None:
    context = client_context(mesh, mesh.pki.issue("web"))
    assert b"200 OK" in await call_inbound(mesh, context)


async def test_only_tls_1_3_is_spoken(mesh: Any) -> None:
    context = client_context(mesh, mesh.pki.issue("web"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call_inbound(mesh, context)


@pytest.mark.parametrize("name", ["web.mesh.test", "nobody.mesh.test", "api", "api.mesh.test."])
async def test_a_server_name_that_is_not_here_ends_the_handshake(mesh: Any, name: str) -> None:
    context = client_context(mesh, mesh.pki.issue("web"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call_inbound(mesh, context, name)
    assert mesh.metric("far", "mesh_inbound_tls_failures_total", reason="server_name") == 1


async def test_a_client_without_a_certificate_is_refused(mesh: Any) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call_inbound(mesh, client_context(mesh, None))
    assert mesh.metric("far", "mesh_inbound_tls_failures_total", reason="no_certificate") == 1
    assert mesh.api.requests == []


def foreign(mesh: Any, tmp_path: Path) -> Path:
    """From an issuer of another mesh with the same names."""
    stranger = type(mesh.pki)(tmp_path / "stranger")
    directory: Path = stranger.issue("web")
    return directory


HOSTILE: dict[str, Any] = {
    "expired": {"starts_in": -2 * HOUR, "ends_in": -HOUR},
    "not yet valid": {"starts_in": HOUR, "ends_in": 2 * HOUR},
    "no name": {"uris": ()},
    "two names": {"uris": ("spiffe://mesh.test/svc/web", "spiffe://mesh.test/svc/api")},
    "the name as DNS": {"uris": (), "dns": ("spiffe.mesh.test",)},
    "another domain": {"uris": ("spiffe://other.test/svc/web",)},
    "another path": {"uris": ("spiffe://mesh.test/ns/web",)},
    "a CA": {"is_ca": True},
    "only for servers": {"uses": (Usage.SERVER_AUTH,)},
    "for nothing": {"uses": ()},
    "for something else": {"uses": (x509.oid.ExtendedKeyUsageOID.CODE_SIGNING,)},
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_a_hostile_client_certificate_reaches_nothing(mesh: Any, how: str) -> None:
    context = client_context(mesh, mesh.pki.issue("web", **HOSTILE[how]))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call_inbound(mesh, context)
    assert mesh.api.requests == []
    assert mesh.metric("far", "mesh_inbound_tls_failures_total") == 1


async def test_a_foreign_client_certificate_reaches_nothing(mesh: Any, tmp_path: Path) -> None:
    context = client_context(mesh, foreign(mesh, tmp_path))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await call_inbound(mesh, context)
    assert mesh.metric("far", "mesh_inbound_tls_failures_total", reason="certificate") == 1


async def serve_as(mesh: Any, identity: Path) -> list[bytes]:
    """Puts a server with this certificate in the place of api; what it received, decrypted."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(100))
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity / "chain.pem", identity / "key.pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    mesh.route(extra=(("liar", server.sockets[0].getsockname()[1]),))
    mesh.servers.append(server)
    return received


@pytest.mark.parametrize(
    ("service", "options", "words"),
    [
        ("db", {}, b"the peer is spiffe://mesh.test/svc/db, not spiffe://mesh.test/svc/api"),
        ("api", {"starts_in": -2 * HOUR, "ends_in": -HOUR}, b"has expired"),
        ("api", {"uris": ("spiffe://other.test/svc/api",)}, b"not an identity of a service in"),
        ("api", {"uses": (Usage.CLIENT_AUTH,)}, b"is not valid"),
        ("api", {"is_ca": True}, b"is a CA's"),
    ],
)
async def test_a_server_that_is_not_the_service_gets_not_a_byte(
    mesh: Any, service: str, options: dict[str, Any], words: bytes
) -> None:
    received = await serve_as(mesh, mesh.pki.issue(service, **options))
    client = await mesh.connect()
    response = await client.get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UF")
    assert words in response.body
    assert b"".join(received) == b""


async def test_a_foreign_server_gets_not_a_byte(mesh: Any, tmp_path: Path) -> None:
    stranger = type(mesh.pki)(tmp_path / "stranger")
    received = await serve_as(mesh, stranger.issue("api"))
    client = await mesh.connect()
    response = await client.get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UF")
    assert b"".join(received) == b""


async def test_a_caller_whose_certificate_is_refused_learns_it(mesh: Any) -> None:
    """TLS 1.3 lets the caller finish first: the refusal comes after the request was sent."""
    identity = mesh.planes["near"]._identities.get("web")
    expired = mesh.pki.issue("web", starts_in=-2 * HOUR, ends_in=-HOUR)
    identity.client.load_cert_chain(expired / "chain.pem", expired / "key.pem")
    client = await mesh.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    response = await client.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UF")
    assert b"the peer refused our certificate: certificate expired" in response.body


async def test_plaintext_on_the_mtls_port_is_closed_and_counted(mesh: Any) -> None:
    host, port = mesh.planes["far"].inbound_address()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(GET)
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert mesh.metric("far", "mesh_inbound_tls_failures_total", reason="plaintext") == 1
    assert mesh.planes["far"].open_connections == 0


async def test_a_handshake_that_does_not_end_is_closed_in_time(
    mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT_S", 0.2)
    host, port = mesh.planes["far"].inbound_address()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert mesh.metric("far", "mesh_inbound_tls_failures_total", reason="timeout") == 1
    assert mesh.planes["far"].open_connections == 0


class _Pipe:
    """A transport that keeps what is written; the test carries it across."""

    def __init__(self) -> None:
        self.sent = b""
        self.writes = 0
        self.is_closed = self.is_aborted = False
        self.unsent = 0
        self.reader: Any = None

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.sent += data

    def writelines(self, parts: list[Any]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        pass

    def set_protocol(self, protocol: Any) -> None:
        self.reader = protocol

    def take(self) -> bytes:
        data, self.sent = self.sent, b""
        return data


class _End(asyncio.Protocol):
    """Records."""

    def __init__(self, *, stays_open: bool = True) -> None:
        self.got = b""
        self.is_ended = False
        self.lost: list[Exception | None] = []
        self.stays_open = stays_open

    def data_received(self, data: bytes) -> None:
        self.got += data

    def eof_received(self) -> bool:
        self.is_ended = True
        return self.stays_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Pair:
    """A client and a server over two pipes."""

    def __init__(self, mesh: Any) -> None:
        web = mesh.planes["near"]._identities.get("web")
        api = mesh.planes["far"]._identities.get("api")
        self.pipes = (_Pipe(), _Pipe())
        self.ends = (_End(), _End())
        self.failures: list[str] = []
        failed = lambda reason, _: self.failures.append(reason)  # noqa: E731
        self.client = TlsTransport(
            web.client, lambda _: self.ends[0], failed, server_name="api.mesh.test"
        )
        self.server = TlsTransport(api.server, lambda _: self.ends[1], failed)
        self.client.connection_made(self.pipes[0])
        self.server.connection_made(self.pipes[1])
        for _ in range(4):
            self.carry()
        assert not self.failures

    def carry(self, piece: int = 1 << 30) -> None:
        for pipe, other in zip(self.pipes, (self.server, self.client), strict=True):
            data = pipe.take()
            for at in range(0, len(data), piece):
                other.data_received(data[at : at + piece])

    def read_in_bulk(self) -> list[bytes]:
        """What the server hands on, call by call, once it reads as a relay does."""
        handed: list[bytes] = []
        self.server.read_in_bulk(lambda view: handed.append(bytes(view)))
        return handed

    def feed(self, data: bytes) -> None:
        """As the loop does for the server: into its buffer, as much as there is room."""
        reader = self.pipes[1].reader
        while data:
            room = memoryview(reader.get_buffer(-1))
            size = min(len(room), len(data))
            room[:size] = data[:size]
            data = data[size:]
            reader.buffer_updated(size)


@pytest.mark.parametrize("piece", [1, 7, 4096, 1 << 20])
def test_bytes_arrive_whole_however_they_are_cut(mesh_pair: Pair, piece: int) -> None:
    data = bytes(range(256)) * (20 if piece == 1 else 400)
    mesh_pair.client.write(data)
    mesh_pair.carry(piece)
    assert mesh_pair.ends[1].got == data


def test_parts_are_one_write_and_arrive_in_their_order(mesh_pair: Pair) -> None:
    body = random.Random(1).randbytes(200_000)
    parts = [b"head", memoryview(body)[:16_000], memoryview(body)[16_000:], b"a", b"b"]
    before = mesh_pair.pipes[0].writes
    mesh_pair.client.writelines(parts)
    assert mesh_pair.pipes[0].writes == before + 1
    mesh_pair.carry(10_000)
    assert mesh_pair.ends[1].got == b"head" + body + b"ab"


def test_parts_behind_the_end_go_nowhere(mesh_pair: Pair) -> None:
    mesh_pair.client.write_eof()
    mesh_pair.pipes[0].take()
    mesh_pair.client.writelines([b"late" * 10_000])
    assert mesh_pair.pipes[0].take() == b""


def test_much_is_handed_on_as_a_view_and_little_as_bytes(mesh_pair: Pair) -> None:
    handed: list[bytes] = []
    mesh_pair.server.hand_views(lambda view: handed.append(bytes(view)))
    mesh_pair.client.write(b"little")
    mesh_pair.carry()
    assert (mesh_pair.ends[1].got, handed) == (b"little", [])
    much = random.Random(2).randbytes(100_000)
    mesh_pair.client.write(much)
    mesh_pair.carry()
    assert (mesh_pair.ends[1].got, handed) == (b"little", [much])
    mesh_pair.server.set_protocol(mesh_pair.ends[1])
    mesh_pair.client.write(much)
    mesh_pair.carry()
    assert mesh_pair.ends[1].got == b"little" + much


def test_one_direction_ends_and_the_other_goes_on(mesh_pair: Pair) -> None:
    mesh_pair.client.write(b"question")
    mesh_pair.client.write_eof()
    mesh_pair.carry(5)
    assert mesh_pair.ends[1].got == b"question"
    assert mesh_pair.ends[1].is_ended
    answer = b"answer" * 20_000
    mesh_pair.server.write(answer)
    mesh_pair.carry(1000)
    assert mesh_pair.ends[0].got == answer
    assert [end.is_ended for end in mesh_pair.ends] == [False, True]
    mesh_pair.server.write_eof()
    mesh_pair.carry()
    assert [end.is_ended for end in mesh_pair.ends] == [True, True]
    assert all(pipe.is_closed for pipe in mesh_pair.pipes)


def test_a_direction_may_end_in_the_middle_of_a_record_from_the_other(mesh_pair: Pair) -> None:
    """OpenSSL looks for the peer's end as it sends its own: it must not eat half a record."""
    mesh_pair.server.write(b"x" * 10_000)
    wire = mesh_pair.pipes[1].take()
    mesh_pair.client.data_received(wire[:4000])
    mesh_pair.client.write_eof()
    mesh_pair.client.data_received(wire[4000:])
    mesh_pair.server.write(b"y" * 10_000)
    mesh_pair.carry(333)
    assert mesh_pair.ends[0].got == b"x" * 10_000 + b"y" * 10_000
    assert mesh_pair.ends[1].is_ended
    assert not any(pipe.is_aborted for pipe in mesh_pair.pipes)


@pytest.mark.parametrize("piece", [1, 1000, 16_406, 100_000, 1 << 21])
def test_bytes_read_in_bulk_are_whole_however_they_are_cut(mesh_pair: Pair, piece: int) -> None:
    data = random.Random(piece).randbytes(2_000 if piece == 1 else 1_500_000)
    handed = mesh_pair.read_in_bulk()
    mesh_pair.client.write(data)
    wire = mesh_pair.pipes[0].take()
    for at in range(0, len(wire), piece):
        mesh_pair.feed(wire[at : at + piece])
    assert b"".join(handed) == data
    assert mesh_pair.ends[1].got == b""
    if piece > len(wire):
        assert len(handed) < 8


def test_an_end_after_bytes_read_in_bulk_comes_after_them(mesh_pair: Pair) -> None:
    handed = mesh_pair.read_in_bulk()
    mesh_pair.client.write(b"x" * 100_000)
    mesh_pair.client.write_eof()
    mesh_pair.feed(mesh_pair.pipes[0].take())
    assert b"".join(handed) == b"x" * 100_000
    assert mesh_pair.ends[1].is_ended


def test_what_came_before_a_changed_byte_is_handed_on(mesh_pair: Pair) -> None:
    handed = mesh_pair.read_in_bulk()
    mesh_pair.client.write(b"x" * 100_000)
    wire = bytearray(mesh_pair.pipes[0].take())
    wire[-1] ^= 1
    mesh_pair.feed(bytes(wire))
    assert mesh_pair.pipes[1].is_aborted
    assert b"".join(handed) == b"x" * (100_000 // 16_384 * 16_384)


def test_half_a_record_is_no_offence_while_much_is_unsent(mesh_pair: Pair) -> None:
    """Both directions busy, and the peer slow to read: only its control messages are counted."""
    mesh_pair.pipes[1].unsent = 1 << 20
    mesh_pair.client.write(b"x" * 10_000)
    wire = mesh_pair.pipes[0].take()
    mesh_pair.server.data_received(wire[:5000])
    assert not mesh_pair.pipes[1].is_aborted
    mesh_pair.server.data_received(wire[5000:])
    assert mesh_pair.ends[1].got == b"x" * 10_000


def test_an_end_without_tls_is_a_failure(mesh_pair: Pair) -> None:
    assert not mesh_pair.client.eof_received()
    mesh_pair.client.connection_lost(None)
    (error,) = mesh_pair.ends[0].lost
    assert isinstance(error, ConnectionResetError)


def test_a_changed_byte_ends_the_connection(mesh_pair: Pair) -> None:
    mesh_pair.client.write(b"hello")
    wire = bytearray(mesh_pair.pipes[0].take())
    wire[-1] ^= 1
    mesh_pair.server.data_received(bytes(wire))
    assert mesh_pair.pipes[1].is_aborted
    assert mesh_pair.ends[1].got == b""


def test_no_session_can_be_resumed(mesh_pair: Pair) -> None:
    mesh_pair.server.write(b"x")
    mesh_pair.carry()
    session = mesh_pair.client.ssl_object.session
    assert session is None or not session.has_ticket


@pytest.fixture
async def mesh_pair(mesh: Any) -> Pair:
    return Pair(mesh)
