"""One finished request as a proxy remembers it, for ``meshctl explain --request-id``.

No header, no body, no query: what is in here may be shown to whoever may look at the mesh.
"""

from typing import Literal

from proxy.model.codec import Value
from proxy.model.names import HostName


class SeenRequest(Value, frozen=True, kw_only=True):
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


class SeenRequests(Value, frozen=True, kw_only=True):
    """The admin port's answer."""

    requests: tuple[SeenRequest, ...]
    """The newest first."""
