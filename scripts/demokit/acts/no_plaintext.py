"""The inbound port without a certificate."""

import socket
from contextlib import suppress

from demokit.scene import Scene
from demokit.stage import holds

CLAIM = "Without a certificate, nothing gets in"


def show(scene: Scene) -> None:
    with socket.create_connection(("127.0.0.1", scene.ports.inbound[1]), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nhost: api\r\n\r\n")
        received = b""
        with suppress(ConnectionResetError):
            while chunk := plain.recv(4096):
                received += chunk
    holds(
        b"HTTP/1" not in received,
        "plaintext on the mTLS port: closed, not one byte of HTTP came back",
    )
