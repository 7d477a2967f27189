"""What one look at a large mesh costs the operator's side: from the hosts' answers to what
``meshctl top`` draws and the dashboard sends to the browser.

Run as a program by the interpreter that has ``meshctl`` installed; prints a JSON object. The mesh
is the one that the tests make up, as nobody has 100 hosts at hand.
"""

import importlib.util
import io
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import msgspec
from rich.console import Console

from meshctl.cli.top import screen
from meshctl.cli.traffic_view import By, Sort
from meshctl.telemetry.rates import view
from meshctl.telemetry.view import document
from proxy.core.stats import Stats
from proxy.model.codec import decode, encode

SERVICES, EDGES = 100, 1000
_MADE = Path(__file__).resolve().parents[2] / "tests" / "telemetry" / "made.py"
_LOOKS = 20
_EVERY_S = 1.0
_HEIGHT = 50


def measure() -> dict[str, float]:
    """Slowest of ``_LOOKS``, in milliseconds, from the hosts' answers as bytes."""
    mesh = _made().MadeMesh(SERVICES, EDGES)
    before = mesh.step(_EVERY_S)
    terminal = Console(width=160, height=_HEIGHT, file=io.StringIO(), force_terminal=True)
    tops_ms, dashboards_ms = [], []
    for number in range(_LOOKS):
        bodies = {host: encode(stats) for host, stats in mesh.step(_EVERY_S).items()}
        began = time.perf_counter()
        after = {host: decode(body, Stats) for host, body in bodies.items()}
        seen = view(before, after, at=float(number))
        viewed = time.perf_counter()
        terminal.print(screen(seen, By.EDGE, Sort.RATE, _HEIGHT))
        drawn = time.perf_counter()
        msgspec.json.encode(document(seen))
        ended = time.perf_counter()
        tops_ms.append((drawn - began) * 1000)
        dashboards_ms.append((viewed - began + ended - drawn) * 1000)
        before = after
    return {
        "services": len(seen.services),
        "edges": len(seen.edges),
        "top_ms": max(tops_ms),
        "dashboard_ms": max(dashboards_ms),
    }


def _made() -> ModuleType:
    """A folder of tests is no package."""
    spec = importlib.util.spec_from_file_location("bench_made_mesh", _MADE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(json.dumps(measure()))
