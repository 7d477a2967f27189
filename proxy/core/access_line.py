"""A finished call as a line of the access log: a JSON object, or text by the operator's format.

A line is made long after its call, when there are many to be made. All that stands in each line of
one pair of services is made once; texts from the network are cut, and quoted so that a line is
always one line, and always valid JSON.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quote
from typing import Final, TypeVar

from proxy.core.access_entry import (
    ID,
    MAX_AUTHORITY_CHARS,
    MAX_ID_CHARS,
    MAX_PATH_CHARS,
    MAX_POLICY_CHARS,
    REQUEST_TEXTS,
    SESSION_TEXTS,
    TRACE,
    TRACE_END,
    Entry,
    Request,
    Session,
    milliseconds,
    place,
    reason,
    request_id_of,
    trace_id_of,
)
from proxy.core.access_format import Compiled
from proxy.core.outcome import Outcome

MAX_LINE_BYTES: Final = 4000
"""Line feed included: less than what a pipe takes as a whole (PIPE_BUF)."""

_KNOWN: Final = 1000
"""Texts kept, of one kind: the requests of a service look alike."""
_KNOWN_TIMES: Final = 4096
_MAX_PLAIN_ID: Final = ID + MAX_ID_CHARS
_PLAIN: Final = bytes(byte for byte in range(ord(" "), 127) if byte not in b'"\\')
"""What stands in JSON as it is."""
_TRACE_DIGITS: Final = 32
_WAITS: Final = '","queue_ms":%s,"connect_ms":%s,"first_byte_ms":'
_TOOK: Final = b'%b,"total_ms":%b'
_NO_WAITS: Final = (_WAITS % (0, 0)).encode("ascii")
_MAX_PLAIN_START: Final = 2000
_MAX_PLAIN_PATH: Final = 1000
"""With these, no line that is made of them is too long."""
_paths: dict[bytes, bytes] = {}
"""By target. Quoted, and what comes behind it up to the request's id."""
_times: dict[int, bytes] = {}
"""By microseconds, in milliseconds."""
_totals: dict[int, bytes] = {}
"""By microseconds: of a call whose first byte came with all others."""
_sizes: dict[tuple[int, int], bytes] = {}
"""The end of a line, by what it tells of."""
_TS_BYTES: Final = len("2026-01-01T00:00:00")


E = TypeVar("E", Request, Session)
K = TypeVar("K")


class Stamps:
    """Moments as text; what is the same for a whole second, or millisecond, is made once."""

    __slots__ = ("_moment", "_second", "_stamp", "_text")

    def __init__(self) -> None:
        self._moment = self._second = -1
        self._stamp = self._text = ""

    def of(self, epoch_s: float) -> str:
        """RFC 3339, UTC, milliseconds."""
        return self.at(int(epoch_s * 1000))

    def at(self, moment: int) -> str:
        """The same of milliseconds."""
        if moment != self._moment:
            second, ms = divmod(moment, 1000)
            if second != self._second:
                self._second = second
                self._text = datetime.fromtimestamp(second, UTC).isoformat()[:_TS_BYTES]
            self._moment, self._stamp = moment, f"{self._text}.{ms:03d}Z"
        return self._stamp


