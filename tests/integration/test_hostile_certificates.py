"""Hostile certificates against real listeners: none gets, or is sent, a byte of an application.

As a client's certificate each is shown to a proxy's inbound port, with a request right behind it.
As a server's it stands where the registry says that the called service is, and waits for one. The
table of outcomes is printed whether or not the test passes.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from fuzz.ours import make_pki, unstarted_mesh
from hostile.certificates import CONTROLS, DOMAIN, HOSTILE, ONE_WAY, Case, Shown, World

from meshctl.signer.decision import Refusal
from meshctl.signer.decision import identify as signer_identify
from proxy.core import peer
from proxy.model.names import InvalidName

GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
LEAST = 60
LET_IN = "let in"


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Arena:
    """A mesh whose bundle trusts the world's CAs; ``near`` has web, which calls api on ``far``."""

    mesh: Any
    world: World
    directory: Path
    liars: int = 0

    def context(self, shown: Shown, protocol: Any) -> ssl.SSLContext:
        """One that would show and take anything. Raises SSLError if OpenSSL itself, at its most
        lenient, cannot show the certificate."""
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        files = []
        for name, data in (("chain", pem(shown)), ("key", key_pem(shown))):
            path = self.directory / f"{name}.pem"
            path.write_bytes(data)
            files.append(path)
        context.load_cert_chain(*files)
        return context

    async def as_client(self, context: ssl.SSLContext, name: str = "api.mesh.test") -> str:
        """``let in``, or how the proxy names the refusal."""
        before = self.refusals()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            host, port = self.mesh.planes["far"].inbound_address()
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=name
                )
                try:
                    writer.write(GET)
                    if await reader.read(65536):
                        return LET_IN
                finally:
                    writer.transport.abort()
        if self.mesh.api.requests:
            return LET_IN
        async with asyncio.timeout(30):
            while not (new := self.refusals() - before):
                await asyncio.sleep(0.002)
        return "refused: " + " ".join(sorted(reason for reason, _ in new))

    def refusals(self) -> set[tuple[str, float]]:
        name = "mesh_inbound_tls_failures_total"
        reasons = ("certificate", "identity", "no_certificate", "protocol", "server_name", "eof")
        return {
            (reason, count)
            for reason in (*reasons, "alert", "timeout", "plaintext")
            if (count := self.mesh.metric("far", name, reason=reason))
        }

    async def as_server(self, context: ssl.SSLContext) -> str:
        """``let in``, or the sentence that the calling application reads."""
        received: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                received.append(await reader.read(100))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nliar")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        # A host of its own: what others have done is not held against it.
        self.liars += 1
        port = server.sockets[0].getsockname()[1]
        self.mesh.route(extra=((f"liar{self.liars}", port),))
        client = await self.mesh.connect()
        try:
            response = await client.get()
        finally:
            client.close()
            server.close()
        if response.status == 200 or b"".join(received):
            return LET_IN
        assert response.headers["x-mesh-flag"] == "UF", response.head
        sentence = response.body.decode().strip().replace("the peer's certificate is ", "")
        return "refused: " + sentence.partition(f":{port}: ")[2][:100]


def pem(shown: Shown) -> bytes:
    return "".join(ssl.DER_cert_to_PEM_cert(each) for each in shown.chain).encode()


def key_pem(shown: Shown) -> bytes:
    made: bytes = shown.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made


@pytest.fixture
async def arena(tmp_path: Path) -> AsyncIterator[Arena]:
    world = World()
    pki = make_pki(tmp_path / "pki")
    with pki.trust_bundle.open("ab") as bundle:
        for root in world.bundle:
            bundle.write(ssl.DER_cert_to_PEM_cert(root).encode())
    mesh = unstarted_mesh(pki)
    try:
        await mesh.start()
        yield Arena(mesh, world, tmp_path)
    finally:
        await mesh.stop()


async def outcome(arena: Arena, role: str, case: Case) -> str:
    shown = case(arena.world, "web" if role == "client" else "api")
    if role == "client":
        try:
            context = arena.context(shown, ssl.PROTOCOL_TLS_CLIENT)
        except ssl.SSLError as error:
            return f"cannot be shown: {error.reason}"
        return await arena.as_client(context)
    try:
        context = arena.context(shown, ssl.PROTOCOL_TLS_SERVER)
    except ssl.SSLError as error:
        return f"cannot be shown: {error.reason}"
    return await arena.as_server(context)


def test_a_signer_renews_none_that_a_proxy_would_not_know() -> None:
    """Past the chain, which the same OpenSSL verifies; what is left is the signer's own eye."""
    world = World()
    refused = 0
    for case in HOSTILE.values():
        der = case(world, "web").chain[0]
        try:
            peer.identify(der, DOMAIN, is_server=False)
        except InvalidName:
            refused += 1
            with pytest.raises(Refusal):
                signer_identify(der, DOMAIN)
    assert refused > LEAST


