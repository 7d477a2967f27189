"""Keys from URLs and files: whom is believed, and how much is taken."""

import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxy.net import jwks
from proxy.net.jwks import NoKeys

BODY = b'{"keys": []}'


@pytest.fixture
def source(mesh_pki: Any) -> Iterator[tuple[str, list[str]]]:
    """The URL of an https server with a certificate for localhost, and what it was asked. In a
    thread of its own, with another TLS than the proxy's."""
    directory = mesh_pki.issue("keys", uris=(), dns=("localhost",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "chain.pem", directory / "key.pem")
    asked: list[str] = []

    class Keys(BaseHTTPRequestHandler):
        def setup(self) -> None:
            self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers['Host']}")
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that refused the certificate

    server = Server(("127.0.0.1", 0), Keys)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://localhost:{server.server_port}/keys?x=1", asked
    server.shutdown()
    server.server_close()
    thread.join(10)


async def test_a_server_that_the_system_trusts_is_believed(
    source: Any, mesh_pki: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = source
    monkeypatch.setenv("SSL_CERT_FILE", str(mesh_pki.trust_bundle))
    assert await jwks.fetch(url) == BODY
    assert asked[0].startswith("/keys?x=1 localhost:")


async def test_one_that_it_does_not_trust_is_not_even_asked(source: Any) -> None:
    url, asked = source
    with pytest.raises(NoKeys, match="TLS"):
        await jwks.fetch(url)
    assert asked == []


async def test_one_with_another_name_is_not_asked(
    source: Any, mesh_pki: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = source
    monkeypatch.setenv("SSL_CERT_FILE", str(mesh_pki.trust_bundle))
    with pytest.raises(NoKeys, match="TLS"):
        await jwks.fetch(url.replace("localhost", "127.0.0.1"))
    assert asked == []


async def test_a_server_that_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks, "FETCH_S", 0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(NoKeys, match="no answer within"),
    ):
        await jwks.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/")


async def test_nobody_there_is_said(free_ports: Any) -> None:
    (port,) = free_ports(1)
    with pytest.raises(NoKeys, match="refused"):
        await jwks.fetch(f"http://127.0.0.1:{port}/")


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(NoKeys, match="No such file"):
        jwks.mark_of(str(path))
    with pytest.raises(NoKeys, match="No such file"):
        jwks.read(str(path))
    path.write_bytes(b"x" * jwks.MAX_BYTES)
    assert len(jwks.read(str(path))) == jwks.MAX_BYTES
    before = jwks.mark_of(str(path))
    path.write_bytes(b"x" * (jwks.MAX_BYTES + 1))
    assert jwks.mark_of(str(path)) != before
    with pytest.raises(NoKeys, match="more than"):
        jwks.read(str(path))
