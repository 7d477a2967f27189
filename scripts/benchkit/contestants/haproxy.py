"""HAProxy: one thread, with as many of the features as version 2.6 has, or as lean as it goes."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchkit import probe
from benchkit.contestants import (
    ADDRESSES,
    CALLER,
    EVERY_PHASE,
    HTTP_SERVICE,
    ROUTING_HEADER,
    TCP_SERVICE,
    Group,
    Pair,
    Route,
    Site,
    server_name,
)
from benchkit.processes import Group as Processes
from benchkit.processes import Process

_FULL: Sequence[str] = (
    "`nbthread 1`, `http-reuse always`, three `use_backend` rules, two random choices over two "
    "endpoints, retries with redispatch, error observation as outlier detection, connection "
    "limits, request id and trace context by `http-request set-header`, a `deny` rule on the "
    "peer's common name for each request, Prometheus exporter",
    "for gRPC and HTTP/2: HTTP/2 on all three connections, no time limit",
)
_OMISSIONS: Sequence[str] = (
    "2.6 cannot match a URI SAN: the peer is checked by the common name, which "
    "`x-forwarded-client-cert` carries too",
    "no retry budget; no latency histograms; no metrics by calling service",
    "outlier detection needs a TCP health check, which it has instead of an ejection time",
)
_BARE: Sequence[str] = (
    "`nbthread 1`, `http-reuse always`, no logging, no health checks, no statistics",
    "the peer is checked by the common name of its certificate, once per connection: "
    "HAProxy 2.6 cannot match a URI SAN",
)

_HEAD = """\
global
  nbthread 1
  maxconn 8192
  no log
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  ssl-default-server-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
  mode http
  timeout connect 1s
  timeout client 1h
  timeout server 15s
  timeout http-keep-alive 1h
  timeout tunnel 1h
  option http-keep-alive
  http-reuse always
"""

_BARE_CLIENT = """\
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

_BARE_SERVER = """\
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

_FULL_CLIENT = """\
  retries 2
  retry-on conn-failure empty-response
  option redispatch 1
frontend stats
  bind 127.0.0.1:{ports.client_admin}
  http-request use-service prometheus-exporter
frontend {http}_out
  bind 127.0.0.1:{ports.http_out}
  http-request set-header x-request-id %[uuid()] unless {{ req.hdr(x-request-id) -m found }}
  http-request set-header traceparent \
00-%[uuid(),regsub("-","",g)]-%[uuid(),regsub("-","",g),bytes(0,16)]-00 \
unless {{ req.hdr(traceparent) -m found }}
  http-request del-header x-forwarded-client-cert
{rules}
  default_backend {http}
backend {http}
  balance random(2)
{http_servers}
frontend {tcp}_out
  mode tcp
  bind 127.0.0.1:{ports.tcp_out}
  default_backend {tcp}
backend {tcp}
  mode tcp
  balance random(2)
{tcp_servers}
"""

_FULL_SERVER = """\
frontend stats
  bind 127.0.0.1:{ports.server_admin}
  http-request use-service prometheus-exporter
frontend {http}_in
  bind {http_binds} ssl crt {pki}/{http}/both.pem {verify}{offered}
  http-request deny unless {{ ssl_c_s_dn(CN) -m str {caller} }}
  http-request set-header x-forwarded-client-cert Subject=\\"/CN=%[ssl_c_s_dn(CN)]\\"
  default_backend {http}
backend {http}
  server app 127.0.0.1:{http_app}{http2} maxconn {most_requests}
frontend {tcp}_in
  mode tcp
  bind {tcp_binds} ssl crt {pki}/{tcp}/both.pem {verify}
  tcp-request session reject unless {{ ssl_c_s_dn(CN) -m str {caller} }}
  default_backend {tcp}
backend {tcp}
  mode tcp
  server app 127.0.0.1:{app}
