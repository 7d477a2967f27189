"""A service that does not speak HTTP."""

import socket

from demokit.scene import Scene
from demokit.stage import holds, say

CLAIM = "TCP goes the same way"


def show(scene: Scene) -> None:
    with socket.create_connection(("127.0.0.1", scene.ports.web_to_cache), timeout=5) as client:
        client.sendall(b"hello\nmesh\n")
        client.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := client.recv(4096):
            received += chunk
    say(f"sent 2 lines, closed our side, received {received!r}")
    holds(received == b"HELLO\nMESH\n2 lines\n", "TCP crossed two proxies, half-close included")
