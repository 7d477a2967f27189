"""``inventory.yaml`` as text to an Inventory, or every violation at once with path and line.

Pure: no file is looked at but the text itself; whether files that it names exist is
``meshctl.inventory.files``'s question. Defaults are those of ``meshctl.inventory.model``.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from meshctl import yamltree
from meshctl.errors import InvalidInput
from meshctl.inventory import checks, fields
from meshctl.inventory.model import (
    MANAGED_TOKEN_FILE,
    Become,
    Certificates,
    Consul,
    ConsulBinary,
    ConsulMode,
    Host,
    HostKeyPolicy,
    Inventory,
    MetricsPlacement,
    ProxyPlacement,
    Role,
    Service,
    SignerMode,
    Ssh,
    TransportKind,
    UpstreamUse,
)
from meshctl.inventory.ports import outbound_ports
from meshctl.inventory.reading import protocols_of, services_of, upstreams_of
from meshctl.inventory.shape import Entry, Findings
from proxy.model.names import ServiceName
from proxy.model.settings import HealthCheck, Protocol
from proxy.model.violation import Violation

_MAX_SHOWN = 500
"""Violations; a file with more has one cause, which is among them."""


def parse(text: str, source: Path) -> Inventory:
    """``source`` is where the text came from: for messages, and for relative paths in it.

    Raises InvalidInput.
    """
    tree = yamltree.load(text, str(source))
    findings = Findings()
    root = fields.INVENTORY.read(tree, "", findings)
    base = source.absolute().parent
    if root is not None:
        root = _with_paths(root, base, findings)
        checks.check(root, findings)
    if root is None or findings.violations:
        raise _invalid(source, findings)
    return _Builder(root).inventory(source.absolute())


def _invalid(source: Path, findings: Findings) -> InvalidInput:
    by_line = sorted(findings.violations, key=lambda violation: violation.line or 0)
    shown = by_line[:_MAX_SHOWN]
    if len(by_line) > len(shown):
        more = len(by_line) - len(shown)
        shown.append(Violation(path="(file)", message=f"and {more} more violations"))
    return InvalidInput(str(source), shown, hint=f"edit {source}; nothing was done")


def _with_paths(root: Entry, base: Path, findings: Findings) -> Entry:
    """Every path on this machine made absolute; only the text of the paths is looked at."""

    def resolve(record: Entry | None, *keys: str) -> Entry | None:
        if record is None:
            return None
        resolved = {}
        for key, entry in record.value.items():
            if key not in keys:
                resolved[key] = entry
                continue
            try:
                expanded = Path(entry.value).expanduser()
            except RuntimeError:
                hint = "write the path in full"
                findings.add(entry.path, entry.line, f"{entry.value!r}: no such user", hint)
                continue
            absolute = Path(os.path.normpath(base / expanded))
            resolved[key] = replace(entry, value=absolute)
        return replace(record, value=resolved)

    def with_part(record: Entry, key: str, part: Entry | None) -> Entry:
        if part is None:
            return record
        return replace(record, value={**record.value, key: part})

    def host(entry: Entry) -> Entry:
        resolved = resolve(entry, "root") or entry
        return with_part(resolved, "ssh", resolve(entry.get("ssh"), "key", "known_hosts"))

    root = with_part(root, "ssh", resolve(root.get("ssh"), "key", "known_hosts"))
    if "consul" in root:
        consul = resolve(root["consul"], "operator_token_file") or root["consul"]
        package = resolve(consul.get("package"), "binary", "archive")
        root = with_part(root, "consul", with_part(consul, "package", package))
    if "hosts" in root:
        hosts = root["hosts"]
        made = tuple(host(entry) for entry in hosts.parts())
        root = with_part(root, "hosts", replace(hosts, value=made))
    return root


class _Builder:
    """Entries without violations to the model."""

    def __init__(self, root: Entry) -> None:
        self._root = root
        self._defaults = _plain(root.get("defaults"))
        self._protocols = cast(dict[ServiceName, Protocol], protocols_of(root))
        self._outbound = outbound_ports(root)

    def inventory(self, source: Path) -> Inventory:
        return Inventory(
            source=source,
            consul=self._consul(self._root["consul"]),
            hosts=tuple(self._host(host) for host in self._root["hosts"].parts()),
            certificates=self._certificates(self._root.get("certificates")),
        )

    def _default(self, key: str, otherwise: Any) -> Any:
        return self._defaults.get(key, otherwise)

    def _consul(self, entry: Entry) -> Consul:
        given = _plain(entry)
        given["mode"] = ConsulMode(given["mode"])
        if "package" in entry:
            given["package"] = ConsulBinary(**_plain(entry["package"]))
        if given["mode"] is ConsulMode.MANAGED:
            given["token_file"] = MANAGED_TOKEN_FILE
        return Consul(**given)

    def _certificates(self, entry: Entry | None) -> Certificates:
        given = _plain(entry)
        if "signer" in given:
            given["signer"] = SignerMode(given["signer"])
        if "leaf_life" in given:
            given["leaf_life_s"] = given.pop("leaf_life")
        return Certificates(**given)

    def _host(self, entry: Entry) -> Host:
        transport = TransportKind(entry.plain("transport", TransportKind.SSH))
        roles = entry["roles"].parts() if "roles" in entry else ()
        labels = {key: label.value for key, label in _record(entry.get("labels")).items()}
        return Host(
            name=entry["name"].value,
            address=entry.plain("address", "127.0.0.1"),
            roles=frozenset(Role(role.value) for role in roles) or frozenset({Role.WORKLOAD}),
            zone=entry.plain("zone", labels.get("zone", "")),
            labels=labels,
            transport=transport,
            root=str(entry.plain("root", "")),
            ssh=self._ssh(entry.get("ssh")),
            proxy=self._proxy(entry.get("proxy")),
            metrics=self._metrics(entry.get("metrics")),
            services=tuple(self._service(service) for service in services_of(entry)),
        )

    def _ssh(self, own: Entry | None) -> Ssh:
        given = _plain(self._root.get("ssh")) | _plain(own)
        if "become" in given:
            given["become"] = Become(given["become"])
        if "host_keys" in given:
            given["host_keys"] = HostKeyPolicy(given["host_keys"])
        if "connect_timeout" in given:
            given["connect_timeout_s"] = given.pop("connect_timeout")
        return Ssh(**given)

    def _proxy(self, own: Entry | None) -> ProxyPlacement:
        given = _plain(self._root.get("proxy")) | _plain(own)
        if "drain" in given:
            given["drain_s"] = given.pop("drain")
        if "max_memory" in given:
            given["max_memory_bytes"] = given.pop("max_memory")
        return ProxyPlacement(**given)

    def _metrics(self, own: Entry | None) -> MetricsPlacement:
        given = _plain(self._root.get("metrics")) | _plain(own)
        if "from" in given:
            given["sources"] = tuple(network.value for network in given.pop("from"))
        return MetricsPlacement(**given)

    def _service(self, entry: Entry) -> Service:
        given = self._defaults | _plain(entry)
        given["health"] = self._health(entry.get("health"))
        given["upstreams"] = tuple(
            UpstreamUse(
                service=upstream["service"].value,
                port=upstream.plain("port"),
                protocol=self._protocols[upstream["service"].value],
            )
            for upstream in upstreams_of(entry)
        )
        given["outbound_port"] = self._outbound[entry.path]
        return Service(**given)

    def _health(self, own: Entry | None) -> HealthCheck:
        inherited, mine = _plain(self._defaults_health()), _plain(own)
        if any(kind in mine for kind in checks.HEALTH_KINDS):
            for kind in checks.HEALTH_KINDS:
                inherited.pop(kind, None)
        given = inherited | mine
        for key in ("interval", "timeout"):
            if key in given:
                given[f"{key}_s"] = given.pop(key)
        if "interval_s" in given and "timeout_s" not in given:
            # A default must never contradict what was written.
            given["timeout_s"] = min(HealthCheck().timeout_s, given["interval_s"])
        given.pop("tcp", None)
        if "http" in given:
            return HealthCheck(kind="http", path=given.pop("http"), **given)
        if "grpc" in given:
            return HealthCheck(kind="grpc", grpc_service=given.pop("grpc"), **given)
        return HealthCheck(kind="tcp", **given)

    def _defaults_health(self) -> Entry | None:
        defaults = self._root.get("defaults")
        return None if defaults is None else defaults.get("health")


def _record(entry: Entry | None) -> Mapping[str, Entry]:
    return {} if entry is None else entry.value


def _plain(entry: Entry | None) -> dict[str, Any]:
    """The record's own values, to be given to a dataclass by name."""
    return {key: value.value for key, value in _record(entry).items()}
