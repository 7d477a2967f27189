"""Servers of files that speak HTTP/2 without TLS, and nginx in HTTP/1.1 beside them.

``/up/`` takes what is PUT there. nginx in HTTP/2 knows nothing else on its port: prior knowledge.
"""

from integration.backends import Nginx, Server, Unavailable, _program

UPLOADS = "up"


class NginxFiles(Nginx):
    """HTTP/1.1."""

    default_type = "application/octet-stream"
    listen = ""

    @property
    def server(self) -> str:
        return (
            f"listen 127.0.0.1:{self.port} {self.listen}; root {self.site}; "
            f"location /{UPLOADS}/ {{ dav_methods PUT; }}"
        )


class NginxOfHttp2(NginxFiles):
    name = "nginx-http2"
    listen = "http2"


class Nghttpd(Server):
    """Sends back what it is sent."""

    name = "nghttpd"

    @classmethod
    def require(cls) -> None:
        if _program("nghttpd") is None:
            raise Unavailable("nghttpd is not installed (Debian: nghttp2-server)")

    def command(self) -> list[str]:
        return [
            *(_program("nghttpd") or "", "--no-tls", "--echo-upload", "--address", "127.0.0.1"),
            *("-d", str(self.site), str(self.port)),
        ]


BACKENDS: dict[str, tuple[type[Server], str]] = {
    "api": (NginxFiles, "http"),
    "api2": (NginxOfHttp2, "http2"),
    "orders": (Nghttpd, "http2"),
}
"""By the service that they are, with the protocol that it has."""
