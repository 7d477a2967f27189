"""The head of an HTTP/1.1 message: bytes to a value, strictly, and back to bytes.

The values are also what another HTTP version will make and take: canonical lines, the target,
the authority and the framing apart from each other.

Refused, as request smuggling lives of it: a length together with an encoding, two lengths, a
length that is not digits, an encoding other than exactly ``chunked``, none or two Host fields,
a target with a fragment, a method that others do not know, control characters or bytes above
ASCII.
"""

import re
from contextlib import suppress
from typing import Final

from proxy.core.deadline import merge_grpc
from proxy.http.blocks import Blocks
from proxy.http.fields import (
    CONNECTION,
    DEADLINE,
    ENCODING,
    EXPECT,
    FLAG,
    GRPC,
    GRPC_TIMEOUT,
    HOST,
    LENGTH,
    MAX_FIELDS,
    MAX_LENGTH_DIGITS,
    POLICY,
    REQUEST_ID,
    TE,
    TRACE,
    UPGRADE,
    ProtocolError,
    Special,
    is_fleeting,
    is_listed,
    memo_get,
    parse_field,
    protocol_of,
    without_listed,
)

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
"""In place of a length in bytes."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE)
AUTHORITY: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
)
_LENGTH = re.compile(rb"[0-9]{1,%d}" % MAX_LENGTH_DIGITS)
POLICY_ID: Final = re.compile(rb"[A-Za-z0-9._/-]{1,200}")

METHODS: Final = frozenset(
    b"ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK M-SEARCH MERGE MKACTIVITY "
    b"MKCALENDAR MKCOL MOVE NOTIFY OPTIONS PATCH POST PROPFIND PROPPATCH PURGE PUT QUERY REBIND "
    b"REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE".split()
)
"""What llhttp knows. What is left of a body that was read too short makes a method too: `xGET`
(docs/decisions/0010)."""

_STARTS_KEPT = 1024
_START_BYTES = 256
_starts: dict[bytes, tuple[bytes, bytes, bytes | None, bool]] = {}
_statuses: dict[bytes, tuple[int, bytes, bool]] = {}

_requests: "Blocks[RequestHead]" = Blocks()
"""By the lines after the first that are neither secret nor different in each request."""
_responses: "Blocks[ResponseHead]" = Blocks()
"""By the whole head."""
_measured: "Blocks[ResponseHead]" = Blocks()
"""By the whole head without its content-length: what they hold for any."""

_FLEETING_FIELDS = 32
"""Together with what is remembered, no more than ``MAX_FIELDS``."""
_DEADLINE = b"x-mesh-timeout-ms: "
_DEADLINE_LINE = b"\r\n" + _DEADLINE
_IDS = re.compile(rb"\r\n(x-request-id: [!-~]{1,200})\r\n(traceparent: [0-9a-f-]{1,200})")


class RequestHead:
    """What a client asks for."""

    __slots__ = (
        "authority",
        "fleeting",
        "has_request_id",
        "has_te",
        "has_trace",
        "is_expecting",
        "is_grpc",
        "is_keep_alive",
        "is_old",
        "length",
        "lines",
        "method",
        "target",
        "timeout_ms",
        "upgrade",
    )

    def __init__(self, method: bytes, target: bytes, authority: bytes | None, is_old: bool) -> None:
        self.method = method
        self.target = target
        self.authority = authority
        """None only from an HTTP/1.0 client that sent no Host."""
        self.is_old = is_old
        """HTTP/1.0."""
        self.is_keep_alive = not is_old
        self.length = 0
        """Of the body, in bytes; or CHUNKED."""
        self.lines: list[bytes] = []
        """Canonical, end to end, without host and transfer-encoding."""
        self.fleeting = 0
        """How many of the lines, at the end, are secret or different in each request."""
        self.has_request_id = False
        self.has_te = False
        """Takes trailers: ``te: trailers`` is among the lines."""
        self.has_trace = False
        """Carries a W3C ``traceparent``."""
        self.timeout_ms = b""
        """``x-mesh-timeout-ms`` as it came; not among the lines, as each hop writes its own.
        Of a gRPC call it says the same as its ``grpc-timeout``, in milliseconds."""
        self.is_expecting = False
        """Waits for a 100 before it sends its body."""
        self.upgrade = b""
        """Asks to change to this protocol, in lower case (``proxy.http.tunnel``)."""
        self.is_grpc = False
        """By its content type."""

    def with_start(self, method: bytes, target: bytes) -> "RequestHead":
        """The same fields in another request, over HTTP/1.1."""
        head = RequestHead.__new__(RequestHead)
        head.method = method
        head.target = target
        head.authority = self.authority
        head.is_old = False
        head.is_keep_alive = self.is_keep_alive
        head.length = self.length
        head.lines = self.lines[:]
        head.fleeting = 0
        head.has_request_id = self.has_request_id
        head.has_te = self.has_te
        head.has_trace = self.has_trace
        head.timeout_ms = self.timeout_ms
        head.is_expecting = self.is_expecting
        head.upgrade = self.upgrade
        head.is_grpc = self.is_grpc
        return head

    def get(self, name: bytes) -> bytes | None:
        """The first value of a field; ``name`` in lower case."""
        prefix = name + b": "
        for line in self.lines:
            if line.startswith(prefix):
                return line[len(prefix) :]
        return None


class ResponseHead:
    """What a server answers."""

    __slots__ = (
        "_wire",
        "block",
        "flag",
        "is_keep_alive",
        "length",
        "lines",
        "policy",
        "reason",
        "status",
    )

    def __init__(self, status: int, reason: bytes, is_keep_alive: bool) -> None:
        self.status = status
        self.reason = reason
        """The status code and the phrase, as on the wire: ``200 OK``."""
        self.is_keep_alive = is_keep_alive
        self.length = 0
        """Of the body, in bytes; or CHUNKED or UNTIL_CLOSE."""
        self.lines: list[bytes] = []
        self.flag = b""
        """``x-mesh-flag``, which is not among the lines: whoever forwards it must trust it."""
        self.policy = b""
        """``x-mesh-policy``, which goes with a flag only: the id of what denied the request."""
        self._wire = b""
        self.block = b""
        """What ``h2.encoding`` has made of it, like ``serialize``."""

    def with_lines(self, lines: list[bytes]) -> "ResponseHead":
        """A copy: one that was parsed may be shared with other responses."""
        head = ResponseHead(self.status, self.reason, self.is_keep_alive)
        head.length = self.length
        if self.flag:
            head.flag, head.policy = self.flag, self.policy
        head.lines = lines
        return head

    def own_lines(self) -> list[bytes]:
        """What a proxy says of an answer that has a flag."""
        flag = b"x-mesh-flag: " + self.flag
        return [flag, b"x-mesh-policy: " + self.policy] if self.policy else [flag]

    def serialize(self) -> bytes:
        """With the empty line, without a proxy's own lines; a body of no length is chunked. Made
        once, for ``lines`` do not change any more."""
        wire = self._wire
        if not wire:
            lines = b"".join([line + b"\r\n" for line in self.lines])
            if self.length < 0:
                lines += b"transfer-encoding: chunked\r\n"
            wire = self._wire = b"HTTP/1.1 %b\r\n%b\r\n" % (self.reason, lines)
        return wire


def parse_request(block: bytes) -> RequestHead:
    """``block`` is everything before the empty line."""
    end = block.find(b"\r\n")
    line = block if end < 0 else block[:end]
    fields = b"" if end < 0 else block[end:]
    start = _starts.get(line) or _parse_request_line(line)
    # A peer's proxy puts last what is different in each request: the rest may be known.
    cut = fields.find(b"\r\nx-request-id: ")
    fleeting = _parse_fleeting(fields, cut) if cut >= 0 else None
    if fleeting is not None:
        fields = fields[:cut]
    known = _requests.get(fields)
    if known is not None and start[2] is None and not start[3]:
        head = known.with_start(start[0], start[1])
    else:
        most = MAX_FIELDS if fleeting is None else MAX_FIELDS - len(fleeting)
        head = _parse_request_fields(start, fields, most)
    if fleeting is not None:
        head.lines += fleeting
        count = len(fleeting)
        head.fleeting += count
        if count > 2:
            _take_deadline(head)
        head.has_request_id = head.has_trace = True
    return head


def _parse_fleeting(fields: bytes, at: int) -> tuple[bytes, ...] | None:
    """The lines from ``at`` on, if they are ids and others that mean nothing to a proxy."""
    ids = _IDS.match(fields, at)
    if ids is None:
        return None
    end = ids.end()
    if end == len(fields):
        return ids.groups()
    if fields.startswith(_DEADLINE_LINE, end):
        value = fields[end + len(_DEADLINE_LINE) :]
        if value.isdigit():
            return (*ids.groups(), fields[end + 2 :])
    raw_lines = fields[end:].split(b"\r\n")
    if raw_lines[0] or len(raw_lines) > _FLEETING_FIELDS - 1:
        return None
    others: list[bytes] = []
    for raw in raw_lines[1:]:
        try:
            field = memo_get(raw) or parse_field(raw)
        except ProtocolError:
            return None  # the whole is refused, for its first fault
        if isinstance(field, Special):
            if field.kind != DEADLINE or raw is not raw_lines[-1]:
                return None
            field = field.line
        others.append(field)
    return (*ids.groups(), *others)


def _take_deadline(head: RequestHead) -> None:
    """Of a gRPC call it is different each time, so it comes after the ids, as the last line."""
    last = head.lines[-1]
    if last.startswith(_DEADLINE):
        head.lines.pop()
        head.fleeting -= 1
        head.timeout_ms = last[len(_DEADLINE) :]


def _parse_request_fields(
    start: tuple[bytes, bytes, bytes | None, bool], fields: bytes, most: int
) -> RequestHead:
    """``fields`` begins with the end of the line before."""
    raw_lines = fields.split(b"\r\n")
    if len(raw_lines) > most + 1:
        raise ProtocolError("too_large", "more than 100 header fields")
    head = RequestHead(*start)
    is_kept = start[2] is None and not start[3]
    ids: list[bytes] = []
    others: list[bytes] = []
    is_old = head.is_old
    lines = head.lines
    append = lines.append
    hosts = 0
    length: bytes | None = None
    encoding: bytes | None = None
    connection = b""
    grpc_timeout = upgrade = b""
    del raw_lines[0]
    for raw in raw_lines:
        field = memo_get(raw)
        if field is None:
            field = parse_field(raw)
            if is_fleeting(field):
                is_kept = False
                if isinstance(field, bytes):
                    others.append(field)
                    continue
        if field.__class__ is bytes:
            append(field)
            continue
        assert isinstance(field, Special)
        kind = field.kind
        if kind == HOST:
            hosts += 1
            if head.authority is None:
                head.authority = field.value
            elif AUTHORITY.fullmatch(field.value) is None:  # the target's is the one to use
                raise ProtocolError("host", "the host field is not a host")
        elif kind == CONNECTION:
            connection = connection + b"," + field.value if connection else field.value
        elif kind == REQUEST_ID:
            head.has_request_id = True
            ids.insert(0, field.line)
        elif kind == TRACE:
            head.has_trace = True
            ids.append(field.line)
        elif kind == GRPC:
            head.is_grpc = True
            append(field.line)
        elif kind == DEADLINE:
            head.timeout_ms = field.value
        elif kind == GRPC_TIMEOUT:
            grpc_timeout = field.value
        elif kind == LENGTH:
            if length is not None:
                raise ProtocolError("length", "more than one content-length")
            length = field.value
            append(field.line)
        elif kind == ENCODING:
            if encoding is not None:
                raise ProtocolError("encoding", "more than one transfer-encoding")
            encoding = field.value
        elif kind == UPGRADE:
            upgrade = upgrade + b"," + field.value if upgrade else field.value
        elif kind == EXPECT:
            if not is_old:
                head.is_expecting = field.value.lower() == b"100-continue"
                append(field.line)
        elif kind == TE and field.value.lower() == b"trailers":
            head.has_te = True
            append(b"te: trailers")
    if hosts != 1 and (hosts > 1 or not is_old):
        raise ProtocolError("host", "there must be exactly one host field")
    if head.authority and AUTHORITY.fullmatch(head.authority) is None:
        raise ProtocolError("host", "the host field is not a host")
    if length is not None or encoding is not None:
        head.length = framing(length, encoding, is_old)
    if grpc_timeout:
        if head.is_grpc:
            head.timeout_ms = merge_grpc(head.timeout_ms, grpc_timeout)
        else:  # a gateway's from JSON: the application's own business
            others.append(b"grpc-timeout: " + grpc_timeout)
    if ids or others:
        lines += ids
        lines += others
        head.fleeting = len(ids) + len(others)
    if upgrade and not is_old:  # RFC 9110, section 7.8: from HTTP/1.0 it is ignored
        head.upgrade = protocol_of(upgrade)
        if head.upgrade and not is_listed(b"upgrade", connection.lower()):
            raise ProtocolError("upgrade", "Upgrade without the connection option upgrade")
        head.is_grpc = head.is_grpc and not head.upgrade
    if connection:
        _apply_connection(head, connection.lower(), is_old)
        if head.fleeting and head.lines is not lines:
            head.fleeting = sum(map(is_fleeting, head.lines))  # some of them may be gone
    is_kept = is_kept and len(raw_lines) <= MAX_FIELDS - _FLEETING_FIELDS
    if is_kept and _requests.is_due(fields):
        _requests.keep(fields, head.with_start(b"", b""))
    return head


def parse_response(block: bytes, method: bytes) -> ResponseHead:
    """``method`` is the request's: a response to HEAD has no body.

    The head may be shared by several responses: who changes it makes a copy.
    """
    if method != b"HEAD":
        known = _responses.get(block) or _parse_measured(block)
        if known is not None:
            return known
    head, is_kept = _parse_response_fields(block, method)
    if is_kept and _responses.is_due(block):
        _responses.keep(block, head)
    return head


def _parse_measured(block: bytes) -> ResponseHead | None:
    """A head of which all is known but the body's length."""
    at = block.find(b"\r\nContent-Length: ")
    if at < 0:
        at = block.find(b"\r\ncontent-length: ")
        if at < 0:
            return None
    end = block.find(b"\r\n", at + 2)
    if end < 0:
        end = len(block)
    digits = block[at + 18 : end]
    # Canonical only: with zeros in front, blanks or more digits it takes the long way.
    if not digits.isdigit() or len(digits) > MAX_LENGTH_DIGITS or digits[0] == 0x30:
        return None
    rest = block[:at] + block[end:]
    known = _measured.get(rest)
    if known is None:
        if _measured.is_due(rest):
            with suppress(ProtocolError):  # the whole is refused, for its first fault
                known, is_kept = _parse_response_fields(rest, b"GET")
                # Else there was another length, or none is meant to be.
                if is_kept and known.length == UNTIL_CLOSE:
                    _measured.keep(rest, known)
        return None
    head = known.with_lines([*known.lines, b"content-length: " + digits])
    head.length = int(digits)
    if _responses.is_due(block):
        _responses.keep(block, head)
    return head


