"""The dashboards by file name. They read series of the recording rules, so they need these too."""

from meshctl.observe.mesh_dashboard import MESH
from meshctl.observe.panels import Dashboard, render
from meshctl.observe.proxies_dashboard import PROXIES
from meshctl.observe.service_dashboard import SERVICE

DASHBOARDS: tuple[Dashboard, ...] = (MESH, SERVICE, PROXIES)


def files() -> dict[str, str]:
    """File name to JSON text."""
    return {f"{each.uid}.json": render(each) for each in DASHBOARDS}
