"""What has to hold between the values of an inventory: names, ports, roles, Consul.

Works on what could be read, so that one wrong value does not hide the others.
"""

from pathlib import PurePath
from typing import TypeVar

from meshctl.durations import show
from meshctl.inventory import words
from meshctl.inventory.model import ConsulMode, Role
from meshctl.inventory.ports import check_ports, has_http_upstreams, has_signer, outbound_ports
from meshctl.inventory.reading import (
    is_local,
    overlay,
    protocols_of,
    roles_of,
    services_of,
    upstreams_of,
)
from meshctl.inventory.shape import Entry, Findings, closest
from proxy.model.names import LABEL_RULE, InvalidName, parse_zone
from proxy.model.settings import HealthCheck

K = TypeVar("K")

HEALTH_KINDS = ("http", "grpc", "tcp")

LEAST_LIFE_BY_HAND_S = 7 * 86400.0
"""A week: `meshctl check` begins to warn that long before an identity ends."""


def check(root: Entry, findings: Findings) -> None:
    """Adds a violation for each rule broken."""
    hosts = root["hosts"].parts() if "hosts" in root else ()
    if "consul" in root:
        _check_consul(root["consul"], hosts, findings)
    _check_unique_hosts(root, hosts, findings)
    _check_roots(hosts, findings)
    for host in hosts:
        _check_host(host, findings)
    _check_leaf_life(root, hosts, findings)
    _check_services(root, hosts, findings)
    _check_outbound(root, hosts, findings)
    check_ports(root, hosts, findings)


def _check_consul(consul: Entry, hosts: tuple[Entry, ...], findings: Findings) -> None:
    mode = consul.plain("mode")
    if mode is None:
        return
    at = consul.get("address")
    if (
        at is not None
        and mode != ConsulMode.EXISTING
        and not words.is_loopback(words.consul_host_port(at.value)[0])
    ):
        why = f"with mode {mode} the agent listens on loopback only"
        findings.add(at.path, at.line, why, "use http://127.0.0.1:PORT")
    for key in ("token_file", "operator_token_file"):
        if mode != ConsulMode.EXISTING and key in consul:
            at = consul[key]
            findings.add(at.path, at.line, f"mode {mode} has no token file", "remove it")
    if mode == ConsulMode.MANAGED:
        _check_managed(consul, hosts, findings)
    elif "package" in consul:
        at = consul["package"]
        why = f"mode {mode} installs no Consul"
        findings.add(at.path, at.line, why, "remove it, or use 'mode: managed'")
    if mode == ConsulMode.EMBEDDED:
        for host in hosts:
            if not is_local(host):
                findings.add(
                    f"{consul.path}.mode",
                    consul["mode"].line,
                    f"embedded serves this machine only, but {host.path} is reached over ssh",
                    "use existing or managed, or 'transport: local' for every host",
                )
                break


def _check_managed(consul: Entry, hosts: tuple[Entry, ...], findings: Findings) -> None:
    package = consul.get("package")
    if package is not None:
        _check_package(package, findings)
    elif consul.lacks("package"):
        findings.add(
            f"{consul.path}.package",
            consul.line,
            "it is missing: mode managed installs Consul on the hosts",
            "add 'package: {binary: ./consul}' or 'package: {archive: FILE, sha256: SUM}'",
        )
    for host in hosts:
        if is_local(host):
            at = host["transport"]
            why = "a local host cannot have a managed Consul"
            findings.add(at.path, at.line, why, "use mode embedded or existing, or ssh")
    servers = sum(1 for host in hosts if Role.CONTROL in roles_of(host))
    mode = consul["mode"]
    if servers == 0:
        findings.add(
            mode.path,
            mode.line,
            "mode managed needs a host with the role control, where Consul's servers run",
            "add 'roles: [control, workload]' to 1, 3 or 5 hosts",
        )
    elif servers % 2 == 0:
        findings.add(
            mode.path,
            mode.line,
            f"{servers} control hosts: an even number of Consul servers tolerates no more "
            f"failures than {servers - 1}, and can split in halves",
            "give the role control to 1, 3 or 5 hosts",
        )


def _check_package(package: Entry, findings: Findings) -> None:
    has_binary, has_archive = not package.lacks("binary"), not package.lacks("archive")
    if has_binary == has_archive:
        what = "both binary and archive are given" if has_binary else "neither binary nor archive"
        findings.add(package.path, package.line, what, "give exactly one of the two")
    elif has_archive and package.lacks("sha256"):
        findings.add(
            f"{package.path}.sha256",
            package.line,
            "it is missing: an archive is installed only if its sum is known",
            "add the SHA-256 sum published with the archive",
        )
    elif has_binary and "sha256" in package:
        at = package["sha256"]
        findings.add(at.path, at.line, "it belongs to an archive, not to a binary", "remove it")


