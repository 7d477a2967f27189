"""The one command that reads a host, and the parser of what it prints."""

import json
from importlib import resources
from urllib.parse import urlsplit

from meshctl.facts.model import (
    HostFacts,
    Observation,
    RunningProxy,
    RunningSigner,
    SignerKeys,
)
from meshctl.inventory.model import ConsulMode, Host, Inventory, TransportKind
from meshctl.layout import (
    CONSUL_UNIT,
    CONSUL_USER,
    PROXY_UNIT,
    PROXY_USER,
    SIGNER_ADMIN_PORT,
    SIGNER_UNIT,
    SIGNER_USER,
    Layout,
)
from proxy.model.codec import Malformed, decode
from proxy.model.registration import SNAPSHOT_KEY

SIGNER_FILES = ("signer.json", "trust-bundle.pem", "record.json")

INTERPRETERS = ("python3", "python3.13", "python3.12", "python3.11", "/usr/local/bin/python3")
"""Tried in this order: the distribution's own first, because it gets security updates."""

# The first line of standard input is the request, the rest is the program: so neither has to fit
# into, or is visible in, the process table.
_BOOT = (
    "import sys; request = sys.stdin.readline(); scope = {}; "
    "exec(compile(sys.stdin.read(), 'meshctl', 'exec'), scope); scope['main'](request)"
)
_CHECK = "import sys; sys.exit(sys.version_info < (3, 11) or sys.implementation.name != 'cpython')"
_FIND = f"""\
found=
for python in "$@"; do
  if "$python" -I -S -c "{_CHECK}" 2>/dev/null; then exec "$python" -I -S -c "{_BOOT}"; fi
  [ -n "$found" ] || found=$("$python" -I -S -c 'import sys; print(sys.version.split()[0])' 2>/dev/null)
done
cat >/dev/null
now=$(date +%s)
[ "$(id -u)" = 0 ] && root=true || root=false
printf '{{"python":null,"found":"%s","machine":"%s","libc":"","os":"%s","systemd":null,' \\
  "$found" "$(uname -m)" "$(uname -s)"
printf '"is_root":%s,"started":%s,"ended":%s}}\\n' "$root" "$now" "$now"
"""  # noqa: E501 - a line of shell


def layout_of(host: Host) -> Layout:
    return Layout(host.root)


def admin_query(host: Host, *words: str) -> tuple[str, ...]:
    """The command on the host that asks its proxy's admin port. ``words``: options of
    ``proxy.query``, then method and path."""
    admin = f"127.0.0.1:{host.proxy.admin_port}"
    return (layout_of(host).python, "-I", "-m", "proxy.query", "--admin", admin, *words)


def uses_systemd(host: Host) -> bool:
    return host.transport is not TransportKind.LOCAL


def lock_path(host: Host) -> str:
    """In /run on purpose: a reboot ends every deploy, and takes its lock with it."""
    return f"{host.root}/run/meshctl-deploy.lock"


def pid_file(host: Host) -> str:
    return f"{host.root}/run/meshctl-proxy.pid"


def consul_ports(inventory: Inventory) -> tuple[int, ...]:
    """What a managed agent listens on: RPC, gossip, HTTP."""
    return (8300, 8301, urlsplit(inventory.consul.address).port or 8500)


def owned_paths(host: Host) -> tuple[str, ...]:
    """Every path outside the content-addressed directories that a deploy may write."""
    layout = layout_of(host)
    return (
        layout.prefix,
        layout.wheels,
        f"{layout.prefix}/releases",
        f"{layout.prefix}/configs",
        layout.etc,
        layout.state,
        layout.consul_dir,
        layout.consul_state,
        f"{layout.etc}/consul.json",
        layout.consul_token,
        layout.consul_ca,
        layout.consul_tls,
        layout.consul_certificate,
        layout.consul_key,
        f"{layout.units}/{PROXY_UNIT}",
        f"{layout.units}/{CONSUL_UNIT}",
        *(signer_paths(layout) if uses_systemd(host) else ()),
    )


