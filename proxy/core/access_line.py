"""A finished call as a line of the access log: a JSON object, or text by the operator's format.

A line is made long after its call, when there are many to be made. All that stands in each line of
one pair of services is made once; texts from the network are cut, and quoted so that a line is
always one line, and always valid JSON.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as _quote
from typing import Final, TypeVar

from proxy.core.access_entry import (
    ID,
    MAX_AUTHORITY_CHARS,
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
from proxy.model.endpoint import Endpoint

MAX_LINE_BYTES: Final = 4000
"""Line feed included: less than what a pipe takes as a whole (PIPE_BUF)."""

_KNOWN: Final = 1000
"""Texts kept, of one kind: the requests of a service look alike."""
_OWN_ID: Final = ID + 32
_IDS: Final = 64
_NO_WAITS: Final = '"queue_ms":0,"connect_ms":0'
_paths: dict[bytes, str] = {}
"""Quoted."""
_TS_BYTES: Final = len("2026-01-01T00:00:00")


E = TypeVar("E", Request, Session)


class Stamps:
    """Moments as text; what is the same for a whole second, or millisecond, is made once."""

    __slots__ = ("_moment", "_second", "_stamp", "_text")

    def __init__(self) -> None:
        self._moment = self._second = -1
        self._stamp = self._text = ""

    def of(self, epoch_s: float) -> str:
        """RFC 3339, UTC, milliseconds."""
        moment = int(epoch_s * 1000)
        if moment != self._moment:
            second, ms = divmod(moment, 1000)
            if second != self._second:
                self._second = second
                self._text = datetime.fromtimestamp(second, UTC).isoformat()[:_TS_BYTES]
            self._moment, self._stamp = moment, f"{self._text}.{ms:03d}Z"
        return self._stamp


class Printer:
    """Of one pair of services as one side sees it."""

    __slots__ = ("_format", "_known", "_pair", "_stamps", "_static")

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
        self._stamps = stamps
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
        self._known: dict[tuple[object, ...], tuple[str, Endpoint | None]] = {}
        """``_what`` of requests that went well. By an endpoint's identity, which is found faster
        than it is compared."""

    def request(self, entry: Entry, since: float, *, is_cut: bool = False) -> str:
        """``entry``: what a ``Request`` has, in its order. ``since``: the epoch of its clock, in
        seconds. ASCII, with the line feed."""
        if self._format is not None:
            return self._text(REQUEST_TEXTS, Request._make(entry), self._format, since)
        (
            _, is_bad, ended, started, headed, queue_s, connect_s, id_line, trace_line, method,
            target, authority, route, endpoint, attempts, status, flag, policy, detail, received,
            sent,
        ) = entry  # fmt: skip
        if is_bad:
            what = self._what(
                method, authority, route, endpoint, attempts, status, flag, policy, detail
            )
        else:
            key = (method, authority, route, id(endpoint), attempts, status, flag)
            known = self._known.get(key)
            if known is not None:
                what = known[0]
            else:
                what = self._what(method, authority, route, endpoint, attempts, status, flag)
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[key] = what, endpoint  # so that its id stays its own
        if b"?" in target:
            target = target.partition(b"?")[0]
        path = _paths.get(target) or _remember(target)
        ids = id_line[ID:] + trace_line[TRACE:TRACE_END]
        if len(ids) == _IDS and len(id_line) == _OWN_ID and ids.isalnum():  # as the mesh makes them
            text = ids.decode("latin-1")
            both = f'"{text[:32]}","trace_id":"{text[32:]}"'
        else:
            own, trace = request_id_of(id_line), trace_id_of(trace_line)
            both = f'{_json(own)},"trace_id":{_json(trace)}'
        total = f"{(ended - started) * 1000:.3f}"
        first = f"{(headed - started) * 1000:.3f}" if headed else total if status else "null"
        waits = _NO_WAITS
        if connect_s or queue_s:
            waits = f'"queue_ms":{milliseconds(queue_s)},"connect_ms":{milliseconds(connect_s)}'
        line = (
            f'{{"ts":"{self._stamps.of(ended + since)}",{what},"path":{path},"request_id":{both},'
            f'{waits},"first_byte_ms":{first},"total_ms":{total},'
            f'"request_bytes":{received},"response_bytes":{sent}}}\n'
        )
        if len(line) > MAX_LINE_BYTES and not is_cut:
            return self.request(_shortened(entry), since, is_cut=True)
        return line

    def _what(
        self,
        method: bytes,
        authority: bytes | None,
        route: str,
        endpoint: Endpoint | None,
        attempts: int,
        status: int,
        flag: str,
        policy: str = "",
        detail: str = "",
    ) -> str:
        """The fields that many requests have in common."""
        name = (authority or b"").decode("latin-1")[:MAX_AUTHORITY_CHARS]
        return (
            f'{self._pair},"protocol":"http","method":{_json(method.decode("latin-1"))},'
            f'"authority":{_json(name)},"route":{_json(route)},'
            f'"endpoint":{_json(place(endpoint))},"attempts":{attempts},"status":{status},'
            f"{_ending(status, flag, policy, detail)}"
        )

    def session(self, fields: Entry, since: float) -> str:
        """The same of a TCP session, with what a ``Session`` has."""
        entry = Session._make(fields)
        if self._format is not None:
            return self._text(SESSION_TEXTS, entry, self._format, since)
        return (
            f'{{"ts":"{self._stamps.of(entry.ended + since)}",{self._pair},"protocol":"tcp",'
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
                values.append(self._stamps.of(entry.ended + since))
            else:
                values.append(self._static.get(name) or "-")
        return format.fill(values)[: MAX_LINE_BYTES - 1] + "\n"


def _shortened(entry: Entry) -> Entry:
    """For a line that would be too long, as each character of a text may take six."""
    found = Request._make(entry)
    return found._replace(
        id_line=found.id_line[: ID + 32], target=found.target[:100], authority=None, detail=""
    )


def _remember(path: bytes) -> str:
    if len(_paths) >= _KNOWN:
        _paths.clear()
    text = _paths[path] = _quote(path.decode("latin-1")[:MAX_PATH_CHARS])
    return text


def _ending(status: int, flag: str, policy: str, detail: str) -> str:
    return (
        f'"flag":{_json(flag)},"reason":{_json(reason(status, flag, detail))},'
        f'"policy":{_json(policy[:MAX_POLICY_CHARS])}'
    )


def _json(text: str) -> str:
    return _quote(text) if text else "null"
