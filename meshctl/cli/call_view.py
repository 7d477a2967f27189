"""One call on one line, for ``tap`` and ``logs``: who, what, how it ended, how long it took.

Everything in it comes from the network. What is bad is said by words and codes; colour repeats it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from meshctl.telemetry.edges import FAILED_CALLS
from meshctl.telemetry.plain import plain
from proxy.core import grpc

_MIB = 2**20
_WIDE = 120
"""Columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Empty or 0: not known."""

    at: str
    host: str
    side: str
    caller: str
    service: str
    is_tcp: bool
    method: str
    path: str
    status: int
    flag: str
    duration_ms: float
    endpoint: str
    attempts: int
    received_bytes: int
    """From the caller."""
    sent_bytes: int
    why: str
    """In words, or what denied it."""
    request_id: str
    trace_id: str
    grpc_status: str = ""
    """In digits; empty: it was no gRPC call, or its end told none."""

    @property
    def is_bad(self) -> bool:
        is_answered = self.is_tcp or 0 < self.status < 500
        has_failed = self.flag not in ("", "-", "DI") or self.grpc_status in FAILED_CALLS
        return not is_answered or has_failed


def is_wide(console: Console) -> bool:
    """Whether ids have room on a line; where nobody looks, they have."""
    return not console.is_terminal or console.width >= _WIDE


def render(call: Call, *, has_ids: bool = True) -> Text:
    """``12:00:01.250  front > web -> api  GET /users/1  503 UF  12 ms  api on b1  (why)  id=..``;
    behind the host stands ``>`` for the caller's side and ``<`` for the called one. What failed
    has its ids anyhow: they are what one goes on with."""
    arrow = ">" if call.side == "source" else "<"
    line = Text()
    line.append(f"{call.at}  ", style="dim")
    line.append(f"{plain(call.host)} {arrow} ", style="dim")
    line.append(f"{plain(call.caller)} -> {plain(call.service)}  ")
    style = "bold red" if call.is_bad else "yellow" if call.status >= 400 else ""
    if call.is_tcp:
        line.append("session ")
        line.append(f"{_flag(call) or 'ended'}  ", style=style)
        sizes = f"{size(call.received_bytes)} in, {size(call.sent_bytes)} out"
        line.append(f"{duration(call.duration_ms)}  {sizes}")
    else:
        line.append(f"{plain(call.method)} {plain(call.path)}  ")
        status = str(call.status) if call.status else "no answer"
        line.append(f"{status}{' ' + _flag(call) if _flag(call) else ''}", style=style)
        if call.grpc_status not in ("", "0"):
            line.append(f" {_grpc(call.grpc_status)}", style=style or "yellow")
        line.append(f"  {duration(call.duration_ms)}")
    if call.endpoint:
        line.append(f"  {plain(call.endpoint)}", style="dim")
    if call.attempts > 1:
        line.append(f"  {call.attempts} attempts", style="yellow")
    if call.why:
        line.append(f"  ({plain(call.why)})", style=style)
    has_ids = has_ids or call.is_bad
    if call.request_id and has_ids:
        line.append(f"  id={plain(call.request_id)}", style="dim")
    # Ours is the same number, unless an application brought one of the two.
    if call.trace_id and call.trace_id != call.request_id and has_ids:
        line.append(f"  trace={plain(call.trace_id)}", style="dim")
    return line


def duration(ms: float) -> str:
    if ms < 10:
        return f"{ms:.2f} ms"
    if ms < 1000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s"


def size(count: int) -> str:
    if count < 10_000:
        return f"{count} B"
    return f"{count / 1024:.0f} KiB" if count < 10 * _MIB else f"{count / _MIB:.0f} MiB"


def from_access(at: str, host: str, fields: Mapping[str, Any]) -> Call:
    """Of a line of an access log: whatever is not as it should be is left out."""
    is_tcp = fields.get("protocol") == "tcp"
    received, sent = ("received", "sent") if is_tcp else ("request", "response")
    denied = _text(fields, "policy")
    return Call(
        at=at,
        host=host,
        side=_text(fields, "side"),
        caller=_text(fields, "caller"),
        service=_text(fields, "service"),
        is_tcp=is_tcp,
        method=_text(fields, "method"),
        path=_text(fields, "path"),
        status=int(_number(fields, "status")),
        flag=_text(fields, "flag"),
        duration_ms=_number(fields, "total_ms"),
        endpoint=_text(fields, "endpoint"),
        attempts=int(_number(fields, "attempts")),
        received_bytes=int(_number(fields, f"{received}_bytes")),
        sent_bytes=int(_number(fields, f"{sent}_bytes")),
        why=f"denied by {denied}" if denied else _text(fields, "reason"),
        request_id=_text(fields, "request_id"),
        trace_id=_text(fields, "trace_id"),
        grpc_status=_digits(fields, "grpc_status"),
    )


def _grpc(status: str) -> str:
    """As gRPC's own tools write it."""
    try:
        return grpc.Status(int(status)).name
    except ValueError:
        return f"grpc {plain(status, 10)}"


def _flag(call: Call) -> str:
    return "" if call.flag == "-" else plain(call.flag, 10)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) and value != "-" else ""


def _digits(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e15:
        return 0.0
    return float(value)
