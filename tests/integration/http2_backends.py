"""Servers of files that speak HTTP/2 without TLS, and nginx in HTTP/1.1 beside them.

``/up/`` takes what is PUT there. nginx in HTTP/2 knows nothing else on its port: prior knowledge.
"""

import os
import pwd

from integration.backends import Server, Unavailable, _program

UPLOADS = "up"


class NginxFiles(Server):
    """HTTP/1.1."""

    name = "nginx"
    listen = ""

    @classmethod
    def require(cls) -> None:
        if _program("nginx") is None:
            raise Unavailable("nginx is not installed (Debian: nginx-light)")

    def command(self) -> list[str]:
        here = self.directory
        spools = "".join(
            f"{kind}_temp_path {here}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if not os.getuid() else ""
        config = here / "nginx.conf"
        config.write_text(
            f"""daemon off; master_process off; pid {here}/pid; error_log stderr crit;
{user}events {{ worker_connections 1024; }}
http {{
access_log off; default_type application/octet-stream; client_max_body_size 0;
keepalive_requests 1000000;
{spools}server {{
listen 127.0.0.1:{self.port} {self.listen}; root {self.site};
location /{UPLOADS}/ {{ dav_methods PUT; }}
}}
}}
"""
        )
        return [_program("nginx") or "", "-p", str(here), "-e", "stderr", "-c", str(config)]


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
