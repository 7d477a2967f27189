"""HAProxy: one thread, the leanest configuration that does the same work."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchkit.contestants import (
    CALLER,
    HTTP_SERVICE,
    TCP_SERVICE,
    Pair,
    Site,
    server_name,
)
from benchkit.processes import Group, Process

_HEAD = """\
global
  nbthread 1
  maxconn 4096
  no log
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
  mode http
  timeout connect 1s
  timeout client 1h
  timeout server 15s
  timeout http-keep-alive 1h
  option http-keep-alive
  http-reuse always
"""

_CLIENT = """\
frontend {http}_out
  bind 127.0.0.1:{ports.http_out}
  default_backend {http}
backend {http}
  server one 127.0.0.1:{ports.http_in} {tls} sni str({http_name}) verifyhost {http_name}
frontend {tcp}_out
  mode tcp
  bind 127.0.0.1:{ports.tcp_out}
  default_backend {tcp}
backend {tcp}
  mode tcp
  server one 127.0.0.1:{ports.tcp_in} {tls} sni str({tcp_name}) verifyhost {tcp_name}
"""

_SERVER = """\
frontend {http}_in
  bind 127.0.0.1:{ports.http_in} ssl crt {pki}/{http}/both.pem {verify}
  tcp-request session reject unless {{ ssl_c_s_dn(CN) -m str {caller} }}
  default_backend {http}
backend {http}
  server app 127.0.0.1:{app}
frontend {tcp}_in
  mode tcp
  bind 127.0.0.1:{ports.tcp_in} ssl crt {pki}/{tcp}/both.pem {verify}
  tcp-request session reject unless {{ ssl_c_s_dn(CN) -m str {caller} }}
  default_backend {tcp}
backend {tcp}
  mode tcp
  server app 127.0.0.1:{app}
"""


class HAProxy:
    name = "haproxy"
    features: Sequence[str] = (
        "`nbthread 1`, `http-reuse always`, no logging, no health checks, no statistics",
        "the peer is checked by the common name of its certificate, once per connection: "
        "HAProxy 2.6 cannot match a URI SAN",
    )

    def __init__(self) -> None:
        said = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True)
        self.version = said.stdout.split("version ", 1)[-1].split()[0]

    def start(self, site: Site, group: Group) -> Pair:
        names = {
            "http": HTTP_SERVICE,
            "tcp": TCP_SERVICE,
            "http_name": server_name(HTTP_SERVICE),
            "tcp_name": server_name(TCP_SERVICE),
            "caller": server_name(CALLER),
            "ports": site.ports,
            "pki": site.identities,
            "app": site.backend_port,
            "verify": f"ca-file {site.identities}/trust.pem verify required",
            "tls": f"ssl crt {site.identities}/{CALLER}/both.pem verify required "
            f"ca-file {site.identities}/trust.pem no-ssl-reuse",
        }
        return Pair(
            server=group.add(_run(site, "haproxy-server", _HEAD + _SERVER.format(**names))),
            client=group.add(_run(site, "haproxy-client", _HEAD + _CLIENT.format(**names))),
        )


def _run(site: Site, name: str, text: str) -> Process:
    configuration: Path = site.directory / f"{name}.cfg"
    configuration.write_text(text, encoding="utf-8")
    return Process(
        name,
        ["haproxy", "-db", "-f", str(configuration)],
        core=site.proxy_core,
        log=site.directory / f"{name}.log",
    )
