"""A made mesh behind real admin ports and real commands: local hosts, whose ``python`` is ours.

Time passes when somebody looks; a host may be told to be silent.
"""

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ports import free_ports
from telemetry.made import MadeMesh

from meshctl.layout import Layout
from proxy.core.stats import Stats
from proxy.model.codec import encode
from proxy.model.names import HostName

_FRESH_S = 0.05
"""Hosts that are asked at the same time are asked about the same moment."""


class Serving:
    """``inventory`` is the text of one with a local host for each service of ``mesh``."""

    def __init__(self, mesh: MadeMesh, folder: Path) -> None:
        self.mesh = mesh
        self.silent: set[str] = set()
        """Hosts that answer with 503."""
        self.looks = 0
        self._lock = threading.Lock()
        self._at = time.monotonic()
        self._stats: dict[HostName, Stats] = mesh.step(60.0)
        self.ports = dict(
            zip(self._stats, free_ports(len(self._stats)), strict=True),
        )
        self._folder = folder
        for host in self._stats:
            python = Path(Layout(f"{folder}/{host}").python)
            python.parent.mkdir(parents=True)
            python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            python.chmod(0o755)

    @property
    def inventory(self) -> str:
        lines = ["version: 1", "consul: {mode: embedded}", "hosts:"]
        for number, (service, (host, port)) in enumerate(
            zip(self.mesh.services, self.ports.items(), strict=True)
        ):
            called = sorted({c.service for c in self.mesh.calls if c.caller == service})
            is_tcp = any(c.is_tcp for c in self.mesh.calls if c.service == service)
            own = (
                f"{{name: {service}, port: {10_000 + number},"
                f" protocol: {'tcp' if is_tcp else 'http'}"
            )
            if called:
                uses = ", ".join(
                    f"{{service: {name}, port: {20_000 + number * 40 + place}}}"
                    for place, name in enumerate(called)
                )
                own += f", upstreams: [{uses}]"
            lines += [
                f"  - name: {host}",
                "    transport: local",
                f"    root: {self._folder}/{host}",
                f"    proxy: {{admin_port: {port}, inbound_port: {30_000 + number}}}",
                "    services:",
                f"      - {own}}}",
            ]
        return "\n".join(lines) + "\n"

    def answer(self, host: HostName) -> bytes | None:
        if host in self.silent:
            return None
        with self._lock:
            self.looks += 1
            elapsed_s = time.monotonic() - self._at
            if elapsed_s > _FRESH_S:
                self._at += elapsed_s
                self._stats = self.mesh.step(elapsed_s)
            return encode(self._stats[host])


@contextmanager
def serving(mesh: MadeMesh, folder: Path) -> Iterator[Serving]:
    made = Serving(mesh, folder)
    with ExitStack() as stack:
        for host, port in made.ports.items():
            stack.enter_context(_admin(made, host, port))
        yield made


@contextmanager
def _admin(made: Serving, host: HostName, port: int) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = made.answer(host) if self.path == "/stats" else None
            self.send_response(503 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