def _parse_response_fields(block: bytes, method: bytes) -> tuple[ResponseHead, bool]:
    """And whether it may be kept."""
    raw_lines = block.split(b"\r\n")
    if len(raw_lines) > MAX_FIELDS + 1:
        raise ProtocolError("too_large", "more than 100 header fields")
    status, reason, is_old = _statuses.get(raw_lines[0]) or _parse_status_line(raw_lines[0])
    head = ResponseHead(status, reason, not is_old)
    is_kept = method != b"HEAD"
    lines = head.lines
    append = lines.append
    length: bytes | None = None
    encoding: bytes | None = None
    connection = b""
    del raw_lines[0]
    for raw in raw_lines:
        field = memo_get(raw)
        if field is None:
            field = parse_field(raw)
            is_kept = is_kept and not is_fleeting(field)
        if field.__class__ is bytes:
            append(field)
            continue
        assert isinstance(field, Special)
        kind = field.kind
        if kind == LENGTH:
            if length is not None:
                raise ProtocolError("length", "more than one content-length")
            length = field.value
            append(field.line)
        elif kind == CONNECTION:
            connection = connection + b"," + field.value if connection else field.value
        elif kind == ENCODING:
            if encoding is not None:
                raise ProtocolError("encoding", "more than one transfer-encoding")
            encoding = field.value
        elif kind in (GRPC, REQUEST_ID, TRACE, HOST, EXPECT, GRPC_TIMEOUT):
            append(field.line)
        elif kind == FLAG:
            head.flag = field.value
            is_kept = False
        elif kind == POLICY:
            is_kept = False
            if POLICY_ID.fullmatch(field.value) is not None:
                head.policy = field.value
    if connection:
        _apply_connection(head, connection.lower(), is_old)
        lines = head.lines
    if status < 200 or status == 204:
        # RFC 9110, section 8.6: neither has a length, and a client may believe one.
        if length is not None:
            head.lines = [line for line in lines if not line.startswith(b"content-length:")]
    elif status == 304 or method == b"HEAD":
        if length is not None:
            framing(length, encoding, is_old)
    elif length is None and encoding is None:
        head.length = UNTIL_CLOSE
    else:
        head.length = framing(length, encoding, is_old)
    return head, is_kept


