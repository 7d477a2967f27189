"""A Consul whose owner is hostile: it answers whatever a test wants, to whoever asks."""

import asyncio
import base64
import json
import re
from typing import Any

from aiohttp import web

from proxy.model import registration as reg

WAIT_S = 30.0


class HostileConsul:
    """What proxies need of the HTTP API, with blocking queries; nothing of it is checked."""

    def __init__(self) -> None:
        self.snapshot: bytes | None = None
        self.entries: dict[str, list[Any]] = {}
        """By name in the catalogue."""
        self.raw: bytes | None = None
        """Instead of every answer."""
        self.index = 10
        self._changed = asyncio.Event()
        self._runner: web.ServerRunner | None = None
        self.url = ""

    async def start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)  # type: ignore[arg-type]
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        self.changed()
        if self._runner is not None:
            await self._runner.cleanup()

    def publish(self, value: bytes | None) -> None:
        self.snapshot = value
        self.changed()

    def place(self, service: str, *entries: Any) -> None:
        """These, and no others, are said to carry ``service``."""
        self.entries[f"{reg.SERVICE_PREFIX}{service}"] = list(entries)
        self.changed()

    def changed(self) -> None:
        self.index += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        index = int(request.query.get("index") or 0)
        if request.method == "GET" and index >= self.index and self.raw is None:
            changed = self._changed
            try:
                async with asyncio.timeout(WAIT_S):
                    await changed.wait()
            except TimeoutError:
                pass
        headers = {"X-Consul-Index": str(self.index), "Content-Type": "application/json"}
        if self.raw is not None:
            return web.Response(body=self.raw, headers=headers)
        if request.path == f"/v1/kv/{reg.SNAPSHOT_KEY}":
            if self.snapshot is None:
                return web.Response(status=404, headers=headers)
            pair = [{"Value": base64.b64encode(self.snapshot).decode()}]
            return web.Response(body=json.dumps(pair).encode(), headers=headers)
        if found := re.fullmatch(r"/v1/health/service/(.+)", request.path):
            body = json.dumps(self.entries.get(found[1], [])).encode()
            return web.Response(body=body, headers=headers)
        return web.Response(body=b"{}", headers=headers)


def instance(
    service: str, address: str, port: int, *, host: str = "back", trust_domain: str = "mesh.test"
) -> dict[str, Any]:
    """A healthy instance, as a proxy of the mesh would have registered it."""
    return {
        "Node": {"Node": host, "Address": address},
        "Service": {
            "ID": f"{reg.SERVICE_PREFIX}{service}-{host}",
            "Service": f"{reg.SERVICE_PREFIX}{service}",
            "Address": address,
            "Port": port,
            "Meta": {
                reg.META_MESH: "meshctl",
                reg.META_TRUST_DOMAIN: trust_domain,
                reg.META_HOST: host,
                reg.META_VERSION: "v1",
            },
        },
        "Checks": [{"CheckID": "x:proxy", "ServiceID": "x", "Status": "passing"}],
    }
