"""One finished request or TCP session as a proxy remembers it, for ``meshctl explain`` and ``tap``.

No header, no body, no query: what is in here may be shown to whoever may look at the mesh.
"""

from typing import Literal

from proxy.model.codec import Value
from proxy.model.names import HostName


class SeenRequest(Value, frozen=True, kw_only=True):
    """Of a TCP session: no id, method, path, route or status; its bytes are those of the session,
    and what was received from the caller counts as the request."""

    id: str
    """``x-request-id``; the caller's own if it sent one, so not unique."""
    side: Literal["source", "destination"]
    """The caller's proxy, or the called one."""
    host: HostName
    """Of the proxy."""
    ended_at: str
    """RFC 3339 with milliseconds, by the clock of that host."""
    caller: str
    service: str
    """That was asked for; its routes may have led elsewhere."""
    method: str
    path: str
    """As it was forwarded, without its query; a long one is cut."""
    route: str
    """Empty: none matched, or at the called side, where there are none."""
    endpoints: tuple[str, ...]
    """``<service> on <host>`` of each try, in their order; empty: none was made."""
    tries: int
    status: int
    """0: the client was gone before an answer."""
    flag: str
    policy: str
    """Of a denial."""
    duration_ms: float
    """From the request's head to the last byte of the answer."""
    first_byte_ms: float
    """Until the head of an answer whose body came later; 0: they came together, or it never
    came."""
    request_bytes: int
    """Of the body."""
    response_bytes: int = 0
    """Of the body that went to the caller."""
    protocol: Literal["http", "tcp"] = "http"
    trace_id: str = ""
    """32 hex digits, whether the request was traced or not."""
    grpc_status: str = ""
    """In digits; empty: it was no gRPC call, or its end told none."""
    reason: str = ""
    """The flag in a plain sentence, with what the proxy knew beyond it."""


class SeenRequests(Value, frozen=True, kw_only=True):
    """The admin port's answer."""

    requests: tuple[SeenRequest, ...]
    """The newest first."""


class Wanted(Value, frozen=True, kw_only=True):
    """Which of those that ended since an earlier answer."""

    service: str = ""
    """That was called; empty: any."""
    is_bad_only: bool = False
    """Failed, denied, or with any other flag."""
    cursor: str = ""
    """From that answer; empty: from now on."""


class Ended(Value, frozen=True, kw_only=True):
    """The admin port's answer to ``GET /ended/<service or ->,<all or bad>,<cursor or ->``, where
    ``/ended`` alone asks for ``-,all,-``."""

    host: HostName
    requests: tuple[SeenRequest, ...]
    """In the order in which they ended."""
    next: str
    """Opaque; in the admin port's answer, the last segment of the path to ask next."""
    missed: int
    """Of any service: they ended too, and are forgotten already or were too many for one answer."""