def signer_paths(layout: Layout) -> tuple[str, ...]:
    """Whatever there is of a signer, besides its release."""
    return (
        layout.signer,
        layout.signer_etc,
        *(f"{layout.signer_etc}/{name}" for name in SIGNER_FILES),
        layout.signer_state,
        f"{layout.units}/{SIGNER_UNIT}",
    )


def signer_ports(inventory: Inventory) -> tuple[int, ...]:
    return (inventory.certificates.signer_port, SIGNER_ADMIN_PORT)


def command(interpreters: tuple[str, ...] = INTERPRETERS) -> tuple[str, ...]:
    """argv of the one remote command."""
    return ("sh", "-c", _FIND, "sh", *interpreters)


def stdin(inventory: Inventory, host: Host, paths: tuple[str, ...] = ()) -> bytes:
    """The request for ``host``, then the program; ``paths``: looked at besides the usual ones."""
    layout = layout_of(host)
    ports = {host.proxy.inbound_port, host.proxy.admin_port}
    ports.update(
        port
        for service in host.services
        for port in (
            service.outbound_port,
            service.plaintext_port,
            *(use.port for use in service.upstreams),
        )
        if port is not None
    )
    if host.metrics.sources:
        ports.add(host.metrics.port)
    if inventory.consul.mode is ConsulMode.MANAGED:
        ports.update(consul_ports(inventory))
    if host in inventory.signer_hosts:
        ports.update(signer_ports(inventory))
    request = {
        "supervisor": "systemd" if uses_systemd(host) else "process",
        "prefix": layout.prefix,
        "state": layout.state,
        "admin": f"127.0.0.1:{host.proxy.admin_port}",
        "ports": sorted(ports),
        "paths": (*owned_paths(host), *paths),
        "users": (PROXY_USER, CONSUL_USER, SIGNER_USER) if uses_systemd(host) else (),
        "units": (PROXY_UNIT, CONSUL_UNIT, SIGNER_UNIT) if uses_systemd(host) else (),
        "pid_files": {PROXY_UNIT: (pid_file(host), layout.settings)},
        "disks": (layout.prefix, layout.state),
        "consul": inventory.consul.address,
        "token_file": inventory.consul.token_file,
        "snapshot_key": SNAPSHOT_KEY,
        "lock": lock_path(host),
        "signer": _signer(layout) if uses_systemd(host) else None,
    }
    program = resources.files("meshctl.facts").joinpath("probe.py").read_bytes()
    return json.dumps(request).encode() + b"\n" + program


def _signer(layout: Layout) -> dict[str, object]:
    return {
        "link": layout.signer,
        "state": layout.signer_state,
        "admin": f"127.0.0.1:{SIGNER_ADMIN_PORT}",
        "traces": signer_paths(layout),
    }


def parse(stdout: bytes, *, sent_at: float, received_at: float) -> HostFacts:
    """Raises ``Malformed``: what came back is not what the probe prints."""
    seen = decode(stdout, Observation)
    middle = (seen.started + seen.ended) / 2
    try:
        proxy = decode(seen.proxy, RunningProxy) if seen.proxy else None
    except Malformed:
        proxy = None  # something else answers on the admin port: not our proxy
    return HostFacts(
        seen=seen,
        clock_offset_s=middle - (sent_at + received_at) / 2,
        proxy=proxy,
        signer_keys=_signer_keys(seen.signer.keys),
        signer=_running_signer(seen.signer.status),
    )


def _signer_keys(shown: bytes) -> SignerKeys:
    try:
        return decode(shown, SignerKeys) if shown else SignerKeys()
    except Malformed:
        return SignerKeys(error="the installed release could not read it")


def _running_signer(status: bytes) -> RunningSigner | None:
    try:
        return decode(status, RunningSigner) if status else None
    except Malformed:
        return None  # something else answers there
