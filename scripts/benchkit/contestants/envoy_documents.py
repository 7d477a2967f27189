"""Envoy's static configuration, piece by piece: what every variant has, and what the features add.

Field names and ``@type`` URLs are those of Envoy's v3 API reference.
"""

from typing import Any

from benchkit.contestants import (
    ADDRESSES,
    CALLER,
    HTTP_SERVICE,
    ROUTING_HEADER,
    Application,
    Route,
    Site,
    server_name,
    spiffe_id,
)

# Envoy's documents are nested far beyond any type; they go no further than the JSON encoder.
Json = dict[str, Any]

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_TLS = f"{_EXTENSIONS}.transport_sockets.tls.v3"

_OUTLIER_DETECTION: Json = {
    "consecutive_5xx": 5,
    "interval": "10s",
    "base_ejection_time": "30s",
    "max_ejection_time": "300s",
    "max_ejection_percent": 10,
}
_RETRIES: Json = {
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 2,
    "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
}
_HTTP2: Json = {
    f"{_EXTENSIONS.removeprefix('type.googleapis.com/')}.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}
# A stream may last; the time of a call is what its caller says in grpc-timeout.
_STREAMS: Json = {"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}
_COLLECTOR = "collector"
# The tracer wants a collector to be named, but nothing is sampled: the trace context is made or
# carried on, and nothing is ever sent.
_TRACING: Json = {
    "provider": {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "service_name": CALLER,
            "grpc_service": {"envoy_grpc": {"cluster_name": _COLLECTOR}},
        },
    },
    "random_sampling": {"value": 0},
}


def document(*, listeners: list[Json], clusters: list[Json], admin_port: int | None = None) -> Json:
    """A whole bootstrap; with an admin port, where the metrics are."""
    found: Json = {"static_resources": {"listeners": listeners, "clusters": clusters}}
    if admin_port is not None:
        found["admin"] = {"address": address("127.0.0.1", admin_port)}
    return found


def address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def listener(hosts: tuple[str, ...], port: int, network_filter: Json, tls: Json | None) -> Json:
    chain: Json = {"filters": [network_filter]}
    if tls is not None:
        chain["transport_socket"] = tls
    first, *others = hosts
    found: Json = {
        "name": f"on_{port}",
        "address": address(first, port),
        "filter_chains": [chain],
    }
    if others:
        found["additional_addresses"] = [{"address": address(host, port)} for host in others]
    return found


def http(
    cluster: str,
    *,
    routes: list[Json] | None = None,
    filters: list[Json] | None = None,
    more: Json | None = None,
    is_multiplexed: bool = False,
) -> Json:
    """The network filter; without ``routes`` everything goes to ``cluster``. ``is_multiplexed``:
    takes HTTP/2 as well, by its preface or by ALPN."""
    timeouts = _STREAMS if is_multiplexed else {}
    everything = [{"match": {"prefix": "/"}, "route": {"cluster": cluster, **timeouts}}]
    manager: Json = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "AUTO" if is_multiplexed else "HTTP1",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes or everything}]
        },
        "http_filters": [
            *(filters or []),
            {
                "name": "router",
                "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
            },
        ],
        **(more or {}),
    }
    return {"name": "http", "typed_config": manager}


def tcp(cluster: str) -> Json:
    relay = {
        "@type": f"{_EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": cluster,
    }
    return {"name": "tcp", "typed_config": relay}


def cluster(
    name: str,
    hosts: tuple[str, ...],
    port: int,
    tls: Json | None,
    *,
    has_features: bool = False,
    is_multiplexed: bool = False,
    most_requests: int = 1024,
) -> Json:
    endpoints = [{"endpoint": {"address": address(host, port)}} for host in hosts]
    found: Json = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if tls is not None:
        found["transport_socket"] = tls
    if is_multiplexed:
        found["typed_extension_protocol_options"] = _HTTP2
    if has_features:
        found |= {
            "lb_policy": "LEAST_REQUEST",
            "outlier_detection": _OUTLIER_DETECTION,
            "circuit_breakers": {"thresholds": [_limits(most_requests)]},
        }
    return found


def _limits(most_requests: int) -> Json:
    return {
        "max_connections": 1024,
        "max_pending_requests": most_requests,
        "max_requests": most_requests,
        "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 3},
    }


def collector() -> Json:
    """Where spans would go: nobody listens there."""
    return cluster(_COLLECTOR, ("127.0.0.1",), 1, None)


def client_features() -> Json:
    """Of the connection manager that takes the application's requests."""
    return {
        "tracing": _TRACING,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "preserve_external_request_id": True,
        "use_remote_address": False,
        "forward_client_cert_details": "SANITIZE",
    }


def server_features() -> Json:
    """Of the connection manager behind mTLS: whatever identity arrives in a header is dropped."""
    return {
        "tracing": _TRACING,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "preserve_external_request_id": True,
        "use_remote_address": False,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
    }


def routes(application: Application) -> list[Json]:
    timeouts = _STREAMS if application.is_multiplexed else {"timeout": "15s"}
    return [
        {
            "name": route.name,
            "match": _match(route),
            "route": {"cluster": HTTP_SERVICE, **timeouts, "retry_policy": _RETRIES},
        }
        for route in application.routes
    ]


def grpc_statistics() -> Json:
    """The HTTP filter that counts calls by service, method and status."""
    return {
        "name": "grpc_stats",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.http.grpc_stats.v3.FilterConfig",
            "stats_for_all_methods": True,
        },
    }


def authorization(caller: str) -> Json:
    """The HTTP filter that lets one principal in, and nobody else."""
    principal = {"authenticated": {"principal_name": {"exact": spiffe_id(caller)}}}
    return {
        "name": "rbac",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "ALLOW",
                "policies": {caller: {"permissions": [{"any": True}], "principals": [principal]}},
            },
        },
    }


def downstream_tls(
    site: Site, service: str, *, caller: str | None, is_multiplexed: bool = False
) -> Json:
    """``caller`` None: any of the mesh, because a filter behind decides."""
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "common_tls_context": {
                **_common_tls(site, service, caller),
                **({"alpn_protocols": ["h2", "http/1.1"]} if is_multiplexed else {}),
            },
            "require_client_certificate": True,
            "disable_stateless_session_resumption": True,
        },
    }


def upstream_tls(site: Site, service: str, *, is_multiplexed: bool = False) -> Json:
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{_TLS}.UpstreamTlsContext",
            "common_tls_context": {
                **_common_tls(site, CALLER, service),
                **({"alpn_protocols": ["h2"]} if is_multiplexed else {}),
            },
            "sni": server_name(service),
            "max_session_keys": 0,
        },
    }


def server_hosts(*, has_features: bool) -> tuple[str, ...]:
    return ADDRESSES if has_features else ADDRESSES[:1]


def _match(route: Route) -> Json:
    found: Json = {"path_separated_prefix": route.path_prefix}
    if route.header_exact or route.header_prefix:
        text = (
            {"exact": route.header_exact} if route.header_exact else {"prefix": route.header_prefix}
        )
        found["headers"] = [{"name": ROUTING_HEADER, "string_match": text}]
    return found


def _common_tls(site: Site, own: str, peer: str | None) -> Json:
    home = site.identities / own
    trust: Json = {"trusted_ca": {"filename": str(site.identities / "trust.pem")}}
    if peer is not None:
        trust["match_typed_subject_alt_names"] = [
            {"san_type": "URI", "matcher": {"exact": spiffe_id(peer)}}
        ]
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
        "validation_context": trust,
    }