class Printer:
    """Of one pair of services as one side sees it."""

    __slots__ = ("_format", "_pair", "_static", "bad_session", "good_session", "stamps")

    def __init__(
        self,
        *,
        side: str,
        host: str,
        caller: str,
        caller_identity: str,
        service: str,
        service_identity: str,
        format: Compiled | None,
        stamps: Stamps,
    ) -> None:
        """Identities empty: none. ``format`` None: JSON."""
        self.stamps = stamps
        self._format = format
        self._static = {
            "log": "access",
            "side": side,
            "host": host,
            "caller": caller,
            "caller_identity": caller_identity,
            "service": service,
            "service_identity": service_identity,
        }
        pairs = (f'"{key}":{_json(value)}' for key, value in self._static.items())
        self._pair = ",".join(pairs)
        self.good_session = SessionKind(self, is_failure=False)
        self.bad_session = SessionKind(self, is_failure=True)

    def prepare(self, outcome: Outcome) -> None:
        """Before an entry of it is given to ``lines``."""
        outcome.printer = self
        if self._format is None and not outcome.is_failure:
            start = f',{self._what(outcome)},"path":'.encode("ascii")
            outcome.line_start = start if len(start) <= _MAX_PLAIN_START else b""

    def request(self, entry: Entry, since: float, *, is_cut: bool = False) -> str:
        """Of any request, as a line. ``entry``: what a ``Request`` has, in its order. ``since``:
        the epoch of its clock, in seconds. ASCII, with the line feed."""
        found = Request._make(entry)
        if self._format is not None:
            return self._text(REQUEST_TEXTS, found, self._format, since)
        outcome = found.outcome
        path = _quoted(found.target.partition(b"?")[0]).decode("ascii")
        what = self._what(outcome, found.policy, found.detail, is_cut=is_cut)
        own, trace = request_id_of(found.id_line), trace_id_of(found.trace_line)
        total = f"{(found.ended - found.started) * 1000:.3f}"
        first = f"{(found.headed - found.started) * 1000:.3f}" if found.headed else total
        line = (
            f'{{"ts":"{self.stamps.of(found.ended + since)}",{what},"path":{path},'
            f'"request_id":{_json(own)},"trace_id":{_json(trace)},'
            f'"queue_ms":{milliseconds(found.queue_s)},'
            f'"connect_ms":{milliseconds(found.connect_s)},'
            f'"first_byte_ms":{first if outcome.status else "null"},"total_ms":{total},'
            f'"request_bytes":{found.request_bytes},"response_bytes":{found.response_bytes}}}\n'
        )
        if len(line) > MAX_LINE_BYTES and not is_cut:
            return self.request(_shortened(found), since, is_cut=True)
        return line

    def _what(
        self, outcome: Outcome, policy: str = "", detail: str = "", *, is_cut: bool = False
    ) -> str:
        """The fields that many requests have in common."""
        name = "" if is_cut else (outcome.authority or b"").decode("latin-1")
        if not outcome.is_failure:
            policy = detail = ""
        return (
            f'{self._pair},"protocol":{_json(outcome.protocol)},'
            f'"method":{_json(outcome.method.decode("latin-1"))},'
            f'"authority":{_json(name[:MAX_AUTHORITY_CHARS])},"route":{_json(outcome.route)},'
            f'"endpoint":{_json(place(outcome.endpoint))},"attempts":{outcome.attempts},'
            f'"status":{outcome.status},"grpc_status":{outcome.grpc_status or "null"},'
            f"{_ending(outcome.status, outcome.flag, policy, detail)}"
        )

    def session(self, fields: Entry, since: float) -> str:
        """The same of a TCP session, with what a ``Session`` has."""
        entry = Session._make(fields)
        if self._format is not None:
            return self._text(SESSION_TEXTS, entry, self._format, since)
        return (
            f'{{"ts":"{self.stamps.of(entry.ended + since)}",{self._pair},"protocol":"tcp",'
            f'"endpoint":{_json(place(entry.endpoint))},"attempts":{entry.attempts},'
            f"{_ending(0, entry.flag, entry.policy, entry.detail)},"
            f'"connect_ms":{milliseconds(entry.connect_s)},'
            f'"total_ms":{milliseconds(entry.ended - entry.started)},'
            f'"sent_bytes":{entry.sent_bytes},"received_bytes":{entry.received_bytes}}}\n'
        )

    def _text(
        self, getters: Mapping[str, Callable[[E], str]], entry: E, format: Compiled, since: float
    ) -> str:
        values = []
        for name in format.names:
            if (get := getters.get(name)) is not None:
                values.append(get(entry) or "-")
            elif name == "ts":
                values.append(self.stamps.of(entry.ended + since))
            else:
                values.append(self._static.get(name) or "-")
        return format.fill(values)[: MAX_LINE_BYTES - 1] + "\n"


class SessionKind:
    """What an entry of a TCP session has in the place of a request's outcome."""

    __slots__ = ("is_failure", "line_start", "printer")

    def __init__(self, printer: Printer, *, is_failure: bool) -> None:
        self.printer = printer
        self.is_failure = is_failure
        self.line_start = b""


def lines(entries: Sequence[Entry], since: float, stamps: Stamps) -> bytes:
    """HOT. One line of each entry, of any printers; ``since`` as ``Printer.request`` has it."""
    made = _plain_lines(entries, since, stamps)
    if made is None:
        made = "".join([_line(entry, since) for entry in entries]).encode("ascii")
    return made