async def without_certificates(arena: Arena) -> dict[str, dict[str, str]]:
    """What else is no handshake with an identity."""
    sound = CONTROLS["sound"]
    client = arena.context(sound(arena.world, "web"), ssl.PROTOCOL_TLS_CLIENT)
    server = arena.context(sound(arena.world, "api"), ssl.PROTOCOL_TLS_SERVER)
    client.maximum_version = server.maximum_version = ssl.TLSVersion.TLSv1_2
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    return {
        "TLS 1.2, a sound certificate": {
            "client": await arena.as_client(client),
            "server": await arena.as_server(server),
        },
        "no certificate": {"client": await arena.as_client(nobody), "server": "-"},
    }


async def test_hostile_certificates_are_refused_before_a_byte_of_the_application(
    arena: Arena, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[tuple[str, str, str]] = []
    wrong: list[tuple[str, str]] = []
    unshown = 0
    for name in (*CONTROLS, *HOSTILE, *ONE_WAY["client"], *ONE_WAY["server"]):
        found = {"client": "-", "server": "-"}
        for role in ("client", "server"):
            case = CONTROLS.get(name) or HOSTILE.get(name) or ONE_WAY[role].get(name)
            if case is None:
                continue
            arena.mesh.api.requests.clear()
            how = found[role] = await outcome(arena, role, case)
            unshown += role == "client" and how.startswith("cannot be shown")
            if (how == LET_IN) != (name in CONTROLS):
                wrong.append((name, role))
        rows.append((name, found["client"], found["server"]))
    for name, found in (await without_certificates(arena)).items():
        rows.append((name, found["client"], found["server"]))
        wrong += [(name, role) for role, what in found.items() if what == LET_IN]
    with capsys.disabled():
        print(
            f"\n{'certificate':54} {'as a client, to an inbound port':38} as a server, to a caller"
        )
        for name, client, server in rows:
            print(f"{name:54} {client:38} {server}")
        print(f"{len(HOSTILE)} hostile in both roles, {unshown} that OpenSSL itself would not show")
    assert not wrong
    assert len(HOSTILE) >= LEAST + unshown


async def exchange(arena: Arena, context: ssl.SSLContext) -> ssl.SSLObject:
    """One request as a sound client; the TLS connection it went over, closed."""
    host, port = arena.mesh.planes["far"].inbound_address()
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname="api.mesh.test"
    )
    try:
        async with asyncio.timeout(30):
            writer.write(GET)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return found
    finally:
        writer.transport.abort()


async def test_a_server_gives_no_ticket_by_which_a_session_or_early_data_could_come_back(
    arena: Arena,
) -> None:
    shown = CONTROLS["sound"](arena.world, "web")
    context = arena.context(shown, ssl.PROTOCOL_TLS_CLIENT)
    for _ in range(2):
        connection = await exchange(arena, context)
        assert connection.version() == "TLSv1.3"
        assert not connection.session_reused
        session = connection.session
        assert session is None or not session.has_ticket
    for plane in arena.mesh.planes.values():
        for service in ("web", "api"):
            identity = plane._identities.get(service)
            if identity is not None:
                assert identity.server.session_stats()["hits"] == 0


async def test_a_caller_resumes_no_session_that_a_server_offers(arena: Arena) -> None:
    context = arena.context(CONTROLS["sound"](arena.world, "api"), ssl.PROTOCOL_TLS_SERVER)
    assert context.num_tickets > 0
    for _ in range(2):
        assert await arena.as_server(context) == LET_IN
    stats = context.session_stats()
    assert stats["accept_good"] >= 2
    assert stats["hits"] == 0


async def test_who_chains_to_a_retired_root_is_refused_from_the_next_connection_on(
    arena: Arena,
) -> None:
    context = arena.context(CONTROLS["sound"](arena.world, "web"), ssl.PROTOCOL_TLS_CLIENT)
    assert await arena.as_client(context) == LET_IN
    pki = arena.mesh.pki
    pki.trust_bundle.write_bytes(pki.root.pem)
    assert not any(
        isinstance(each, str) for each in arena.mesh.planes["far"].reload_identities().values()
    )
    arena.mesh.api.requests.clear()
    assert await arena.as_client(context) == "refused: certificate"


async def test_a_protocol_that_a_proxy_does_not_speak_is_not_chosen(arena: Arena) -> None:
    context = arena.context(CONTROLS["sound"](arena.world, "web"), ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["mesh/0", "h3", "http/1.0"])
    connection = await exchange(arena, context)
    assert connection.selected_alpn_protocol() is None
