"""Envoy: one worker, with every feature on or as lean as it goes."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchkit import probe
from benchkit.contestants import (
    CALLER,
    EVERY_PHASE,
    HTTP_SERVICE,
    TCP_SERVICE,
    Group,
    Pair,
    Site,
)
from benchkit.contestants import envoy_documents as documents
from benchkit.contestants.envoy_documents import Json
from benchkit.processes import Group as Processes
from benchkit.processes import Process

_FULL: Sequence[str] = (
    "`--concurrency 1`, route table, least request over two endpoints, retry policy and budget, "
    "circuit breakers, outlier detection, request id, trace context by its OpenTelemetry tracer "
    "(nothing sampled, so nothing exported), RBAC on the peer's SPIFFE ID for each request, "
    "`x-forwarded-client-cert`, statistics with the admin listener",
    "WebSocket allowed; for gRPC and HTTP/2: HTTP/2 on all three connections with Envoy's own "
    "windows, no time limit of its own, `grpc-timeout` honoured, `grpc_stats` for all methods",
)
_BARE: Sequence[str] = (
    "`--concurrency 1`, HTTP connection manager with the router as its only filter, "
    "no admin listener",
    "the peer is checked by its URI SAN, once per connection",
)


class Envoy:
    def __init__(self, binary: Path, group: Group = Group.FULL) -> None:
        self._binary = binary
        self.group = group
        self._is_full = group is Group.FULL
        self.name = "envoy" if self._is_full else f"envoy {group}"
        self.phases = EVERY_PHASE if self._is_full else frozenset({"http"})
        self.features = _FULL if self._is_full else _BARE
        self.omissions: Sequence[str] = (
            (
                "no metrics by calling service, no health check of the application",
                "for TCP the peer is checked in the TLS handshake, without the RBAC filter",
            )
            if self._is_full
            else ()
        )
        said = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, check=True
        )
        # ".../envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL"
        self.version = said.stdout.strip().rpartition("version: ")[2].split("/")[1]

    def start(self, site: Site, processes: Processes) -> Pair:
        server, client = self.configurations(site)
        first = processes.add(self._run(site, "envoy-server", server))
        probe.wait_listening(first, site.ports.http_in)
        return Pair(server=first, client=processes.add(self._run(site, "envoy-client", client)))

    def intruders(self, site: Site) -> Sequence[str]:
        return probe.intruders(site)

    def configurations(self, site: Site) -> tuple[Json, Json]:
        """The server's bootstrap and the client's."""
        ports, is_full = site.ports, self._is_full
        hosts = documents.server_hosts(has_features=is_full)
        local = ("127.0.0.1",)
        collector = [documents.collector()] if is_full else []
        application = site.application
        is_multiplexed = application.is_multiplexed
        counted = [documents.grpc_statistics()] if application.protocol == "grpc" else []
        to_app = documents.http(
            HTTP_SERVICE,
            filters=[documents.authorization(CALLER), *counted] if is_full else None,
            more=documents.server_features() if is_full else None,
            is_multiplexed=is_multiplexed,
        )
        from_app = documents.http(
            HTTP_SERVICE,
            routes=documents.routes(application) if is_full else None,
            filters=counted,
            more=documents.client_features() if is_full else None,
            is_multiplexed=is_multiplexed,
        )
        http_tls = documents.downstream_tls(
            site,
            HTTP_SERVICE,
            caller=None if is_full else CALLER,
            is_multiplexed=is_multiplexed,
        )
        tcp_tls = documents.downstream_tls(site, TCP_SERVICE, caller=CALLER)
        server = documents.document(
            listeners=[
                documents.listener(hosts, ports.http_in, to_app, http_tls),
                documents.listener(hosts, ports.tcp_in, documents.tcp(TCP_SERVICE), tcp_tls),
            ],
            clusters=[
                documents.cluster(
                    HTTP_SERVICE,
                    local,
                    application.port,
                    None,
                    has_features=is_full,
                    is_multiplexed=is_multiplexed,
                    most_requests=application.most_requests,
                ),
                documents.cluster(
                    TCP_SERVICE, local, site.backend_port, None, has_features=is_full
                ),
                *collector,
            ],
            admin_port=ports.server_admin if is_full else None,
        )
        client = documents.document(
            listeners=[
                documents.listener(local, ports.http_out, from_app, None),
                documents.listener(local, ports.tcp_out, documents.tcp(TCP_SERVICE), None),
            ],
            clusters=[
                documents.cluster(
                    HTTP_SERVICE,
                    hosts,
                    ports.http_in,
                    documents.upstream_tls(site, HTTP_SERVICE, is_multiplexed=is_multiplexed),
                    has_features=is_full,
                    is_multiplexed=is_multiplexed,
                    most_requests=application.most_requests,
                ),
                documents.cluster(
                    TCP_SERVICE,
                    hosts,
                    ports.tcp_in,
                    documents.upstream_tls(site, TCP_SERVICE),
                    has_features=is_full,
                ),
                *collector,
            ],
            admin_port=ports.client_admin if is_full else None,
        )
        return server, client

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
