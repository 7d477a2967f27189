"""What is kept of a finished call until its line is made, and its fields as text."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from proxy.core.outcome import Outcome
from proxy.model.endpoint import Endpoint
from proxy.model.flags import SENTENCE, Flag

MAX_PATH_CHARS: Final = 512
MAX_ID_CHARS: Final = 128
MAX_AUTHORITY_CHARS: Final = 128
MAX_REASON_CHARS: Final = 300
MAX_POLICY_CHARS: Final = 200

ID: Final = len(b"x-request-id: ")
TRACE: Final = len(b"traceparent: 00-")
TRACE_END: Final = TRACE + 32
MAX_ID_LINE: Final = ID + 2 * MAX_ID_CHARS
TRACE_LINE: Final = TRACE_END + len(b"-0123456789abcdef-00")
MAX_KEPT_BYTES: Final = 400
"""Of id, trace and target together, before any is cut."""
_SENTENCES: Final = {flag.value: sentence for flag, sentence in SENTENCE.items()}


class Request(NamedTuple):
    """What is kept of a finished request. Times are seconds of one monotonic clock, or lengths in
    seconds; bytes are of bodies."""

    outcome: Outcome
    ended: float
    started: float
    headed: float
    """0: with the end."""
    queue_s: float
    connect_s: float
    id_line: bytes
    """``x-request-id: …``; empty: refused before it was given one."""
    trace_line: bytes
    """``traceparent: …``; empty: none."""
    target: bytes
    """Perhaps cut already."""
    tried: tuple[Endpoint, ...]
    """Before the outcome's own."""
    policy: str
    detail: str
    request_bytes: int
    response_bytes: int


class Session(NamedTuple):
    """What is kept of a TCP session until its line is made."""

    kind: Any
    """Of the printer that makes its line."""
    ended: float
    started: float
    connect_s: float
    endpoint: Endpoint | None
    attempts: int
    flag: str
    policy: str
    detail: str
    sent_bytes: int
    """To the caller."""
    received_bytes: int


Entry = tuple[Any, ...]
"""As it is kept: a plain tuple is made in a tenth of the time."""


def cut(id_line: bytes, trace_line: bytes, target: bytes) -> tuple[bytes, bytes, bytes]:
    """No caller decides how much memory its request takes."""
    return id_line[:MAX_ID_LINE], trace_line[:TRACE_LINE], target[:MAX_PATH_CHARS]


def place(endpoint: Endpoint | None) -> str:
    """``host address:port``, or only the latter: an application has no host of its own."""
    if endpoint is None:
        return ""
    at = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{endpoint.host} {at}:{endpoint.port}".lstrip()


def reason(status: int, flag: str, detail: str) -> str:
    """Why a call failed, in one sentence; empty: it did not."""
    sentence = _SENTENCES.get(flag, "")
    if not sentence:
        return f"the service itself answered {status}" if status >= 500 else detail
    joint = "" if not detail else " " if detail.startswith("(") else ": "
    if flag == Flag.RETRY_LIMIT and detail:
        sentence, joint = "", ""  # the detail begins with the failure itself
    return f"{sentence}{joint}{detail}"[:MAX_REASON_CHARS]


def milliseconds(seconds: float) -> str:
    """With three decimals; ``0`` is exactly none."""
    return f"{seconds * 1000:.3f}" if seconds else "0"


def request_id_of(line: bytes) -> str:
    return line[ID:].decode("latin-1")[:MAX_ID_CHARS]


def trace_id_of(line: bytes) -> str:
    """Empty: none that is valid."""
    found = line[TRACE:TRACE_END]
    return found.decode("latin-1") if len(found) == TRACE_END - TRACE and found.isalnum() else ""


def _first_byte(entry: Request) -> str:
    if not entry.outcome.status:
        return ""
    return milliseconds((entry.headed or entry.ended) - entry.started)


# Empty: there is none.
REQUEST_TEXTS: Final[dict[str, Callable[[Request], str]]] = {
    "protocol": lambda e: e.outcome.protocol,
    "request_id": lambda e: request_id_of(e.id_line),
    "trace_id": lambda e: trace_id_of(e.trace_line),
    "method": lambda e: e.outcome.method.decode("latin-1"),
    "authority": lambda e: (e.outcome.authority or b"").decode("latin-1")[:MAX_AUTHORITY_CHARS],
    "path": lambda e: e.target.partition(b"?")[0].decode("latin-1")[:MAX_PATH_CHARS],
    "route": lambda e: e.outcome.route,
    "endpoint": lambda e: place(e.outcome.endpoint),
    "attempts": lambda e: str(e.outcome.attempts),
    "status": lambda e: str(e.outcome.status),
    "grpc_status": lambda e: e.outcome.grpc_status,
    "flag": lambda e: e.outcome.flag,
    "reason": lambda e: reason(e.outcome.status, e.outcome.flag, e.detail),
    "policy": lambda e: e.policy[:MAX_POLICY_CHARS],
    "queue_ms": lambda e: milliseconds(e.queue_s),
    "connect_ms": lambda e: milliseconds(e.connect_s),
    "first_byte_ms": _first_byte,
    "total_ms": lambda e: milliseconds(e.ended - e.started),
    "request_bytes": lambda e: str(e.request_bytes),
    "response_bytes": lambda e: str(e.response_bytes),
}
SESSION_TEXTS: Final[dict[str, Callable[[Session], str]]] = {
    "protocol": lambda _: "tcp",
    "endpoint": lambda e: place(e.endpoint),
    "attempts": lambda e: str(e.attempts),
    "flag": lambda e: e.flag,
    "reason": lambda e: reason(0, e.flag, e.detail) if e.flag else "",
    "policy": lambda e: e.policy[:MAX_POLICY_CHARS],
    "connect_ms": lambda e: milliseconds(e.connect_s),
    "total_ms": lambda e: milliseconds(e.ended - e.started),
    "sent_bytes": lambda e: str(e.sent_bytes),
    "received_bytes": lambda e: str(e.received_bytes),
}