def _check_leaf_life(root: Entry, hosts: tuple[Entry, ...], findings: Findings) -> None:
    """A short life is for those that renew by themselves; an operator has other things to do."""
    life = root["certificates"].get("leaf_life") if "certificates" in root else None
    if life is None or life.value >= LEAST_LIFE_BY_HAND_S:
        return
    if not any(has_signer(root, host) for host in hosts):
        findings.add(
            life.path,
            life.line,
            "identities would end before anybody renews them: there is no signer",
            "use 168h or more, or give the role control to a host that is reached over ssh",
        )


def _check_unique_hosts(root: Entry, hosts: tuple[Entry, ...], findings: Findings) -> None:
    names: dict[str, Entry] = {}
    addresses: dict[tuple[str, int], Entry] = {}
    for host in hosts:
        name, address = host.get("name"), host.get("address")
        if name is not None:
            _first(names, name.value, name, f"the name {name.value!r}", findings)
        if address is not None and not is_local(host):
            port = overlay(root, host, "ssh").get("port")
            number = 22 if port is None else port.value
            what = f"{address.value} with ssh port {number}"
            _first(addresses, (address.value, number), address, what, findings)


def _check_roots(hosts: tuple[Entry, ...], findings: Findings) -> None:
    seen: list[Entry] = []
    for host in hosts:
        root = host.get("root")
        if not is_local(host):
            if root is not None:
                why = "only a local host has a root; over ssh it is the host's own /"
                findings.add(root.path, root.line, why, "remove it")
            continue
        if root is None:
            continue
        folder = PurePath(root.value)
        if folder == PurePath(folder.anchor):
            findings.add(root.path, root.line, "it is the whole machine", "use a folder")
        for other in seen:
            taken = PurePath(other.value)
            if folder == taken or folder in taken.parents or taken in folder.parents:
                findings.add(
                    root.path,
                    root.line,
                    f"it shares its folder with {other.path} (line {other.line})",
                    "give each local host a folder of its own",
                )
                break
        seen.append(root)


def _check_host(host: Entry, findings: Findings) -> None:
    if is_local(host):
        if host.lacks("root"):
            why = "it is missing: a local host lives in a folder"
            findings.add(f"{host.path}.root", host.line, why, "add 'root: ./run/NAME'")
        if "ssh" in host:
            at = host["ssh"]
            findings.add(at.path, at.line, "a local host is not reached over ssh", "remove it")
    elif host.lacks("address"):
        why = "it is missing: where the host is reached"
        findings.add(f"{host.path}.address", host.line, why, "add 'address: 10.0.0.11' or a name")
    if Role.WORKLOAD not in roles_of(host) and services_of(host):
        at = host["services"]
        findings.add(
            at.path,
            at.line,
            "services are there, but the host does not have the role workload",
            "add workload to its roles, or move the services",
        )
    _check_zone(host, findings)


def _check_zone(host: Entry, findings: Findings) -> None:
    """The label stands in for the key only where nothing else is said."""
    label = host["labels"].get("zone") if "labels" in host else None
    if label is None or not host.lacks("zone"):
        return
    try:
        parse_zone(label.value)
    except InvalidName:
        findings.add(
            label.path,
            label.line,
            f"{label.value!r} cannot be the host's zone, which is this label if not said otherwise",
            f"give the host a 'zone: NAME', or use {LABEL_RULE} in the label",
        )


def _check_services(root: Entry, hosts: tuple[Entry, ...], findings: Findings) -> None:
    defaults = root.get("defaults")
    inherited = defaults.plain("protocol", "tcp") if defaults is not None else "tcp"
    inherited_health = defaults.get("health") if defaults is not None else None
    protocols: dict[str, tuple[str, Entry]] = {}
    for host in hosts:
        names: dict[str, Entry] = {}
        for service in services_of(host):
            name = service.get("name")
            if name is None:
                continue
            _first(names, name.value, name, f"the service {name.value!r} on this host", findings)
            protocol = service.plain("protocol", inherited)
            known, first = protocols.setdefault(name.value, (protocol, name))
            if protocol != known:
                at = service.get("protocol") or name
                findings.add(
                    at.path,
                    at.line,
                    f"{name.value} speaks {protocol} here and {known} in {first.path} "
                    f"(line {first.line})",
                    "a service has one protocol on all hosts",
                )
    for host in hosts:
        for service in services_of(host):
            protocol = service.plain("protocol", inherited)
            _check_health(service.get("health"), inherited_health, findings)
            _check_asked(service, protocol, inherited_health, findings)
            _check_upstreams(service, set(protocols), findings)
    _check_health(inherited_health, None, findings)


