"""What the proxies tell of each call, as data. Part of ``policy.Policy`` and ``ServicePolicy``.

What failed is always logged; shares are of what went well. The called service's own values are in
force at both sides of a call.
"""

from typing import Literal

from proxy.model.codec import Value


class AccessLog(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Of calls to one service. ``percent: 0`` alone: only what failed."""

    percent: float = 0.0
    """Of requests and TCP sessions that went well; 0 to 100."""
    slow_ms: float = 0.0
    """What takes longer is logged always; 0: time is no reason."""
    format: str = ""
    """A line with ``%field%`` in it; empty: a JSON object of all fields."""


class Tracing(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Of calls to one service. A caller's own decision, in its trace context, goes first."""

    percent: float = 0.0
    """Of requests that arrive without a trace context; 0 to 100."""
    header: str = ""
    """A request that has it (``name``, or ``name: value``; lower case) is sampled always."""


class Telemetry(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Of the whole mesh: where to."""

    metrics: bool = True
    """False: calls are neither counted nor remembered."""
    otlp: str = ""
    """URL of an OTLP/HTTP receiver of traces as each host reaches it, with its path
    (``http://127.0.0.1:4318/v1/traces``); empty: no spans are made."""
    log_to: Literal["journal", "file"] = "journal"
    """``file``: ``access.log`` in the proxy's log directory."""
    log_file_bytes: int = 64 * 1024 * 1024
    """A file that reaches it is rotated."""
    log_files: int = 5
    """How many rotated ones are kept."""
