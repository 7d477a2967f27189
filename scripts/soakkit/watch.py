"""One look at the two proxies: what could grow."""

import os
import time
from pathlib import Path

from benchkit import registry
from benchkit.observability import series_of, total
from benchkit.processes import Process

from soakkit.mesh import Mesh
from soakkit.verdict import Limit, Look

SIDES = ("client", "server")

LIMITS = {
    "memory": Limit(share=0.05, least=2.0),
    "series": Limit(share=0.05, least=50.0),
    "page": Limit(share=0.05, least=200.0),
    "files": Limit(share=0.10, least=8.0),
    "waiting": Limit(share=0.10, least=20.0),
    "in flight": Limit(share=0.10, least=20.0),
}
"""By figure: MiB resident, series of all metrics, KiB of ``/metrics``, open files, requests that
wait for a connection, requests and connections from callers. How many series there are depends on
what was asked for in the last minutes, by chance. Lines and spans that wait are seen when their
queues are full: then some are lost."""
_IN_FLIGHT = ("mesh_downstream_requests", "mesh_downstream_connections")


def limits(factor: float = 1.0) -> dict[str, Limit]:
    """Of both sides. ``factor``: for who looks for seconds only, in which little is steady."""
    return {
        f"{side} {name}": Limit(share=limit.share * factor, least=limit.least * factor)
        for side in SIDES
        for name, limit in LIMITS.items()
    }


def look(mesh: Mesh, began: float) -> Look:
    """Blocks for some milliseconds; raises Failed if a proxy has ended."""
    figures: dict[str, float] = {}
    admins = {"client": mesh.ports.client_admin, "server": mesh.ports.server_admin}
    for side, process in (("client", mesh.client), ("server", mesh.server)):
        process.check()
        page = registry.ask(admins[side], "GET", "/metrics").decode()
        figures |= {
            f"{side} memory": process.memory().rss_mib,
            f"{side} series": float(len(series_of(page))),
            f"{side} page": len(page) / 1024,
            f"{side} files": float(_open_files(process)),
            f"{side} waiting": total(page, "mesh_upstream_pending_requests"),
            f"{side} in flight": sum(total(page, name) for name in _IN_FLIGHT),
            f"{side} dropped series": total(page, "mesh_metric_series_dropped_total"),
            f"{side} lost": total(page, "mesh_access_log_dropped_total")
            + total(page, "mesh_spans_dropped_total"),
            f"{side} requests": total(page, "istio_requests_total"),
        }
    return Look(at_s=time.monotonic() - began, figures=figures)


def _open_files(process: Process) -> int:
    return len(os.listdir(Path("/proc") / str(process.pid) / "fd"))