def framing(length: bytes | None, encoding: bytes | None, is_old: bool) -> int:
    if encoding is not None:
        if length is not None:
            raise ProtocolError("framing", "both content-length and transfer-encoding")
        if is_old:
            raise ProtocolError("framing", "transfer-encoding in HTTP/1.0")
        if encoding.lower() != b"chunked":
            raise ProtocolError("encoding", "a transfer-encoding other than chunked")
        return CHUNKED
    assert length is not None
    if _LENGTH.fullmatch(length) is None:
        raise ProtocolError("length", "content-length is not a number")
    return int(length)


def _apply_connection(head: RequestHead | ResponseHead, value: bytes, is_old: bool) -> None:
    """``value``: all Connection fields in lower case, joined by commas."""
    if value == b"keep-alive":
        head.is_keep_alive = True
        return
    if value == b"close":
        head.is_keep_alive = False
        return
    tokens = {part.strip(b" \t") for part in value.split(b",")}
    if b"close" in tokens:  # wins over keep-alive: the safe side
        head.is_keep_alive = False
    elif is_old and b"keep-alive" in tokens:
        head.is_keep_alive = True
    # TE is listed by rule (RFC 9110, section 10.1.4); what is left of it here is "trailers", which
    # holds on every hop of ours, and without which gRPC servers refuse a call.
    tokens.discard(b"te")
    head.lines = without_listed(head.lines, tokens)


