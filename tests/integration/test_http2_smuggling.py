"""Requests that change their version on the way: each is refused, or is exactly one request.

From HTTP/2 to an application in HTTP/1.1, what would be a second line, a second request or another
body there; judged by llhttp and h11. And from HTTP/1.1 to an application in HTTP/2, judged by h2
and by what an application in HTTP/1.1 gets of the same bytes.
"""
# ruff: noqa: E501  (tables)

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop
from fuzz.backend import Backend, Seen
from fuzz.compare import pass_through, sentinel
from fuzz.grammar import make
from fuzz.judge import Message
from fuzz.ours import LISTENERS, make_pki, unstarted_mesh
from h2_ends import H2App
from h2_ends import Message as H2Message
from hostile.http2_wire import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NO_TABLE,
    RST_STREAM,
    Peer,
    block,
    frame,
    get,
    greeted,
    integer,
    literal,
)
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

pytestmark = pytest.mark.timeout(300)

CASES = 5_000
"""Through each listener."""
OLD_CASES = 2_000
_SEED = 31
_QUIET_S = 0.06
_WITHIN_S = 10.0
_ON_ONE = 100
"""Payloads on one connection: many errors in a second are a flood."""

_coder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_INNER = b"GET /inner HTTP/1.1\r\nHost: api\r\n\r\n"
_BREAKS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b"\r\n\r\n", b"\r\n ", b"\x0b", b"\x85", b" ", b"\t"),
    *(b"\r\n\r\n" + _INNER, b"\nTransfer-Encoding: chunked", b"\r\nContent-Length: 5"),
    *(b" HTTP/1.1\r\nHost: api\r\n\r\n" + _INNER, b"\r\nX-Forwarded-Client-Cert: URI=y"),
    *(b"%0d%0a", b":", b": x", b"#", b"?", b"\\", b"\xff", b",", b"\x7f"),
)
_FIELDS = (
    *((b"transfer-encoding", each) for each in (b"chunked", b"identity", b"gzip, chunked", b"")),
    *((b"content-length", each) for each in (b"0", b"3", b"+5", b"5, 5", b"0x5", b"5 ", b"", b"6")),
    *((b"host", each) for each in (b"api", b"API", b"other", b"", b"api:80", b"api\r\nx: y")),
    *((b"connection", each) for each in (b"close", b"content-length", b"upgrade")),
    *((b"Host", b"other"), (b"Content-Length", b"0"), (b"transfer_encoding", b"chunked")),
    *((b"te", b"chunked"), (b"te", b"trailers"), (b"upgrade", b"h2c"), (b"expect", b"100-continue")),
    *((b"keep-alive", b"1"), (b"proxy-connection", b"x"), (b"http2-settings", b"AAM")),
    *((b":path", b"/other"), (b":authority", b"other"), (b":method", b"POST"), (b":x", b"1")),
    *((b"x-forwarded-client-cert", b"URI=y"), (b"x-mesh-flag", b"UF"), (b"content-length:", b"5")),
    *((b"transfer-encoding ", b"chunked"), (b"\ttransfer-encoding", b"chunked"), (b"", b"x")),
    *((b"x: y\r\nhost", b"other"), (b"cookie", b"a=1"), (b"cookie", b"b=2\r\nx: y")),
)  # fmt: skip
_PATHS = (
    *(b"/", b"/a?b=c", b"http://other/x", b"//other/x", b"*", b"", b"x", b"/a#b", b"/a b"),
    *(b"/ HTTP/1.1\r\nx: y", b"/\x7f", b"/%00", b"/\xc3\xa9", b"/..;/x", b"other:80"),
)
_METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"get", b"GET /x HTTP/1.1\r\nx:", b"G\0T", b"CONNECT", b"PRI", b"TRACE", b"")  # fmt: skip
_AUTHORITIES = (
    b"api",
    b"API",
    b"other",
    b"me@api",
    b"api/x",
    b"api:80",
    b"",
    b"api\r\nx: y",
    b"a b",
)


@dataclass(frozen=True, slots=True)
class Payload:
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    declared: int
    """How much of the body is sent."""
    trailers: tuple[tuple[bytes, bytes], ...]
    is_coded: bool
    """In Huffman's code."""

    def wire(self, stream: int) -> bytes:
        head = NO_TABLE + b"".join([self._field(*each) for each in self.fields])
        has_more = bool(self.body or self.trailers)
        out = frame(HEADERS, END_HEADERS | (0 if has_more else END_STREAM), stream, head)
        for at in range(0, len(self.body), 7):
            is_last = at + 7 >= len(self.body) and not self.trailers
            out += frame(DATA, END_STREAM if is_last else 0, stream, self.body[at : at + 7])
        if self.trailers:
            last = b"".join([literal(*each) for each in self.trailers])
            out += frame(HEADERS, END_HEADERS | END_STREAM, stream, last)
        return out

    def _field(self, name: bytes, value: bytes) -> bytes:
        if not self.is_coded:
            return literal(name, value)
        strings = [_coder.encode(each) for each in (name, value)]
        return b"\x10" + b"".join([integer(len(each), 7, 0x80) + each for each in strings])

    def expected(self, name: bytes) -> bytes:
        return next((value for key, value in self.fields if key == name), b"")


