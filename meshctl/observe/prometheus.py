"""``prometheus.yml``: how Prometheus finds every proxy of the mesh, once, and names its series.

Proxies register each of their services in Consul, with the address of their metrics port in the
metadata; it is the same on all services of a host, and so are the labels that are made of it.
Prometheus keeps one of targets that are equal, so a host is scraped once however many services it
has, and a host that only calls others is found as well.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from meshctl.inventory.model import Host, Inventory, Role
from meshctl.observe.terms import JOB
from meshctl.observe.yamltext import quoted
from proxy.model import registration as reg
from proxy.model.names import TrustDomain

HEADER = "# Written by `meshctl observe prometheus`, which writes it anew; keep changes elsewhere."
RECORDING_FILE = "meshctl-recording.yml"
ALERTING_FILE = "meshctl-alerts.yml"
TOKEN_FILE = "consul.token"  # noqa: S105 - a file's name
INTERVAL_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """How to ask Consul."""

    server: str
    """``host:port`` of an agent's HTTP API, as Prometheus sees it."""
    datacenter: str
    trust_domain: TrustDomain
    token_file: str | None = None
    """With a token, as Prometheus sees it, or beside its configuration. None: nobody needs one."""


def scraped(inventory: Inventory) -> tuple[Host, ...]:
    """The hosts whose proxies can be scraped."""
    return tuple(
        host for host in inventory.hosts if host.metrics.sources and Role.WORKLOAD in host.roles
    )


def configuration(job: str) -> str:
    """The whole ``prometheus.yml`` around a scrape job of below."""
    return "\n".join(
        (
            HEADER,
            "global:",
            f"  scrape_interval: {INTERVAL_S}s",
            f"  evaluation_interval: {INTERVAL_S}s",
            "rule_files:",
            f"  - {RECORDING_FILE}",
            f"  - {ALERTING_FILE}",
            "scrape_configs:",
            job,
        )
    )


def consul_job(discovery: Discovery) -> str:
    """One item of ``scrape_configs``: the proxies that Consul knows."""
    return _text(_consul_lines(discovery))


def static_job(inventory: Inventory) -> str:
    """The same for the hosts of the inventory, for a Prometheus that cannot ask Consul."""
    return _text(_static_lines(inventory))


def _text(lines: Iterator[str]) -> str:
    return "\n".join((*lines, ""))


def _consul_lines(discovery: Discovery) -> Iterator[str]:
    yield f"  - job_name: {JOB}"
    yield "    consul_sd_configs:"
    yield f"      - server: {quoted(discovery.server)}"
    yield f"        datacenter: {quoted(discovery.datacenter)}"
    if discovery.token_file is not None:
        yield "        authorization:"
        yield f"          credentials_file: {quoted(discovery.token_file)}"
    yield "    relabel_configs:"
    yield "      # Services of this mesh, of hosts that let themselves be scraped."
    yield from _relabelling(
        "keep",
        regex=re.escape(discovery.trust_domain),
        source=_meta(reg.META_TRUST_DOMAIN),
    )
    yield from _relabelling("keep", regex=".+", source=_meta(reg.META_METRICS))
    yield "      # The services of a host become equal targets, of which one is kept."
    for source, target in (
        (_meta(reg.META_METRICS), "__address__"),
        (_meta(reg.META_HOST), "host"),
        ("__meta_consul_dc", "datacenter"),
        (_meta(reg.META_ZONE), "zone"),
    ):
        yield f"      - source_labels: [{source}]"
        yield f"        target_label: {target}"


def _relabelling(action: str, *, regex: str, source: str) -> Iterator[str]:
    yield f"      - source_labels: [{source}]"
    yield f"        regex: {quoted(regex)}"
    yield f"        action: {action}"


def _meta(key: str) -> str:
    """As Prometheus calls a service's metadata."""
    return f"__meta_consul_service_metadata_{re.sub('[^a-zA-Z0-9_]', '_', key)}"


def _static_lines(inventory: Inventory) -> Iterator[str]:
    yield f"  - job_name: {JOB}"
    yield "    static_configs:"
    for host in scraped(inventory):
        address = f"[{host.address}]" if ":" in host.address else host.address
        yield f"      - targets: [{quoted(f'{address}:{host.metrics.port}')}]"
        yield "        labels:"
        yield f"          host: {quoted(host.name)}"
        yield f"          datacenter: {quoted(inventory.consul.datacenter)}"
        if host.zone:
            yield f"          zone: {quoted(host.zone)}"
