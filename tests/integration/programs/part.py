"""One part of a mesh in a process of its own: ``part.py ROLE PKI_DIRECTORY PORT [PORT]``.

``app``: an application; PORT is ignored. ``far``: the proxy in front of the application at PORT.
``far2``: the same, and the application speaks HTTP/2; the second PORT is that of db, beside it.
``near``: a caller's proxy, whose only endpoint is the far proxy at PORT. Says the port that it
listens on, and runs until its input ends.
"""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop
from fuzz.ours import inbound_port, outbound, unstarted_mesh

from proxy.model.names import TrustDomain
from proxy.model.resilience import Limits

BIG_BYTES = 2 * 1024 * 1024
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_BIG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG_BYTES + bytes(BIG_BYTES)


class _App(asyncio.Protocol):
    """Enough of an application: requests come one at a time, and bodies never end."""

    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /big"):
            self.transport.write(_BIG)
        elif data.startswith((b"GET /hold", b"POST /hold")):
            pass  # is never answered
        elif data.startswith(b"GET"):
            self.transport.write(_OK)


async def _app() -> tuple[int, Any]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_App, "127.0.0.1", 0, backlog=4096)
    return server.sockets[0].getsockname()[1], server


async def _proxy(role: str, directory: Path, port: int, db_port: int = 0) -> tuple[int, Any]:
    pki = SimpleNamespace(
        domain=TrustDomain("mesh.test"),
        state_dir=directory / "state",
        trust_bundle=directory / "trust-bundle.pem",
    )
    mesh = unstarted_mesh(pki)
    mesh.limits = Limits(connections=9000, pending=9000, requests=9000)
    if role in ("far", "far2"):
        mesh.api.port, mesh.db.port = port, db_port
        mesh.api_protocol = "http2" if role == "far2" else "http"
        await mesh.add_far("far")
        mesh.route("far")
        return inbound_port(mesh), mesh
    await mesh.add_near()
    mesh.route(extra=(("far", port),))
    return outbound(mesh)[1], mesh


async def main() -> None:
    role, directory, ports = sys.argv[1], Path(sys.argv[2]), map(int, sys.argv[3:])
    listening, held = await (_app() if role == "app" else _proxy(role, directory, *ports))
    print(listening, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    del held


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
