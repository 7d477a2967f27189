"""What the proxy makes of a signer's answers, and of what is no signer."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from signing.world import API, DOMAIN, World, make_request

from meshctl.signer import serving
from proxy.model.names import signer_id
from proxy.model.settings import Address
from proxy.net import signer_client
from proxy.net.signer_client import SignerClient, SignerError

CLIENT = SignerClient(trust_domain=DOMAIN)


@pytest.fixture
def world(tmp_path: Any) -> World:
    return World(tmp_path / "mesh")


@pytest.fixture
async def signer(world: World) -> AsyncIterator[Any]:
    """``await signer(answer, certificate=…)``: a server that always answers the same."""
    servers: list[asyncio.Server] = []

    async def start(answer: bytes | None, *, certificate: Any = None) -> Address:
        if certificate is None:
            made = serving.make(world.issuing, DOMAIN, world.bundle.read_bytes(), datetime.now(UTC))
            context = made.context
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b'"}')
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
                    writer.close()
                else:
                    await reader.read()
            except (asyncio.IncompleteReadError, OSError):
                pass
            finally:
                if answer is None:
                    writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        servers.append(server)
        return Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])

    yield start
    for server in servers:
        server.close()


def answer(status: str, body: bytes, *lines: str) -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""))
    return head.encode() + body


async def ask(world: World, signer: Address) -> bytes:
    return await CLIENT.renew(signer, world.context(world.leaf(API)), make_request())


async def test_a_chain_is_handed_on(world: World, signer: Any) -> None:
    at = await signer(answer("200 OK", b'{"chain": "PEM"}'))
    assert await ask(world, at) == b"PEM"


@pytest.mark.parametrize(
    ("given", "kind", "retry_after_s", "text"),
    [
        (answer("403 F", b'{"error": "gone", "code": "revoked"}'), "revoked", 0, "gone"),
        (answer("403 F", b'{"error": "who", "code": "not_an_identity"}'), "refused", 0, "who"),
        (answer("429 T", b'{"error": "slow"}', "Retry-After: 7"), "busy", 7, "slow"),
        (answer("429 T", b'{"error": "slow"}', "Retry-After: soon"), "busy", 0, "slow"),
        (answer("503 S", b'{"error": "ended", "code": "not_ready"}'), "busy", 0, "ended"),
        (answer("400 B", b'{"error": "bad", "code": "bad_request"}'), "refused", 0, "bad"),
        (answer("500 I", b"Traceback"), "refused", 0, "answered 500 with something else"),
        (answer("200 OK", b'{"chains": []}'), "refused", 0, "answered 200 with something else"),
        (answer("200 OK", b"x" * 200_000), "unreachable", 0, "larger than"),
        (b"SSH-2.0-x\r\n", "unreachable", 0, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "unreachable", 0, "closed"),
    ],
    ids=lambda value: value.decode()[:30] if isinstance(value, bytes) else None,
)
async def test_each_refusal_says_what_to_do_next(
    world: World, signer: Any, given: bytes, kind: str, retry_after_s: float, text: str
) -> None:
    at = await signer(given)

    with pytest.raises(SignerError, match=text) as caught:
        await ask(world, at)

    assert (caught.value.kind, caught.value.retry_after_s) == (kind, retry_after_s)
    assert f"127.0.0.1:{at.port}" in str(caught.value)


async def test_one_that_does_not_answer_is_given_up(
    world: World, signer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signer_client, "CALL_S", 1.0)
    at = await signer(None)

    with pytest.raises(SignerError, match="did not answer within 1 s"):
        await ask(world, at)


SERVER, BOTH = (
    (ExtendedKeyUsageOID.SERVER_AUTH,),
    (
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ),
)


@pytest.mark.parametrize(
    ("uris", "more", "text"),
    [
        ((f"spiffe://{DOMAIN}/svc/api",), {"uses": BOTH}, "is not a signer"),
        ((f"spiffe://{DOMAIN}/svc/signer",), {"uses": BOTH}, "is not a signer"),
        ((f"spiffe://{DOMAIN}/mesh/signer/",), {"uses": BOTH}, "is not a signer"),
        ((f"spiffe://{DOMAIN}/mesh/probe",), {"uses": BOTH}, "is not a signer"),
        ((signer_id(DOMAIN), f"spiffe://{DOMAIN}/svc/api"), {"uses": SERVER}, "is not a signer"),
        ((signer_id(DOMAIN),), {"uses": ()}, "is not a signer"),
        (("spiffe://other.test/mesh/signer",), {"uses": SERVER}, "not trusted: permitted subtree"),
        (
            (signer_id(DOMAIN),),
            {"uses": (ExtendedKeyUsageOID.CLIENT_AUTH,)},
            "not trusted: unsuitable certificate purpose",
        ),
    ],
    ids=str,
)
async def test_nothing_is_sent_to_what_is_not_a_signer(
    world: World, signer: Any, uris: tuple[str, ...], more: dict[str, Any], text: str
) -> None:
    at = await signer(
        answer("200 OK", b'{"chain": "PEM"}'), certificate=world.custom(*uris, **more)
    )

    with pytest.raises(SignerError, match=text) as caught:
        await ask(world, at)

    assert caught.value.kind == "unreachable"


async def test_a_signer_of_another_mesh_is_not_trusted(
    world: World, signer: Any, tmp_path: Any
) -> None:
    stranger = World(tmp_path / "stranger")
    at = await signer(b"", certificate=stranger.custom(signer_id(DOMAIN), uses=SERVER))

    with pytest.raises(SignerError, match=r"is not trusted: "):
        await ask(world, at)


async def test_nobody_there_is_said_in_the_systems_words(
    world: World, unused_tcp_port: int
) -> None:
    with pytest.raises(SignerError, match="cannot be reached: Connection refused"):
        await ask(world, Address(host="127.0.0.1", port=unused_tcp_port))
