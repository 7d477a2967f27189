"""Our two proxies in front of a backend: a mesh of the kind that the other tests use."""

import importlib.util
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from proxy.model.names import ServiceName, server_name

Address = tuple[str, int, ssl.SSLContext | None, str | None]
"""Host, port, and for TLS a context and the server's name."""


def _fixtures() -> ModuleType:
    """tests/proxy/conftest.py, which cannot be imported by a name."""
    name = "fuzz_mesh_fixtures"
    if name not in sys.modules:
        path = Path(__file__).resolve().parents[1] / "proxy" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def make_pki(directory: Path) -> Any:
    return _fixtures().MeshPki(directory)


def outbound(mesh: Any) -> Address:
    """The caller's loopback port of an upstream; both proxies are passed."""
    host, port = mesh.planes["near"].outbound_address(ServiceName("web"), ServiceName("api"))
    return host, port, None, None


def by_host(mesh: Any) -> Address:
    """The caller's port for all its upstreams: only what names one of them gets through."""
    host, port = mesh.planes["near"].hosts_address(ServiceName("web"))
    return host, port, None, None


def inbound(mesh: Any) -> Address:
    """The mTLS port, as a peer's proxy, or whoever has its key, would call it."""
    return inbound_at(mesh.pki, inbound_port(mesh))


def inbound_port(mesh: Any) -> int:
    port: int = mesh.planes["far"].inbound_address()[1]
    return port


def inbound_at(pki: Any, port: int) -> Address:
    home = pki.state_dir / "identities" / "web" / "current"
    context = ssl.create_default_context(cafile=str(pki.trust_bundle))
    context.check_hostname = False  # the name is in a URI; who is called is not the question here
    context.load_cert_chain(home / "chain.pem", home / "key.pem")
    return "127.0.0.1", port, context, server_name(pki.domain, ServiceName("api"))


LISTENERS: dict[str, Callable[[Any], Address]] = {
    "outbound": outbound,
    "by_host": by_host,
    "inbound": inbound,
}
"""Every kind of listener that reads HTTP: a line each."""


def unstarted_mesh(pki: Any) -> Any:
    return _fixtures().Mesh(pki)


async def start_mesh(pki: Any, app: Any, listener: str) -> tuple[Any, Address]:
    """``app`` has ``start``, ``stop`` and ``port``; stop the mesh when done."""
    mesh = unstarted_mesh(pki)
    mesh.api = app
    await mesh.start()
    return mesh, LISTENERS[listener](mesh)
