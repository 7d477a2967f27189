"""Debian's nginx as a pair of sidecars: one worker each, with as many of the features as it has."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchkit import probe
from benchkit.contestants import (
    ADDRESSES,
    CALLER,
    HTTP_SERVICE,
    ROUTES,
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

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""Of Debian's libnginx-mod-stream."""

# The id of a request and its trace context are made only if they are absent. $request_id is 32 hex
# digits, random for each request, as a trace id has to be.
_HEAD = """\
daemon off;
{user}
load_module {stream};
worker_processes 1;
pid {directory}/{name}.pid;
error_log {directory}/{name}-error.log error;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  client_body_temp_path {directory}/{name}-body;
  proxy_temp_path {directory}/{name}-proxy;
  fastcgi_temp_path {directory}/{name}-fastcgi;
  uwsgi_temp_path {directory}/{name}-uwsgi;
  scgi_temp_path {directory}/{name}-scgi;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_connect_timeout 1s;
  proxy_read_timeout 15s;
"""

_CLIENT = """\
  map $http_x_request_id $made_id {{ "" $request_id; default $http_x_request_id; }}
  map $request_id $half {{ "~^(?<sixteen>.{{16}})" $sixteen; }}
  map $http_traceparent $made_trace {{ "" 00-$request_id-$half-00; default $http_traceparent; }}
{maps}
  upstream {http} {{
    random two least_conn;
{http_servers}
    keepalive 64;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }}
  proxy_ssl_protocols TLSv1.3;
  proxy_ssl_certificate {pki}/{caller}/chain.pem;
  proxy_ssl_certificate_key {pki}/{caller}/key.pem;
  proxy_ssl_trusted_certificate {pki}/trust.pem;
  proxy_ssl_verify on;
  proxy_ssl_verify_depth 2;
  proxy_ssl_session_reuse off;
  proxy_ssl_server_name on;
  proxy_ssl_name {http_name};
  proxy_next_upstream error timeout;
  proxy_next_upstream_tries 3;
  proxy_set_header X-Request-Id $made_id;
  proxy_set_header traceparent $made_trace;
  proxy_set_header x-forwarded-client-cert "";
  server {{
    listen 127.0.0.1:{ports.client_admin};
    location / {{ stub_status; }}
  }}
  server {{
    listen 127.0.0.1:{ports.http_out} backlog=4096;
    location / {{ proxy_pass https://{http}; }}
{locations}
  }}
}}
stream {{
  upstream {tcp} {{
    random two least_conn;
{tcp_servers}
  }}
  server {{
    listen 127.0.0.1:{ports.tcp_out} backlog=4096;
    proxy_pass {tcp};
    proxy_connect_timeout 1s;
    proxy_timeout 300s;
    proxy_ssl on;
    proxy_ssl_protocols TLSv1.3;
    proxy_ssl_certificate {pki}/{caller}/chain.pem;
    proxy_ssl_certificate_key {pki}/{caller}/key.pem;
    proxy_ssl_trusted_certificate {pki}/trust.pem;
    proxy_ssl_verify on;
    proxy_ssl_verify_depth 2;
    proxy_ssl_session_reuse off;
    proxy_ssl_server_name on;
    proxy_ssl_name {tcp_name};
  }}
}}
"""

_SERVER = """\
  map $ssl_client_s_dn $is_refused {{ "CN={caller_name}" 0; default 1; }}
  upstream {http} {{
    server 127.0.0.1:{app} max_conns=1024;
    keepalive 64;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }}
  proxy_set_header x-forwarded-client-cert "Subject=\\"$ssl_client_s_dn\\"";
  server {{
    listen 127.0.0.1:{ports.server_admin};
    location / {{ stub_status; }}
  }}
  server {{
{http_listens}
    ssl_certificate {pki}/{http}/chain.pem;
    ssl_certificate_key {pki}/{http}/key.pem;
    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    ssl_client_certificate {pki}/trust.pem;
    ssl_verify_client on;
    ssl_verify_depth 2;
    if ($is_refused) {{ return 403; }}
    location / {{ proxy_pass http://{http}; }}
  }}
}}
stream {{
  map $ssl_client_s_dn $application {{ "CN={caller_name}" {tcp}; default nobody; }}
  upstream {tcp} {{ server 127.0.0.1:{app}; }}
  upstream nobody {{ server 127.0.0.1:1 down; }}
  server {{
{tcp_listens}
    ssl_certificate {pki}/{tcp}/chain.pem;
    ssl_certificate_key {pki}/{tcp}/key.pem;
    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    ssl_client_certificate {pki}/trust.pem;
    ssl_verify_client on;
    ssl_verify_depth 2;
    proxy_timeout 300s;
    proxy_pass $application;
  }}
}}
"""