def generate(rng: Random) -> Payload:
    method = rng.choice((b"GET", b"POST", b"POST", b"PUT"))
    body = rng.choice((b"", b"", b"hello", b"0\r\n\r\n" + _INNER, b"5\r\nhello\r\n0\r\n\r\n"))
    fields = [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"api"),
    ]
    if rng.random() < 0.3:
        fields.append((b"content-length", b"%d" % len(body)))
    trailers: list[tuple[bytes, bytes]] = []
    if rng.random() < 0.2:
        trailers.append(rng.choice((*_FIELDS, (b"x-sum", b"1"), (b"x", b"1\r\n\r\n" + _INNER))))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.randrange(8)
        at = rng.randrange(len(fields))
        if kind == 0:
            fields.append(rng.choice(_FIELDS))
        elif kind == 1:
            fields.insert(at, rng.choice(_FIELDS))
        elif kind == 2:
            fields[2] = (b":path", rng.choice(_PATHS))
        elif kind == 3:
            fields[0] = (b":method", rng.choice(_METHODS))
        elif kind == 4:
            fields[3:4] = [(b":authority", rng.choice(_AUTHORITIES))]
        elif kind == 5:
            name, value = fields[at]
            cut = rng.randrange(len(value) + 1)
            fields[at] = (name, value[:cut] + rng.choice(_BREAKS) + value[cut:])
        elif kind == 6:
            name, value = fields[at]
            cut = rng.randrange(len(name) + 1)
            fields[at] = (name[:cut] + rng.choice(_BREAKS) + name[cut:], value)
        else:
            fields.append((b"x-a", b"1" + rng.choice(_BREAKS) + b"2"))
    return Payload(tuple(fields), body, len(body), tuple(trailers), rng.random() < 0.4)


class Probe:
    """One connection after the other, and what the application saw of each payload."""

    def __init__(self, address: Any, app: Backend) -> None:
        self._address, self._app = address, app
        self._peer: Peer | None = None
        self._number = -1
        self.outcomes: Counter[str] = Counter()

    async def send(self, payload: Payload) -> str:
        """A fault, or nothing."""
        peer = self._peer
        if peer is None or peer.is_closed or peer.goaway or self._number > 4 * _ON_ONE:
            if peer is not None:
                peer.abort()
            peer = self._peer = await greeted(self._address)
            peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block(_plain(b"/first"))))
            assert await peer.until(lambda: 1 in peer.ended, _WITHIN_S)
            self._number = 1
        app, number = self._app, self._number + 2
        self._number = number + 2
        target = b"/sentinel/%d" % number
        app.begin()
        peer.send(payload.wire(number) + get(number + 2, target))

        def is_over() -> bool:
            is_answered = number in peer.ended or peer.of(RST_STREAM, number)
            return bool(is_answered) and number + 2 in peer.ended

        await peer.until(is_over, _WITHIN_S)
        status = peer.statuses.get(number, b"").decode()
        faults = list(app.faults)
        ours = [each for each in app.seen if each.message.target != target]
        sentinels = [each for each in app.seen if each.message.target == target]
        if not is_over():
            self._peer = None
            peer.abort()
            return f"{status} {peer.goaway}, and no answer to the sentinel; {faults}"
        if peer.heads[number + 2].get(b"x-target") != target or len(sentinels) != 1:
            faults.append("the sentinel got another answer")
        if status == "200":
            self.outcomes["forwarded"] += 1
            faults += self._compare(payload, [each.message for each in ours])
        else:
            self.outcomes[status or "reset"] += 1
            if ours:
                faults.append(f"refused, and {len(ours)} requests arrived")
        return "; ".join(faults)

    def _compare(self, payload: Payload, seen: list[Message]) -> list[str]:
        if len(seen) != 1:
            return [f"{len(seen)} requests arrived"]
        method, target, host, body = seen[0].boundaries
        wanted = (payload.expected(b":method"), payload.expected(b":path"), payload.body)
        faults = []
        if (method, target, body) != wanted:
            faults.append(f"{(method, target, body)} arrived, not {wanted}")
        if host.lower() != (payload.expected(b":authority") or payload.expected(b"host")).lower():
            faults.append(f"the host became {host!r}")
        known = {name.lower() for name, _ in payload.fields}
        for name, value in seen[0].headers:
            if name in (b"x", b"x-a") and (name not in known or b"\r" in value or b"\n" in value):
                faults.append(f"a field {name!r} of {value!r} came into being")
        return faults


