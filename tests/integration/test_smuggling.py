"""Classes of hostile requests through each kind of listener, with pooled connections behind it.

Every line ends in one of two ways: a refusal and the end of the connection, or exactly one
request at the application, of which h11 and llhttp say the same. Whatever happened, the next
request on the pooled connections gets its own answer.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fuzz.backend import Backend
from fuzz.compare import Passage, Prober, pass_through, sentinel
from fuzz.ours import LISTENERS, make_pki, start_mesh

_QUIET_S = 0.1

_GET = "GET / HTTP/1.1\r\nHost: api\r\n"
_POST = "POST / HTTP/1.1\r\nHost: api\r\n"
_CHUNKED = _POST + "Transfer-Encoding: chunked\r\n"
_INNER = "GET /inner HTTP/1.1\r\nHost: api\r\n\r\n"
_LAST = "0\r\n\r\n"

REFUSED: dict[str, str] = {
    "CL+TE, CL first": _POST + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + _LAST,
    "CL+TE, TE first": _CHUNKED + "Content-Length: 4\r\n\r\n" + _LAST + _INNER,
    "CL+TE in HTTP/1.0": (
        "POST / HTTP/1.0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + _LAST
    ),
    "CL.CL, equal": _POST + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "CL.CL, different": _POST + "Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
    "CL.CL in a list": _POST + "Content-Length: 5, 5\r\n\r\nhello",
    "CL.CL by underscore": _POST + "Content-Length: 5\r\nContent_Length: 0\r\n\r\nhello",
    "TE.TE, twice": _CHUNKED + "Transfer-Encoding: chunked\r\n\r\n" + _LAST,
    "TE.TE, unknown second": _CHUNKED + "Transfer-Encoding: cow\r\n\r\n" + _LAST,
    "TE.TE, list": _POST + "Transfer-Encoding: identity, chunked\r\n\r\n" + _LAST,
    "TE.TE, xchunked": _POST + "Transfer-Encoding: xchunked\r\n\r\n" + _LAST,
    "TE.TE, quoted": _POST + 'Transfer-Encoding: "chunked"\r\n\r\n' + _LAST,
    "TE.TE, vertical tab": _POST + "Transfer-Encoding: \x0bchunked\r\n\r\n" + _LAST,
    "TE.TE, null in the name": _POST + "Transfer-Encoding\0: chunked\r\n\r\n" + _LAST,
    "TE.TE, underscore": _POST + "Transfer_Encoding: chunked\r\n\r\n" + _LAST,
    "TE.TE, folded": _POST + "Transfer-Encoding:\r\n chunked\r\n\r\n" + _LAST,
    "TE.TE, after a bare newline": _POST + "X: y\nTransfer-Encoding: chunked\r\n\r\n" + _LAST,
    "TE.TE, after a bare return": _POST + "X: y\rTransfer-Encoding: chunked\r\n\r\n" + _LAST,
    "TE.TE, identity": _POST + "Transfer-Encoding: identity\r\n\r\n",
    "TE in HTTP/1.0": "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + _LAST,
    "chunk extension with a bare newline": _CHUNKED + "\r\n5;a\nb\r\nhello\r\n" + _LAST,
    "chunk extension with a bare return": _CHUNKED + "\r\n5;a\rb\r\nhello\r\n" + _LAST,
    "chunk extension with a null": _CHUNKED + "\r\n5;a\0\r\nhello\r\n" + _LAST,
    "chunk extension without end": _CHUNKED + "\r\n5;" + "x" * 2000,
    "bare LF everywhere": "GET / HTTP/1.1\nHost: api\n\n",
    "bare LF after a field": _GET + "X: 1\n\r\n",
    "bare LF after the request line": "GET / HTTP/1.1\nHost: api\r\n\r\n",
    "bare LF after a chunk size": _CHUNKED + "\r\n5\nhello\r\n" + _LAST,
    "bare LF after a chunk": _CHUNKED + "\r\n5\r\nhello\n" + _LAST,
    "bare LF after a trailer": _CHUNKED + "\r\n0\r\nX: 1\n\r\n",
    "bare CR in a value": _GET + "X: a\rb\r\n\r\n",
    "bare CR as an end of line": "GET / HTTP/1.1\rHost: api\r\r",
    "obs-fold": _GET + "X: a\r\n b\r\n\r\n",
    "obs-fold of a length": _POST + "Content-Length:\r\n 5\r\n\r\nhello",
    "obs-fold before the first field": "GET / HTTP/1.1\r\n Host: api\r\n\r\n",
    "space before the colon": _POST + "Content-Length : 5\r\n\r\nhello",
    "tab before the colon": _POST + "Transfer-Encoding\t: chunked\r\n\r\n" + _LAST,
    "space before the name": _GET + "X: 1\r\n  Content-Length: 5\r\n\r\nhello",
    "no colon": _GET + "Content-Length 5\r\n\r\n",
    "no name": _GET + ": 5\r\n\r\n",
    "length with a plus": _POST + "Content-Length: +5\r\n\r\nhello",
    "length with a minus": _POST + "Content-Length: -5\r\n\r\nhello",
    "length with an underscore": _POST + "Content-Length: 0_5\r\n\r\nhello",
    "length in hexadecimal": _POST + "Content-Length: 0x5\r\n\r\nhello",
    "length with a blank": _POST + "Content-Length: 5 5\r\n\r\nhello",
    "length in other digits": _POST + "Content-Length: \xb2\r\n\r\nhello",
    "length that is empty": _POST + "Content-Length:\r\n\r\n",
    "length beyond 64 bits": _POST + "Content-Length: 18446744073709551621\r\n\r\nhello",
    "chunk size with a sign": _CHUNKED + "\r\n+5\r\nhello\r\n" + _LAST,
    "chunk size with 0x": _CHUNKED + "\r\n0x5\r\nhello\r\n" + _LAST,
    "chunk size with an underscore": _CHUNKED + "\r\n0_5\r\nhello\r\n" + _LAST,
    "chunk size beyond 64 bits": _CHUNKED + "\r\n10000000000000005\r\nhello\r\n" + _LAST,
    "chunk size with a blank before it": _CHUNKED + "\r\n 5\r\nhello\r\n" + _LAST,
    "chunk longer than it said": _CHUNKED + "\r\n5\r\nhelloX\r\n" + _LAST,
    "chunk size that is empty": _CHUNKED + "\r\n\r\nhello\r\n" + _LAST,
    "no host": "GET / HTTP/1.1\r\n\r\n",
    "two hosts": _GET + "Host: api\r\n\r\n",
    "two different hosts": _GET + "Host: other\r\n\r\n",
    "a host with a path": "GET / HTTP/1.1\r\nHost: api/x\r\n\r\n",
    "a host with a user": "GET / HTTP/1.1\r\nHost: me@api\r\n\r\n",
    "a bad host beside an absolute target": "GET http://api/ HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a user in an absolute target": "GET http://me@api/ HTTP/1.1\r\nHost: api\r\n\r\n",
    "another scheme": "GET ftp://api/ HTTP/1.1\r\nHost: api\r\n\r\n",
    "a fragment": "GET /#x HTTP/1.1\r\nHost: api\r\n\r\n",
    "a control character in the target": "GET /\x01 HTTP/1.1\r\nHost: api\r\n\r\n",
    "HTTP/2.1 by prior knowledge": "PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": "GET /\r\n\r\n",
    "HTTP/1.10": "GET / HTTP/1.10\r\nHost: api\r\n\r\n",
    "an unknown method": "xGET / HTTP/1.1\r\nHost: api\r\n\r\n",
    "a TLS client": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "101 fields": _GET + "X: 1\r\n" * 100 + "\r\n",
    "a head beyond 60 KiB": _GET + "X: " + "a" * 70_000 + "\r\n\r\n",
    "CONNECT": "CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n" + _INNER,
    "upgrade with a body": (
        _POST + "Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nhello" + _INNER
    ),
    "upgrade of another method": (
        "HEAD / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + _INNER
    ),
    "upgrade to TLS": _GET + "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n" + _INNER,
    "upgrade to what is no token": _GET + "Connection: Upgrade\r\nUpgrade: a b\r\n\r\n" + _INNER,
    "upgrade without a connection field": _GET + "Upgrade: websocket\r\n\r\n" + _INNER,
}
"""The bytes, as latin-1; answered 4xx or 501, and the connection is closed."""

FORWARDED: dict[str, tuple[str, tuple[str, str, str, str]]] = {
    "a plain request": (_GET + "\r\n", ("GET", "/", "api", "")),
    "CL.0, on GET": (_GET + "Content-Length: 0\r\n\r\n", ("GET", "/", "api", "")),
    "a length with zeros": (
        _POST + "Content-Length: 005\r\n\r\nhello",
        ("POST", "/", "api", "hello"),
    ),
    "a body on GET": (_GET + "Content-Length: 5\r\n\r\nhello", ("GET", "/", "api", "hello")),
    "a request inside a body": (
        _POST + f"Content-Length: {len(_INNER)}\r\n\r\n" + _INNER,
        ("POST", "/", "api", _INNER),
    ),
    "the end of a coding inside a body": (
        _POST + "Content-Length: 5\r\n\r\n" + _LAST,
        ("POST", "/", "api", _LAST),
    ),
    "chunks": (_CHUNKED + "\r\n5\r\nhello\r\n" + _LAST, ("POST", "/", "api", "hello")),
    "chunks in upper case": (
        _POST + "TRANSFER-ENCODING: CHUNKED\r\n\r\nA\r\nhellohello\r\n" + _LAST,
        ("POST", "/", "api", "hellohello"),
    ),
    "chunk extensions": (
        _CHUNKED + '\r\n5;a="b;c"\r\nhello\r\n0;x\r\n\r\n',
        ("POST", "/", "api", "hello"),
    ),
    "trailers that frame": (
        _CHUNKED + "\r\n5\r\nhello\r\n0\r\nContent-Length: 9\r\nX-Sum: 1\r\n\r\n",
        ("POST", "/", "api", "hello"),
    ),
    "an empty line before": ("\r\n" + _GET + "\r\n", ("GET", "/", "api", "")),
    "HTTP/1.0": ("GET / HTTP/1.0\r\nHost: api\r\n\r\n", ("GET", "/", "api", "")),
    "HTTP/1.0 without a host": ("GET / HTTP/1.0\r\n\r\n", ("GET", "/", "api", "")),
    "HTTP/1.0 with a length": (
        "POST / HTTP/1.0\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello",
        ("POST", "/", "api", "hello"),
    ),
    "an absolute target that disagrees with Host": (
        "GET http://api/x?y HTTP/1.1\r\nHost: other\r\n\r\n",
        ("GET", "/x?y", "api", ""),
    ),
    "an absolute target without a path": (
        "GET http://api?y HTTP/1.1\r\nHost: api\r\n\r\n",
        ("GET", "/?y", "api", ""),
    ),
    "a path of two slashes": (
        "GET //api/x HTTP/1.1\r\nHost: api\r\n\r\n",
        ("GET", "//api/x", "api", ""),
    ),
    "OPTIONS *": ("OPTIONS * HTTP/1.1\r\nHost: api\r\n\r\n", ("OPTIONS", "*", "api", "")),
    "an offer of h2c": (
        _GET + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n",
        ("GET", "/", "api", ""),
    ),
    "Connection that lists what frames and guards": (
        _POST + "Connection: Content-Length, Host, Authorization, X-Forwarded-Client-Cert\r\n"
        "Authorization: secret\r\nContent-Length: 5\r\n\r\nhello",
        ("POST", "/", "api", "hello"),
    ),
    "the answer before the body": (
        "POST /early HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello",
        ("POST", "/early", "api", "hello"),
    ),
}
"""The bytes, and the one request that reaches the application: method, target, host, body."""


class World:
    def __init__(self, app: Backend, address: Any) -> None:
        self.app, self.address = app, address
        self.prober = Prober(address, app)
        self.number = 0

    async def send(self, wire: bytes) -> Passage:
        self.number += 1
        return await pass_through(self.address, self.app, wire, self.number, _QUIET_S)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "listener" in metafunc.fixturenames:
        metafunc.parametrize("listener", LISTENERS)


async def _world(listener: str, directory: Path) -> AsyncIterator[World]:
    app = Backend(is_strict=True)
    mesh, address = await start_mesh(make_pki(directory), app, listener)
    world = World(app, address)
    assert await world.prober.probe(0, _QUIET_S) == ""  # something to pool
    try:
        yield world
    finally:
        world.prober.close()
        await mesh.stop()


def on_a_world(listener: str, directory: Path, check: Any) -> None:
    async def work() -> None:
        worlds = _world(listener, directory)
        async for world in worlds:
            await check(world)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def test_what_is_ambiguous_is_refused_and_ends_the_connection(
    listener: str, tmp_path: Path
) -> None:
    async def check(world: World) -> None:
        wrong = {}
        for what, text in REFUSED.items():
            passage = await world.send(text.encode("latin-1") + sentinel(world.number + 1))
            is_refused = [status[:1] for status in passage.statuses] == [
                b"4"
            ] or passage.statuses == (b"501",)
            if passage.requests or passage.faults or not passage.is_closed or not is_refused:
                wrong[what] = passage
            if fault := await world.prober.probe(world.number, _QUIET_S):
                wrong[what + ", and then"] = fault
        assert wrong == {}

    on_a_world(listener, tmp_path, check)


def test_what_is_legal_arrives_once_and_as_every_reader_reads_it(
    listener: str, tmp_path: Path
) -> None:
    async def check(world: World) -> None:
        wrong = {}
        for what, (text, expected) in FORWARDED.items():
            if listener == "by_host" and what == "HTTP/1.0 without a host":
                continue  # it names no destination
            passage = await world.send(text.encode("latin-1"))
            wanted = tuple(each.encode("latin-1") for each in expected)
            if passage.requests != (wanted,) or passage.faults or passage.statuses != (b"200",):
                wrong[what] = passage
            if fault := await world.prober.probe(world.number, _QUIET_S):
                wrong[what + ", and then"] = fault
        assert wrong == {}

    on_a_world(listener, tmp_path, check)


def test_a_body_left_on_the_connection_is_never_part_of_the_next_request(
    listener: str, tmp_path: Path
) -> None:
    """The application answers at once; the client owes 99,999 bytes and sends a request instead."""

    async def check(world: World) -> None:
        wire = (
            b"POST /early HTTP/1.1\r\nHost: api\r\nContent-Length: 99999\r\n\r\n" + _INNER.encode()
        )
        passage = await world.send(wire)
        assert passage.requests == ()
        assert passage.statuses == (b"200",)
        assert passage.is_closed
        assert await world.prober.probe(world.number, _QUIET_S) == ""

    on_a_world(listener, tmp_path, check)


def test_nothing_is_tunnelled_before_101(listener: str, tmp_path: Path) -> None:
    """The application refuses, and what came behind is neither a request nor passed on."""

    async def check(world: World) -> None:
        head = b"GET /ws HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        passage = await world.send(head + b"\x81\x85early" + _INNER.encode())
        assert passage.requests == ((b"GET", b"/ws", b"api", b""),)
        assert passage.partial == 0
        assert passage.faults == ()
        assert passage.statuses == (b"200",)
        assert passage.is_closed
        assert await world.prober.probe(world.number, _QUIET_S) == ""

    on_a_world(listener, tmp_path, check)


def test_the_class_of_error_is_in_metric_and_log(
    listener: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        app = Backend(is_strict=True)
        mesh, address = await start_mesh(make_pki(tmp_path), app, listener)
        try:
            wire = REFUSED["CL+TE, CL first"].encode()
            await pass_through(address, app, wire, 1, _QUIET_S)
            host, reporter = {"inbound": ("far", "destination")}.get(listener, ("near", "source"))
            assert (
                mesh.metric(
                    host,
                    "mesh_downstream_protocol_errors_total",
                    reason="framing",
                    reporter=reporter,
                )
                == 1
            )
            records = [each for each in caplog.records if each.name == "proxy.http.ledger"]
            (fields,) = map(vars, records)
            assert fields["levelno"] == logging.WARNING
            assert fields["reason"] == "framing"
            assert fields["subject"] == ("web -> ?" if listener == "by_host" else "web -> api")
            assert fields["listener"] == f"{address[0]}:{address[1]}"
            assert json.dumps(fields["detail"])
        finally:
            await mesh.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