class Nginx:
    name = "nginx"
    group = Group.FULL
    phases = frozenset({"http", "latency", "tcp", "memory"})
    features: Sequence[str] = (
        "one worker and its master, `proxy_ssl_verify`, 64 kept upstream connections, a `map` "
        "and a `location` for each route, two random choices by connections over two endpoints, "
        "`proxy_next_upstream`, `max_fails` as outlier detection, `max_conns`, request id and "
        "trace context by `map`, a rule on the peer's subject for each request, `stub_status`",
    )
    omissions: Sequence[str] = (
        "cannot match a URI SAN: the peer is checked by its subject, which "
        "`x-forwarded-client-cert` carries too",
        "metrics are seven counters of the whole process: none by code, service or caller, no "
        "latency",
        "no retry budget, no limit of pending requests, no health check of the application",
        "memory is of the worker and its master together",
    )

    def __init__(self) -> None:
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
        self.version = said.stderr.strip().rpartition("/")[2]

    def start(self, site: Site, processes: Processes) -> Pair:
        server, client = self.configurations(site)
        first = processes.add(_run(site, "nginx-server", server))
        probe.wait_listening(first, site.ports.http_in)
        return Pair(server=first, client=processes.add(_run(site, "nginx-client", client)))

    def intruders(self, site: Site) -> Sequence[str]:
        return probe.intruders(site)

    def configurations(self, site: Site) -> tuple[str, str]:
        """The server's text and the client's."""
        names = {
            "directory": site.directory,
            # Started as root, a worker of another user could not enter our private directory.
            "user": "user root;" if os.geteuid() == 0 else "",
            "stream": STREAM_MODULE,
            "http": HTTP_SERVICE,
            "tcp": TCP_SERVICE,
            "caller": CALLER,
            "caller_name": server_name(CALLER),
            "http_name": server_name(HTTP_SERVICE),
            "tcp_name": server_name(TCP_SERVICE),
            "ports": site.ports,
            "pki": site.identities,
            "app": site.backend_port,
            "maps": "\n".join(_map(route) for route in ROUTES),
            "locations": "\n".join(_location(prefix) for prefix in _prefixes()),
            "http_servers": _servers(site.ports.http_in),
            "tcp_servers": _servers(site.ports.tcp_in),
            "http_listens": _listens(site.ports.http_in),
            "tcp_listens": _listens(site.ports.tcp_in),
        }
        return (
            (_HEAD + _SERVER).format(name="nginx-server", **names),
            (_HEAD + _CLIENT).format(name="nginx-client", **names),
        )


def _prefixes() -> list[str]:
    """Each once: nginx finds the longest by itself, whatever the order of the routes."""
    return sorted({route.path_prefix for route in ROUTES})


def _location(prefix: str) -> str:
    """The service is chosen by the routes of this prefix, in their order."""
    routes = [route for route in ROUTES if prefix == route.path_prefix or _is_below(prefix, route)]
    variable = "".join(f"${{to_{route.name}}}" for route in routes)
    return f"    location {prefix}/ {{ set $route {variable}; proxy_pass https://{HTTP_SERVICE}; }}"


def _is_below(prefix: str, route: Route) -> bool:
    return prefix.startswith(f"{route.path_prefix}/")


def _map(route: Route) -> str:
    if route.header_exact:
        pattern = f'"{route.header_exact}"'
    elif route.header_prefix:
        pattern = f'"~^{route.header_prefix}"'
    else:
        return f'  map "" $to_{route.name} {{ default {route.name}; }}'
    header = ROUTING_HEADER.replace("-", "_")
    return f'  map $http_{header} $to_{route.name} {{ {pattern} {route.name}; default ""; }}'


def _servers(port: int) -> str:
    return "\n".join(
        f"    server {address}:{port} max_fails=5 fail_timeout=30s max_conns=1024;"
        for address in ADDRESSES
    )


def _listens(port: int) -> str:
    return "\n".join(f"    listen {address}:{port} ssl backlog=4096;" for address in ADDRESSES)


def _run(site: Site, name: str, text: str) -> Process:
    configuration: Path = site.directory / f"{name}.conf"
    configuration.write_text(text, encoding="utf-8")
    start_log = site.directory / f"{name}-start.log"
    return Process(
        name,
        ["nginx", "-p", str(site.directory), "-e", str(start_log), "-c", str(configuration)],
        core=site.proxy_core,
        log=site.directory / f"{name}.log",
    )
