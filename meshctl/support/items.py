"""The list of what is asked of a host for a support bundle: nothing else is. Pure.

No file of keys, tokens or passphrases is on it, and no environment: what is on it may be shown to
whoever helps, once ``scrub`` has looked at it.
"""

from dataclasses import dataclass
from typing import Final

from meshctl.facts.request import admin_query, uses_systemd
from meshctl.inventory.model import Host
from meshctl.layout import CONSUL_UNIT, PROXY_UNIT, SIGNER_UNIT
from meshctl.plan.desired import carries_proxy

ADMIN: Final = {
    "status.json": "/status",
    "stats.json": "/stats",
    "metrics.txt": "/metrics",
    "clusters.json": "/clusters",
    "endpoints.json": "/endpoints",
    "config.json": "/config",
}
LOG_LINES: Final = 2000
"""Of the units beside the proxy."""

# Environment, ExecStart and credentials of a unit are not among them.
_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,UnitFileState,Result,StateChangeTimestamp,"
    "ExecMainStartTimestamp,ExecMainExitTimestamp,ExecMainCode,ExecMainStatus,NRestarts,MainPID,"
    "MemoryCurrent,MemoryPeak,MemoryMax,CPUUsageNSec,TasksCurrent,NeedDaemonReload"
)
_SYSTEM = """\
say() { echo "\\$ $*"; "$@" 2>&1; echo; }
say uname -srvm
say cat /etc/os-release
say date -u +%Y-%m-%dT%H:%M:%S.%NZ
say uptime
say timedatectl show
say nproc
say free -k
say df -Pk / /opt /var
say cat /proc/pressure/cpu /proc/pressure/memory /proc/pressure/io
say ss -s
say ss -Htlpn
say ip -brief address
say nft list tables
:
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    file: str
    """Its name in the bundle, below the host's folder."""
    argv: tuple[str, ...]


def items(host: Host, since_s: float) -> tuple[Item, ...]:
    """But for the lines of its proxy's log, which are picked."""
    found = [Item(file="system.txt", argv=("sh", "-c", _SYSTEM))]
    if carries_proxy(host):
        found += (
            Item(file=file, argv=admin_query(host, "GET", path)) for file, path in ADMIN.items()
        )
    if uses_systemd(host):
        units = (PROXY_UNIT, CONSUL_UNIT, SIGNER_UNIT)
        argv = ("systemctl", "show", f"--property={_PROPERTIES}", "--", *units)
        found.append(Item(file="units.txt", argv=argv))
        found += (
            Item(
                file=f"{unit.removesuffix('.service')}.log",
                argv=(
                    "journalctl", f"--unit={unit}", "--output=short-iso-precise", "--no-pager",
                    "--quiet", f"--lines={LOG_LINES}", f"--since=-{round(since_s)}s",
                ),
            )
            for unit in (CONSUL_UNIT, SIGNER_UNIT)
        )  # fmt: skip
    return tuple(found)
