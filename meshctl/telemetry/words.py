"""Figures of traffic in words: short, with a unit, ``-`` for what was not seen."""

from meshctl.telemetry.view import Edge, Security, Signals

NOTHING = "-"
SECURITY: dict[Security, str] = {
    "mutual_tls": "mTLS",
    "none": "PLAINTEXT",
    "unknown": "unknown",
}
FAILING = 0.99
"""Of success: below it something is wrong."""


def number(value: float) -> str:
    """``<0.01``, ``0.05``, ``3.2``, ``47``, ``1.2k``: three digits or so."""
    if value <= 0:
        return "0"
    if value < 0.005:
        return "<0.01"
    if value < 0.995:
        return f"{value:.2f}"
    for limit, divisor, unit in ((1e3, 1.0, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if value < limit * 0.9995:
            scaled = value / divisor
            return f"{scaled:.1f}{unit}" if scaled < 99.95 else f"{scaled:.0f}{unit}"
    return f"{value / 1e9:.1f}G"


def milliseconds(value: float | None) -> str:
    """``0.4ms``, ``12ms``, ``1.5s``, ``2m``."""
    if value is None:
        return NOTHING
    if value < 9.95:
        return f"{value:.1f}ms"
    if value < 999.5:
        return f"{value:.0f}ms"
    if value < 99_950:
        return f"{value / 1000:.1f}s"
    return f"{value / 60_000:.0f}m"


def bytes_per_s(value: float) -> str:
    if value <= 0:
        return "0"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}B"


def success(signals: Signals | None) -> str:
    """In percent; never rounded up to 100."""
    return share(signals.success if signals is not None else None)


def share(of_one: float | None) -> str:
    if of_one is None:
        return NOTHING
    percent = 100.0 * of_one
    if percent >= 100.0:
        return "100%"
    return f"{min(percent, 99.99):.2f}%" if percent >= 99.9 else f"{percent:.1f}%"


def retries(actual_per_s: float, signals: Signals | None) -> str:
    """Load by retries: ``+12%`` of the requests that were meant."""
    meant = signals.per_s if signals is not None else 0.0
    if not meant:
        return NOTHING
    more = 100.0 * (actual_per_s / meant - 1.0)
    if more < 0.05:
        return "0%"
    return f"+{more:.1f}%" if more < 10 else f"+{more:.0f}%"


def protocol(spoken: str) -> str:
    """Beside a service's name; plain HTTP, which most speak, goes without saying."""
    return "" if spoken == "http" else spoken


def is_failing(edge: Edge | None) -> bool:
    if edge is None:
        return False
    if edge.signals is not None and edge.signals.success is not None:
        return edge.signals.success < FAILING
    return edge.sessions is not None and edge.sessions.failures > 0


def traffic(edge: Edge) -> tuple[str, ...]:
    """What moved: ``12/s``, ``99.8%``, ``p95 23ms``; of TCP ``3 open``, ``0.2/s``."""
    if edge.signals is not None:
        return (
            f"{number(edge.signals.per_s)}/s",
            success(edge.signals),
            f"p95 {milliseconds(edge.signals.p95_ms)}",
        )
    if edge.sessions is not None:
        return f"{edge.sessions.open} open", f"{number(edge.sessions.opened_per_s)}/s"
    return ("idle",)
