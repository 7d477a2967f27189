"""``View`` -> the document that the page reads. Pure.

Names are those of ``View``, and its rows go as they are: rounding their figures would halve the
message, and take five times as long as encoding it.
"""

from typing import Any

from meshctl.telemetry.view import View


def document(view: View) -> dict[str, Any]:
    return {
        "at": view.at,
        "window_s": view.window_s,
        "services": view.services,
        "edges": view.edges,
        "routes": view.routes,
        "endpoints": view.endpoints,
        "hosts": view.hosts,
        "denials": [
            {"caller": caller, "service": service, "policy": policy, "count": count}
            for (caller, service, policy), count in view.denials.items()
        ],
    }
