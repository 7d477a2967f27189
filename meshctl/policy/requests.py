"""The request of an explanation, made by the parser and the serialiser of the proxies.

What they drop, refuse or put in order is so the same here: a header that only the mesh may write
does not reach a rule, and a head that smuggles is refused.
"""

from proxy.http.fields import ProtocolError
from proxy.http.head import RequestHead, parse_request, serialize_request
from proxy.http.tunnel import refused_switch
from proxy.model.names import ServiceName

__all__ = ["NO_REQUEST", "InvalidRequest", "RequestHead", "arrived", "copy_of", "sent"]

NO_REQUEST = RequestHead(b"", b"/", None, False)
"""A TCP session has none; what its routes may ask for is who calls."""

_ASSIGNED = b"0" * 32
"""In place of the id that the proxy draws."""


class InvalidRequest(ValueError):
    """A proxy would answer 4xx or 501; the message says why."""


def sent(
    method: str, target: str, authority: str, fields: tuple[tuple[str, str], ...]
) -> RequestHead:
    """As the caller's proxy has it once read. Raises InvalidRequest."""
    lines = [f"{method} {target} HTTP/1.1"]
    if not any(name.lower() == "host" for name, _ in fields):
        lines.append(f"host: {authority}")
    lines += [f"{name}: {value}" for name, value in fields]
    try:
        head = parse_request("\r\n".join(lines).encode("utf-8", "surrogateescape"))
    except ProtocolError as error:
        raise InvalidRequest(str(error)) from error
    if (head.upgrade or head.method == b"CONNECT") and (what := refused_switch(head)):
        raise InvalidRequest(f"{what} is not supported")
    return head


def identify(head: RequestHead) -> None:
    """The proxy gives ids to a request that has none, after its route is found."""
    at = len(head.lines) - head.fleeting
    if not head.has_trace:
        head.lines.insert(at, b"traceparent: 00-%b-%b-00" % (_ASSIGNED, _ASSIGNED[:16]))
    if not head.has_request_id:
        head.lines.insert(at, b"x-request-id: " + _ASSIGNED)
    head.has_request_id = head.has_trace = True


def copy_of(head: RequestHead) -> RequestHead:
    made = head.with_start(head.method, head.target)
    made.fleeting = head.fleeting
    return made


def arrived(head: RequestHead, service: ServiceName) -> RequestHead:
    """As the called side has it. ``service``: the upstream that was asked for, which stands in
    for a missing Host."""
    block = serialize_request(head, service.encode()).removesuffix(b"\r\n\r\n")
    try:
        return parse_request(block)
    except ProtocolError as error:
        raise InvalidRequest(f"the called side does not take it: {error}") from error