def _parse_request_line(line: bytes) -> tuple[bytes, bytes, bytes | None, bool]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError("start_line", "the request line is malformed")
    method, target, minor = match.groups()
    if method not in METHODS:
        raise ProtocolError("method", "the method is not a known one")
    authority: bytes | None = None
    if b"#" in target:
        raise ProtocolError("target", "the request target has a fragment")
    if method == b"CONNECT":
        pass  # refused later, with a reason of its own
    elif not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            # RFC 9112, section 3.2.2: the authority in the target replaces Host.
            authority = absolute[1]
            path = absolute[2] or b"/"
            target = path if path.startswith(b"/") else b"/" + path
        elif not (target == b"*" and method == b"OPTIONS"):
            raise ProtocolError("target", "the request target is not a path")
    start = (method, target, authority, minor == b"0")
    if len(line) <= _START_BYTES:
        if len(_starts) >= _STARTS_KEPT:
            _starts.clear()
        _starts[line] = start
    return start


def _parse_status_line(line: bytes) -> tuple[int, bytes, bool]:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise ProtocolError("start_line", "the status line is malformed")
    minor, code, phrase = match.groups()
    parsed = (int(code), code + b" " + (phrase or b""), minor == b"0")
    if len(line) <= _START_BYTES:
        if len(_statuses) >= _STARTS_KEPT:
            _statuses.clear()
        _statuses[line] = parsed
    return parsed


def serialize_request(head: RequestHead, authority: bytes) -> bytes:
    """HTTP/1.1, whatever the client spoke; ``authority`` stands in for a missing Host.

    What differs in each request stays last: a peer's proxy knows the rest by its bytes.
    """
    lines = head.lines
    hop = b"transfer-encoding: chunked\r\n" if head.length == CHUNKED else b""
    if head.has_te:
        hop += b"connection: te\r\n"
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b%b%b" % (
        head.method,
        head.target,
        authority if head.authority is None else head.authority,
        hop,
        b"\r\n".join(lines),
        b"\r\n\r\n" if lines else b"\r\n",
    )