def _check_health(own: Entry | None, inherited: Entry | None, findings: Findings) -> None:
    if own is None:
        return
    kinds = [kind for kind in HEALTH_KINDS if kind in own]
    if len(kinds) > 1:
        at = own[kinds[-1]]
        both = "both " if len(kinds) == 2 else ""
        why = f"{both}{' and '.join(kinds)} are given"
        findings.add(at.path, at.line, why, f"keep one of the {len(kinds)}")
    times = {"interval": HealthCheck().interval_s}
    for entry in (inherited, own):
        given = {} if entry is None else entry.value
        times |= {key: given[key].value for key in ("interval", "timeout") if key in given}
    # The default of the timeout gives way to a short interval; one that was written does not.
    if times.get("timeout", 0) > times["interval"]:
        at = own.get("timeout") or own.get("interval") or own
        findings.add(
            at.path,
            at.line,
            f"a check may take {show(times['timeout'])} but is repeated after "
            f"{show(times['interval'])}",
            "make the timeout shorter than the interval",
        )


def _check_asked(
    service: Entry, protocol: str, inherited: Entry | None, findings: Findings
) -> None:
    own = service.get("health")
    if protocol != "http":
        return  # Of tcp nothing is known that would forbid it.
    for health in (own, inherited):
        if health is None or not any(kind in health for kind in HEALTH_KINDS):
            continue
        if "grpc" in health:
            at = service if health is inherited else health["grpc"]
            findings.add(
                at.path,
                at.line,
                "it is asked by gRPC, which is HTTP/2, but speaks http, which is HTTP/1.1",
                "use 'health: {http: /path}', or 'protocol: grpc'",
            )
        return


def _check_upstreams(service: Entry, known: set[str], findings: Findings) -> None:
    seen: dict[str, Entry] = {}
    for upstream in upstreams_of(service):
        name = upstream.get("service")
        if name is None:
            continue
        _first(seen, name.value, name, f"the upstream {name.value!r}", findings)
        if name.value not in known:
            guess = closest(name.value, sorted(known))
            findings.add(
                name.path,
                name.line,
                f"no host has a service {name.value!r}",
                f"did you mean {guess!r}?" if guess else "add it to the services of a host",
            )


def _check_outbound(root: Entry, hosts: tuple[Entry, ...], findings: Findings) -> None:
    """A service that calls others needs one way at least to do so."""
    ports, protocols = outbound_ports(root), protocols_of(root)
    for service in (service for host in hosts for service in services_of(host)):
        upstreams, given = upstreams_of(service), service.get("outbound_port")
        is_http = has_http_upstreams(service, protocols)
        if given is not None and given.value and not is_http and _are_known(upstreams, protocols):
            why = "it leads nowhere: the service has no http upstreams"
            findings.add(given.path, given.line, why, "remove it, or add them to its upstreams")
        elif upstreams and all(upstream.lacks("port") for upstream in upstreams):
            if is_http and ports[service.path] is None and "outbound_port" not in service.unread:
                findings.add(
                    f"{service.path}.outbound_port",
                    service.line if given is None else given.line,
                    "none of the upstreams has a port, and there is no outbound port either: "
                    "nothing leads to them",
                    "add 'outbound_port: 15001', or another that is free, or ports of their own",
                )
            elif not is_http and _are_known(upstreams, protocols):
                findings.add(
                    upstreams[0].path,
                    upstreams[0].line,
                    "none of the upstreams has a port, and they speak tcp: nothing leads to them",
                    "give them ports: '- NAME: 9001'",
                )


def _are_known(upstreams: tuple[Entry, ...], protocols: dict[str, str]) -> bool:
    return all(upstream.plain("service") in protocols for upstream in upstreams)


def _first(seen: dict[K, Entry], key: K, entry: Entry, what: str, findings: Findings) -> None:
    other = seen.setdefault(key, entry)
    if other is not entry:
        findings.add(
            entry.path,
            entry.line,
            f"{what} is there already: {other.path} (line {other.line})",
            "each must be unique",
        )
