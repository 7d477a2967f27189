"""The leaf on the wire is read as it is, and refused when its chain does not verify."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshctl.errors import MeshError, Unreachable
from meshctl.pki.authority import Issuer, create_root, pem, sign_leaf
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.pki.served import fetch_served
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.settings import Address

WEB, HOST = ServiceName("web"), HostName("web-1")
RECORD = DeployRecord(hosts={HOST: HostRecord(services=(WEB,))})
NAME = "web.mesh.internal"

Serve = Callable[[bytes], AbstractAsyncContextManager[Address]]


@pytest.fixture
def serve(tmp_path: Path, key: ec.EllipticCurvePrivateKey, root: Issuer) -> Serve:
    """A server that, as a proxy does, wants a certificate from its client."""

    @contextlib.asynccontextmanager
    async def serving(chain: bytes) -> AsyncIterator[Address]:
        bundle = tmp_path / "served.pem"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        bundle.write_bytes(secret + chain)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pem(root.certificate).decode())
        context.load_cert_chain(bundle)
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
        async with server:
            yield Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])

    return serving


@pytest.fixture
def leaf(issuing: Issuer, csr: bytes, now: datetime) -> bytes:
    return sign_leaf(issuing, csr, record=RECORD, host=HOST, service=WEB, now=now).chain_pem


async def test_a_leaf_is_seen_without_a_certificate_of_ones_own(
    serve: Serve, leaf: bytes, root: Issuer
) -> None:
    async with serve(leaf) as address:
        seen = await fetch_served(address, NAME, trust_bundle=pem(root.certificate))
    assert seen.identities == ("spiffe://mesh.internal/svc/web",)
    assert seen.key == "EC secp256r1"
    assert seen.serial
    assert len(seen.fingerprint) == 64


async def test_a_leaf_under_another_root_does_not_verify_but_can_be_shown(
    serve: Serve, leaf: bytes, now: datetime
) -> None:
    other = create_root(TrustDomain("mesh.internal"), now)
    async with serve(leaf) as address:
        with pytest.raises(MeshError, match="does not verify"):
            await fetch_served(address, NAME, trust_bundle=pem(other.certificate))
        assert (await fetch_served(address, NAME, trust_bundle=None)).serial


async def test_a_leaf_outside_its_time_does_not_verify(
    serve: Serve, issuing: Issuer, csr: bytes, now: datetime, root: Issuer
) -> None:
    chain = sign_leaf(
        issuing, csr, record=RECORD, host=HOST, service=WEB, now=now + timedelta(days=2)
    ).chain_pem
    async with serve(chain) as address:
        with pytest.raises(MeshError, match="not yet valid"):
            await fetch_served(address, NAME, trust_bundle=pem(root.certificate))


async def test_nobody_there_is_unreachable() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(Unreachable, match=NAME):
        await fetch_served(Address(host="127.0.0.1", port=port), NAME, trust_bundle=None)


async def test_what_does_not_speak_tls_is_unreachable() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable):
            await fetch_served(Address(host="127.0.0.1", port=port), NAME, trust_bundle=None)
