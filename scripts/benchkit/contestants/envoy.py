"""Envoy: one worker, the minimal HTTP connection manager and router, and the TCP proxy."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchkit.contestants import (
    CALLER,
    HTTP_SERVICE,
    TCP_SERVICE,
    Pair,
    Site,
    server_name,
    spiffe_id,
)
from benchkit.processes import Group, Process

# A document of Envoy's own schema; it goes no further than the JSON encoder.
Json = dict[str, Any]

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_TLS = f"{_EXTENSIONS}.transport_sockets.tls.v3"


class Envoy:
    name = "envoy"
    features: Sequence[str] = (
        "`--concurrency 1`, HTTP connection manager with the router as its only filter, "
        "no admin listener, no health checks",
        "the peer is checked by its URI SAN, once per connection",
    )

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        said = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, check=True
        )
        # ".../envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
        self.version = said.stdout.strip().rpartition("version: ")[2].split("/")[1]

    def start(self, site: Site, group: Group) -> Pair:
        ports = site.ports
        server = _document(
            listeners=[
                _http_listener(ports.http_in, HTTP_SERVICE, _downstream_tls(site, HTTP_SERVICE)),
                _tcp_listener(ports.tcp_in, TCP_SERVICE, _downstream_tls(site, TCP_SERVICE)),
            ],
            clusters=[
                _cluster(HTTP_SERVICE, site.backend_port, None),
                _cluster(TCP_SERVICE, site.backend_port, None),
            ],
        )
        client = _document(
            listeners=[
                _http_listener(ports.http_out, HTTP_SERVICE, None),
                _tcp_listener(ports.tcp_out, TCP_SERVICE, None),
            ],
            clusters=[
                _cluster(HTTP_SERVICE, ports.http_in, _upstream_tls(site, HTTP_SERVICE)),
                _cluster(TCP_SERVICE, ports.tcp_in, _upstream_tls(site, TCP_SERVICE)),
            ],
        )
        return Pair(
            server=group.add(self._run(site, "envoy-server", server)),
            client=group.add(self._run(site, "envoy-client", client)),
        )

    def _run(self, site: Site, name: str, document: Json) -> Process:
        configuration = site.directory / f"{name}.json"
        configuration.write_text(json.dumps(document, indent=1), encoding="utf-8")
        command = [str(self._binary), "-c", str(configuration), "--concurrency", "1"]
        return Process(
            name,
            [*command, "--disable-hot-restart", "--log-level", "warning"],
            core=site.proxy_core,
            log=site.directory / f"{name}.log",
        )


def _document(*, listeners: list[Json], clusters: list[Json]) -> Json:
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _address(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(port: int, network_filter: Json, tls: Json | None) -> Json:
    chain: Json = {"filters": [network_filter]}
    if tls is not None:
        chain["transport_socket"] = tls
    return {"name": f"on_{port}", "address": _address(port), "filter_chains": [chain]}


def _http_listener(port: int, cluster: str, tls: Json | None) -> Json:
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "HTTP1",
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
    return _listener(port, {"name": "http", "typed_config": manager}, tls)


def _tcp_listener(port: int, cluster: str, tls: Json | None) -> Json:
    relay = {
        "@type": f"{_EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": cluster,
    }
    return _listener(port, {"name": "tcp", "typed_config": relay}, tls)


def _cluster(name: str, port: int, tls: Json | None) -> Json:
    endpoint = {"endpoint": {"address": _address(port)}}
    cluster: Json = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if tls is not None:
        cluster["transport_socket"] = tls
    return cluster


def _common_tls(site: Site, own: str, peer: str) -> Json:
    home = site.identities / own
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(home / "chain.pem")},
                "private_key": {"filename": str(home / "key.pem")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(site.identities / "trust.pem")},
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": spiffe_id(peer)}}
            ],
        },
    }


def _downstream_tls(site: Site, service: str) -> Json:
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "common_tls_context": _common_tls(site, service, CALLER),
            "require_client_certificate": True,
            "disable_stateless_session_resumption": True,
        },
    }


def _upstream_tls(site: Site, service: str) -> Json:
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{_TLS}.UpstreamTlsContext",
            "common_tls_context": _common_tls(site, CALLER, service),
            "sni": server_name(service),
            "max_session_keys": 0,
        },
    }