"""


class HAProxy:
    def __init__(self, group: Group = Group.FULL) -> None:
        self.group = group
        self._is_full = group is Group.FULL
        self.name = "haproxy" if self._is_full else f"haproxy {group}"
        self.phases = EVERY_PHASE if self._is_full else frozenset({"http"})
        self.features = _FULL if self._is_full else _BARE
        self.omissions = _OMISSIONS if self._is_full else ()
        said = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True)
        self.version = said.stdout.split("version ", 1)[-1].split()[0]

    def start(self, site: Site, processes: Processes) -> Pair:
        server, client = self.configurations(site)
        first = processes.add(_run(site, "haproxy-server", server))
        probe.wait_listening(first, site.ports.http_in)
        return Pair(server=first, client=processes.add(_run(site, "haproxy-client", client)))

    def intruders(self, site: Site) -> Sequence[str]:
        return probe.intruders(site)

    def configurations(self, site: Site) -> tuple[str, str]:
        """The server's text and the client's."""
        is_multiplexed = site.application.is_multiplexed
        most_requests = site.application.most_requests
        trust = f"{site.identities}/trust.pem"
        tls = (
            f"ssl crt {site.identities}/{CALLER}/both.pem verify required ca-file {trust} "
            "no-ssl-reuse"
        )
        names = {
            "http": HTTP_SERVICE,
            "tcp": TCP_SERVICE,
            "http_name": server_name(HTTP_SERVICE),
            "tcp_name": server_name(TCP_SERVICE),
            "caller": server_name(CALLER),
            "ports": site.ports,
            "pki": site.identities,
            "app": site.backend_port,
            "http_app": site.application.port,
            "verify": f"ca-file {trust} verify required",
            "tls": tls,
        }
        if not self._is_full:
            return _HEAD + _BARE_SERVER.format(**names), _HEAD + _BARE_CLIENT.format(**names)
        # A stream may last.
        head = _HEAD.replace("timeout server 15s", "timeout server 1h") if is_multiplexed else _HEAD
        names |= {
            "http_binds": ",".join(f"{one}:{site.ports.http_in}" for one in ADDRESSES),
            "tcp_binds": ",".join(f"{one}:{site.ports.tcp_in}" for one in ADDRESSES),
            "rules": "\n".join(_rule(route) for route in site.application.routes),
            "offered": " alpn h2,http/1.1" if is_multiplexed else "",
            "http2": " proto h2" if is_multiplexed else "",
            "most_requests": most_requests,
            "http_servers": _servers(
                HTTP_SERVICE,
                site.ports.http_in,
                f"{tls} alpn h2" if is_multiplexed else tls,
                7,
                most_requests,
            ),
            "tcp_servers": _servers(TCP_SERVICE, site.ports.tcp_in, tls, 4),
        }
        return head + _FULL_SERVER.format(**names), head + _FULL_CLIENT.format(**names)


def _rule(route: Route) -> str:
    """By whole segments of the path, as the others match."""
    path = f"{{ path {route.path_prefix} }}", f"{{ path_beg {route.path_prefix}/ }}"
    header = ""
    if route.header_exact:
        header = f" {{ req.hdr({ROUTING_HEADER}) -m str {route.header_exact} }}"
    elif route.header_prefix:
        header = f" {{ req.hdr({ROUTING_HEADER}) -m beg {route.header_prefix} }}"
    return f"  use_backend {HTTP_SERVICE} if {path[0]}{header} || {path[1]}{header}"


def _servers(service: str, port: int, tls: str, layer: int, most_requests: int = 1024) -> str:
    name = server_name(service)
    watched = f"check inter 10s observe layer{layer} error-limit 5 on-error mark-down"
    return "\n".join(
        f"  server at{number} {address}:{port} {tls} sni str({name}) verifyhost {name} "
        f"maxconn {most_requests} {watched}"
        for number, address in enumerate(ADDRESSES)
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