def _plain(path: bytes) -> list[tuple[bytes, bytes]]:
    return [(b":method", b"GET"), (b":scheme", b"http"), (b":path", path), (b":authority", b"api")]


def run(work: Any) -> Any:
    logging.disable(logging.WARNING)  # a line for each refusal
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("listener", LISTENERS)
def test_nothing_in_http2_becomes_two_requests_in_http1(listener: str, tmp_path: Path) -> None:
    async def work() -> tuple[dict[int, str], Counter[str]]:
        mesh = unstarted_mesh(make_pki(tmp_path))
        app = mesh.api = Backend(is_strict=True)
        await mesh.start()
        probe = Probe(LISTENERS[listener](mesh), app)
        wrong = {}
        try:
            for number in range(CASES):
                payload = generate(Random(f"{_SEED}/{number}"))
                if fault := await probe.send(payload):
                    wrong[number] = f"{fault}: {payload}"
        finally:
            await mesh.stop()
        return wrong, probe.outcomes

    wrong, outcomes = run(work())
    print(f"{CASES} payloads through the {listener} listener: {dict(outcomes)}")
    assert not wrong, "\n".join([f"{number}: {what}" for number, what in wrong.items()][:10])
    assert outcomes["forwarded"] > CASES / 10
    assert outcomes["reset"] > CASES / 10


class Http2Backend:
    """A ``Backend`` in HTTP/2, as the h2 library reads it."""

    def __init__(self) -> None:
        self._app = H2App()
        self._app.answer = self._answer
        self.seen: list[Seen] = []
        self.count = 0

    @property
    def port(self) -> int:
        return self._app.port

    @property
    def activity(self) -> int:
        return self.count

    @property
    def faults(self) -> list[str]:
        return [repr(each.error) for each in self._app.connections if each.error is not None]

    async def start(self) -> None:
        await self._app.start()

    async def stop(self) -> None:
        await self._app.stop()

    def begin(self) -> None:
        self.seen = []

    def _answer(self, request: H2Message) -> tuple[int, bytes, list[tuple[str, str]]]:
        self.count += 1
        pairs = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers
        ]
        named = dict(pairs)
        message = Message(
            method=named[b":method"],
            target=named[b":path"],
            headers=[(b"host", named.get(b":authority", b"")), *pairs],
            body=bytes(request.body),
            is_complete=True,
        )
        self.seen.append(Seen(self.count, message))
        target = named[b":path"].decode("latin-1")
        return 200, b"", [("content-length", "0"), ("x-saw", str(self.count)), ("x-target", target)]


def test_nothing_in_http1_becomes_other_requests_in_http2(tmp_path: Path) -> None:
    """The same bytes to an application of each version: the same requests, in the same order."""

    async def work() -> tuple[dict[int, str], Counter[int]]:
        pki = make_pki(tmp_path)
        lanes = []
        for app, protocol in ((Backend(is_strict=True), "http"), (Http2Backend(), "http2")):
            mesh = unstarted_mesh(pki)
            mesh.api, mesh.api_protocol = app, protocol
            await mesh.start()
            lanes.append((mesh, app, LISTENERS["inbound"](mesh)))
        wrong: dict[int, str] = {}
        counts: Counter[int] = Counter()
        try:
            for number in range(OLD_CASES):
                case = make(_SEED, number)
                if b"upgrade" in case.wire.lower():
                    continue  # granted by an application of HTTP/2 alone
                wire = case.wire + sentinel(number)
                for quiet_s in (_QUIET_S, 10 * _QUIET_S):
                    old, new = [
                        await pass_through(address, app, wire, number, quiet_s)
                        for _, app, address in lanes
                    ]
                    old, new = (replace(each, partial=0) for each in (old, new))
                    fault = "; ".join([*old.faults, *new.faults])
                    if not fault and old.requests == new.requests:
                        break
                else:
                    wrong[number] = f"{fault} {wire[:300]!r}: {old} but {new}"
                counts[len(new.requests)] += 1
        finally:
            for mesh, _, _ in lanes:
                await mesh.stop()
        return wrong, counts

    wrong, counts = run(work())
    print(f"{OLD_CASES} cases; requests that arrived of each: {dict(counts)}")
    assert not wrong, "\n".join([f"{number}: {what}" for number, what in wrong.items()][:10])
    assert counts[0]
    assert counts[2]
