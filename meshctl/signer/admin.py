"""The admin port: ``/ready``, ``/status`` and ``/metrics``, on loopback, read only.

Loopback is not a wall against a browser on the same host: a request is refused if it names a host
that is not loopback (DNS rebinding) or carries an Origin.
"""

import ipaddress
from collections.abc import Callable

from aiohttp import web

from meshctl.signer.measures import Measures
from meshctl.signer.settings import SignerStatus
from proxy.core.exposition import render
from proxy.model import codec
from proxy.model.settings import Address

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_IDLE_S = 5.0


class Admin:
    """``ready`` gives the reason why not; empty: ready."""

    def __init__(
        self,
        status: Callable[[], SignerStatus],
        ready: Callable[[], str],
        measures: Measures,
    ) -> None:
        self._status, self._ready, self._measures = status, ready, measures
        self._runner: web.ServerRunner | None = None

    async def start(self, address: Address) -> None:
        """Raises OSError."""
        server = web.Server(self._handle, access_log=None, keepalive_timeout=_IDLE_S)
        self._runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, address.host, address.port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if "Origin" in request.headers or not _is_loopback(request.headers.get("Host", "")):
            return web.Response(status=403, text="only for this host\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="use GET\n", headers={"Allow": "GET"})
        match request.path:
            case "/ready":
                reason = self._ready()
                return web.Response(status=503 if reason else 200, text=f"{reason or 'ready'}\n")
            case "/status":
                body = codec.encode(self._status()) + b"\n"
                return web.Response(body=body, content_type="application/json")
            case "/metrics":
                text = render(self._measures.metrics.tally())
                return web.Response(body=text, headers={"Content-Type": PROMETHEUS})
            case _:
                return web.Response(status=404, text="there are: /ready /status /metrics\n")


def _is_loopback(header: str) -> bool:
    name = header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