def _plain_lines(entries: Sequence[Entry], since: float, stamps: Stamps) -> bytes | None:
    """None: there are ids among them that may not stand in JSON as they are."""
    pieces: list[bytes] = []
    add = pieces.extend
    ids: list[bytes] = []
    traces: list[bytes] = []
    add_id, add_trace = ids.append, traces.append
    times, totals, sizes, paths = _times, _totals, _sizes, _paths
    since_ms = since * 1000.0
    before, stamp = -1, b""
    for entry in entries:
        start = entry[0].line_start
        if not start:
            pieces.append(_line(entry, since).encode("ascii"))
            continue
        (
            _, ended, started, headed, queue_s, connect_s, id_line, trace_line, target,
            _, _, _, received, sent,
        ) = entry  # fmt: skip
        path = paths.get(target) or _path(target)
        if not id_line or not trace_line or not path or len(id_line) > _MAX_PLAIN_ID:
            pieces.append(_line(entry, since).encode("ascii"))
            continue
        moment = int(ended * 1000.0 + since_ms)
        if moment != before:
            before, stamp = moment, b'{"ts":"%b"' % stamps.at(moment).encode("ascii")
        us = int((ended - started) * 1e6)
        if headed:
            first_us = int((headed - started) * 1e6)
            took = _TOOK % (times.get(first_us) or _time(first_us), times.get(us) or _time(us))
        else:
            took = totals.get(us) or _total(us)
        waits = _NO_WAITS if not queue_s and not connect_s else _waits(queue_s, connect_s)
        size = received, sent
        own, trace = id_line[ID:], trace_line[TRACE:TRACE_END]
        add_id(own)
        add_trace(trace)
        add((
            stamp, start, path, own, b'","trace_id":"', trace, waits, took,
            sizes.get(size) or _size(size),
        ))  # fmt: skip
    # All at once, as that costs next to nothing.
    all_ids, all_traces = b"".join(ids), b"".join(traces)
    if ids and not (
        all_traces.isalnum()
        and len(all_traces) == _TRACE_DIGITS * len(traces)
        and (all_ids.isalnum() or not all_ids.translate(None, _PLAIN))
        and all(ids)
    ):
        return None
    return b"".join(pieces)


def _line(entry: Entry, since: float) -> str:
    printer: Printer = entry[0].printer
    if isinstance(entry[0], SessionKind):
        return printer.session(entry, since)
    return printer.request(entry, since)


def _path(target: bytes) -> bytes:
    """As it stands in a line; empty: it is too long there to be remembered."""
    path = target.partition(b"?")[0]
    text = _paths.get(path)
    if text is None:
        text = _quoted(path) + b',"request_id":"'
        if len(text) > _MAX_PLAIN_PATH:
            return b""
        _remember(_paths, path, text, _KNOWN)
    return text


def _quoted(path: bytes) -> bytes:
    return _quote(path.decode("latin-1")[:MAX_PATH_CHARS]).encode("ascii")


def _time(us: int) -> bytes:
    return _remember(_times, us, b"%d.%03d" % divmod(us, 1000), _KNOWN_TIMES)


def _total(us: int) -> bytes:
    took = _time(us)
    return _remember(_totals, us, _TOOK % (took, took), _KNOWN_TIMES)


def _size(both: tuple[int, int]) -> bytes:
    text = b',"request_bytes":%d,"response_bytes":%d}\n' % both
    return _remember(_sizes, both, text, _KNOWN)


def _waits(queue_s: float, connect_s: float) -> bytes:
    text = _WAITS % (milliseconds(queue_s), milliseconds(connect_s))
    return text.encode("ascii")


def _remember(known: dict[K, bytes], key: K, text: bytes, most: int) -> bytes:
    if len(known) >= most:
        known.clear()
    known[key] = text
    return text


def _shortened(entry: Request) -> Request:
    """For a line that would be too long, as each character of a text may take six."""
    return entry._replace(id_line=entry.id_line[: ID + 32], target=entry.target[:100], detail="")


def _ending(status: int, flag: str, policy: str, detail: str) -> str:
    return (
        f'"flag":{_json(flag)},"reason":{_json(reason(status, flag, detail))},'
        f'"policy":{_json(policy[:MAX_POLICY_CHARS])}'
    )


def _json(text: str) -> str:
    return _quote(text) if text else "null"
