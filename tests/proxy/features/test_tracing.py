"""Traces of real calls through two real data planes, as a receiver of OTLP gets them."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from otlp_receiver import OtlpReceiver, attributes_of

from proxy import __version__
from proxy.model.authorization import Intention
from proxy.model.names import ServiceName
from proxy.model.policy import Destination, Route, ServicePolicy
from proxy.model.resilience import Retries
from proxy.model.routing import Match, Mirror, PathMatch
from proxy.model.telemetry import Telemetry, Tracing
from proxy.net import otlp

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
ALWAYS = Tracing(percent=100)
FIVE_HUNDRED = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"


class Traced:
    """A grid whose spans arrive somewhere."""

    def __init__(self, grid: Any, receiver: OtlpReceiver) -> None:
        self.grid, self.receiver = grid, receiver
        self.app: Any = None

    async def start(self, **policy: Any) -> None:
        self.app = await self.grid.serve("api", "a1", version="7")
        self.grid.telemetry = Telemetry(otlp=self.receiver.url)
        self.grid.policy["api"] = ServicePolicy(**policy)
        self.grid.apply()

    async def call(self, headers: str = "", target: str = "/") -> Any:
        """The request as the application received it last."""
        self.response = await (await self.grid.connect()).get(target, headers)
        return self.app.requests[-1] if self.app.requests else None

    async def spans(self, count: int = 2) -> list[tuple[dict[str, Any], Span]]:
        """The source's first. Fails if there are others; ``nothing_else`` says when."""
        await until(lambda: len(self.receiver.spans) >= count)
        return sorted(self.receiver.spans, key=lambda each: each[1].kind, reverse=True)

    async def nothing_else(self, count: int) -> None:
        """What has not arrived once both sides have sent all they had never will."""
        for plane in self.grid.planes.values():
            await plane.close()
        assert len(self.receiver.spans) == count


@pytest.fixture
async def traced(grid: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traced]:
    monkeypatch.setattr(otlp, "LINGER_S", 0.02)
    receiver = OtlpReceiver()
    await receiver.start()
    yield Traced(grid, receiver)
    await receiver.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def ids(span: Span) -> tuple[str, str, str]:
    return span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()


async def test_a_call_is_a_span_at_each_side_one_the_child_of_the_other(traced: Traced) -> None:
    await traced.start(tracing=ALWAYS)
    received = await traced.call()
    (_, source), (_, destination) = await traced.spans()
    assert (source.kind, destination.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)
    trace, span, parent = ids(source)
    assert parent == ""
    assert ids(destination)[::2] == (trace, span)
    (given,) = received.all("traceparent")
    assert given == f"00-{trace}-{destination.span_id.hex()}-03"
    assert received.all("x-request-id") == [trace]
    assert source.start_time_unix_nano <= destination.start_time_unix_nano
    assert destination.end_time_unix_nano <= source.end_time_unix_nano
    assert source.flags & 0xFF == 3


async def test_a_span_says_what_the_conventions_have_and_who_called_whom(traced: Traced) -> None:
    route = Route(name="v1", match=Match(path=PathMatch(prefix="/x")))
    await traced.start(tracing=ALWAYS, routes=(route,))
    await traced.call("X-Request-Id: r-1\r\n", "/x/1?secret=1")
    (web, source), (api, destination) = await traced.spans()
    assert web == {"service.name": "web", "service.version": "1", "host.name": "near"}
    assert api == {"service.name": "api", "service.version": "7", "host.name": "a1"}
    port = traced.grid.planes["a1"].inbound_address()[1]
    both = {
        "http.request.method": "GET",
        "http.request.body.size": 0,
        "http.response.status_code": 200,
        "http.response.body.size": 2,
        "url.scheme": "http",
        "url.path": "/x/1",
        "server.address": "api",
        "network.protocol.version": "1.1",
        "network.peer.address": "127.0.0.1",
        "mesh.source.service": "web",
        "mesh.source.identity": "spiffe://mesh.test/svc/web",
        "mesh.destination.service": "api",
        "mesh.destination.identity": "spiffe://mesh.test/svc/api",
        "mesh.request_id": "r-1",
    }
    assert attributes_of(source) == both | {
        "url.full": "http://api/x/1",
        "server.port": port,
        "network.peer.port": port,
        "mesh.side": "source",
        "mesh.destination.host": "a1",
        "mesh.destination.version": "7",
        "mesh.route": "v1",
    }
    assert attributes_of(destination) == both | {
        "client.address": "127.0.0.1",
        "mesh.side": "destination",
    }
    for span in (source, destination):
        assert (span.name, span.status.code) == ("GET", Status.STATUS_CODE_UNSET)
    assert "secret" not in str(traced.receiver.spans)


async def test_who_makes_the_spans_is_said(traced: Traced) -> None:
    await traced.start(tracing=ALWAYS)
    await traced.call()
    await traced.spans()
    assert f"user-agent: meshctl/{__version__}" in traced.receiver.heads[0].lower()
    assert traced.receiver.heads[0].startswith("POST /v1/traces HTTP/1.1\r\n")


async def test_a_sampled_trace_is_continued_whatever_the_share(traced: Traced) -> None:
    await traced.start()
    received = await traced.call(
        f"traceparent: 00-{TRACE}-{CALLER}-01\r\ntracestate: a=1\r\nTracestate: b=2,c=3\r\n"
    )
    (_, source), (_, destination) = await traced.spans()
    assert ids(source)[0] == ids(destination)[0] == TRACE
    assert ids(source)[2] == CALLER
    assert received.all("traceparent") == [f"00-{TRACE}-{destination.span_id.hex()}-01"]
    assert received.all("tracestate") == ["a=1", "b=2,c=3"]
    assert source.trace_state == destination.trace_state == "a=1,b=2,c=3"


async def test_an_unsampled_trace_passes_untouched_whatever_the_share(traced: Traced) -> None:
    await traced.start(tracing=ALWAYS)
    context = f"00-{TRACE}-{CALLER}-02"
    received = await traced.call(f"traceparent: {context}\r\nCookie: a=b\r\ntracestate: a=1\r\n")
    assert received.all("traceparent") == [context]
    assert received.all("tracestate") == ["a=1"]
    await traced.nothing_else(0)


async def test_the_random_flag_is_kept(traced: Traced) -> None:
    await traced.start()
    received = await traced.call(f"traceparent: 00-{TRACE}-{CALLER}-03\r\n")
    assert received.all("traceparent")[0].endswith("-03")


async def test_a_later_version_is_continued_in_ours(traced: Traced) -> None:
    await traced.start()
    received = await traced.call(f"traceparent: cc-{TRACE}-{CALLER}-01-what-else\r\n")
    (_, source), (_, destination) = await traced.spans()
    assert ids(source)[::2] == (TRACE, CALLER)
    assert received.all("traceparent") == [f"00-{TRACE}-{destination.span_id.hex()}-01"]


@pytest.mark.parametrize(
    "headers",
    [
        f"traceparent: 00-{TRACE}-{CALLER}\r\n",
        f"traceparent: 00-{TRACE.upper()}-{CALLER}-01\r\n",
        f"traceparent: 00-{'0' * 32}-{CALLER}-01\r\n",
        f"traceparent: ff-{TRACE}-{CALLER}-01\r\n",
        f"traceparent: 00-{TRACE}-{CALLER}-00-x\r\n",
        f"traceparent: 00-{TRACE}-{CALLER}-01\r\nTraceparent: 00-{TRACE}-{CALLER}-01\r\n",
        f"traceparent: 00-{TRACE}-{CALLER}-00\r\nCookie: a\r\nTraceparent: 00-a-b-00\r\n",
    ],
)
async def test_a_context_that_is_malformed_or_there_twice_is_replaced(
    traced: Traced, headers: str
) -> None:
    await traced.start(tracing=ALWAYS)
    received = await traced.call(headers + "tracestate: a=1\r\n")
    (_, source), (_, destination) = await traced.spans()
    trace, _, parent = ids(source)
    assert (trace == TRACE, parent) == (False, "")
    assert received.all("traceparent") == [f"00-{trace}-{destination.span_id.hex()}-03"]
    assert received.all("tracestate") == []


async def test_what_is_not_sampled_gets_a_context_and_no_span(traced: Traced) -> None:
    await traced.start(tracing=Tracing(percent=0))
    received = await traced.call()
    (given,) = received.all("traceparent")
    assert given.endswith("-02")
    await traced.nothing_else(0)


async def test_a_share_of_requests_is_traced(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter([0.05, 0.95, 0.099, 0.1])
    monkeypatch.setattr("proxy.net.tracing._random", lambda: next(drawn))
    await traced.start(tracing=Tracing(percent=10))
    flags = [(await traced.call()).all("traceparent")[0][-2:] for _ in range(4)]
    assert flags == ["03", "02", "03", "02"]
    await traced.nothing_else(4)


@pytest.mark.parametrize("header", ["x-debug", "x-debug: yes"])
async def test_a_request_with_the_services_header_is_traced_always(
    traced: Traced, header: str
) -> None:
    await traced.start(tracing=Tracing(header=header))
    await traced.call("X-Debug: no\r\n" if ":" in header else "")
    received = await traced.call(f"traceparent: 00-{TRACE}-{CALLER}-00\r\nX-Debug: yes\r\n")
    (_, source), (_, destination) = await traced.spans()
    assert ids(source)[::2] == (TRACE, CALLER)
    assert received.all("traceparent") == [f"00-{TRACE}-{destination.span_id.hex()}-01"]
    await traced.nothing_else(2)


async def test_b3_of_one_header_is_continued_in_both_forms(traced: Traced) -> None:
    await traced.start()
    received = await traced.call(f"b3: {TRACE[16:]}-{CALLER}-1\r\n")
    (_, source), (_, destination) = await traced.spans()
    trace = "0" * 16 + TRACE[16:]
    assert ids(source)[::2] == (trace, CALLER)
    span, parent = destination.span_id.hex(), source.span_id.hex()
    assert received.all("traceparent") == [f"00-{trace}-{span}-01"]
    assert received.all("b3") == [f"{trace}-{span}-1-{parent}"]


async def test_b3_of_many_headers_is_continued_in_both_forms(traced: Traced) -> None:
    await traced.start()
    received = await traced.call(
        f"X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {CALLER}\r\nX-B3-ParentSpanId: {CALLER}\r\n"
        "X-B3-Sampled: 1\r\n"
    )
    (_, source), (_, destination) = await traced.spans()
    span, parent = destination.span_id.hex(), source.span_id.hex()
    assert received.all("traceparent") == [f"00-{TRACE}-{span}-01"]
    assert received.all("x-b3-traceid") == [TRACE]
    assert received.all("x-b3-spanid") == [span]
    assert received.all("x-b3-parentspanid") == [parent]
    assert received.all("x-b3-sampled") == ["1"]


async def test_b3_debug_stays_debug(traced: Traced) -> None:
    await traced.start()
    received = await traced.call("b3: d\r\n")
    (_, source), (_, destination) = await traced.spans()
    trace, parent, _ = ids(source)
    assert received.all("b3") == [f"{trace}-{destination.span_id.hex()}-d-{parent}"]


@pytest.mark.parametrize(
    "headers",
    [
        f"b3: {TRACE}-{CALLER}-0\r\n",
        f"X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {CALLER}\r\nX-B3-Sampled: 0\r\n",
    ],
)
async def test_unsampled_b3_passes_untouched_beside_the_same_in_w3c(
    traced: Traced, headers: str
) -> None:
    await traced.start(tracing=ALWAYS)
    received = await traced.call(headers)
    assert received.all("traceparent") == [f"00-{TRACE}-{CALLER}-00"]
    for line in headers.splitlines():
        name, _, value = line.partition(": ")
        assert received.all(name.lower()) == [value]
    await traced.nothing_else(0)


async def test_b3_that_only_says_no_is_obeyed(traced: Traced) -> None:
    await traced.start(tracing=ALWAYS)
    received = await traced.call("b3: 0\r\n")
    assert received.all("b3") == ["0"]
    assert received.all("traceparent")[0].endswith("-02")
    await traced.nothing_else(0)


async def test_b3_that_leaves_the_decision_open_gets_ours(traced: Traced) -> None:
    await traced.start(tracing=ALWAYS)
    await traced.call(f"b3: {TRACE}-{CALLER}\r\n")
    (_, source), _ = await traced.spans()
    assert ids(source)[::2] == (TRACE, CALLER)


async def test_w3c_wins_over_b3_and_b3_follows(traced: Traced) -> None:
    await traced.start()
    other = "1" * 32
    received = await traced.call(
        f"b3: {other}-{CALLER}-0\r\ntraceparent: 00-{TRACE}-{CALLER}-01\r\nCookie: a=b\r\n"
    )
    (_, source), (_, destination) = await traced.spans()
    assert ids(source)[0] == TRACE
    span, parent = destination.span_id.hex(), source.span_id.hex()
    assert received.all("b3") == [f"{TRACE}-{span}-1-{parent}"]
    assert received.all("cookie") == ["a=b"]


@pytest.mark.parametrize(
    ("answer", "client", "server"),
    [
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "404", None),
        (FIVE_HUNDRED, "500", "500"),
    ],
)
async def test_an_error_of_the_caller_is_one_at_its_side_alone(
    traced: Traced, answer: bytes, client: str, server: str | None
) -> None:
    await traced.start(tracing=ALWAYS)
    traced.app.answer = lambda _: answer
    await traced.call()
    (_, source), (_, destination) = await traced.spans()
    assert source.status.code == Status.STATUS_CODE_ERROR
    assert attributes_of(source)["error.type"] == client
    assert (destination.status.code == Status.STATUS_CODE_ERROR) is (server is not None)
    assert attributes_of(destination).get("error.type") == server
    assert source.status.message == destination.status.message == ""


async def test_a_denied_call_says_what_denied_it(traced: Traced) -> None:
    await traced.start(tracing=ALWAYS, intentions=(Intention(name="no", deny=("web",)),))
    await traced.call()
    (_, source), (_, destination) = await traced.spans()
    for span in (source, destination):
        said = attributes_of(span)
        assert (said["mesh.flag"], said["mesh.policy"]) == ("UAEX", "api/no")
    assert attributes_of(source)["error.type"] == "UAEX"
    assert destination.status.code == Status.STATUS_CODE_UNSET


async def test_a_call_that_reaches_nobody_has_the_sources_span_with_the_reason(
    traced: Traced,
) -> None:
    await traced.start(tracing=ALWAYS)
    traced.grid.deregister("a1")
    traced.grid.apply()
    await traced.call()
    ((_, source),) = await traced.spans(1)
    said = attributes_of(source)
    assert (said["http.response.status_code"], said["error.type"]) == (503, "UH")
    assert source.status.message.startswith("no healthy endpoint")
    assert "network.peer.address" not in said


async def test_retries_are_events_of_one_span(traced: Traced) -> None:
    retries = Retries(attempts=2, on=("5xx",), backoff_base_s=0.001, backoff_max_s=0.001)
    await traced.start(tracing=ALWAYS, retries=retries)
    answers = iter([FIVE_HUNDRED, FIVE_HUNDRED])
    ok = traced.app.answer
    traced.app.answer = lambda request: next(answers, None) or ok(request)
    await traced.call()
    assert traced.response.status == 200
    (_, source), *tries = await traced.spans(4)
    assert attributes_of(source)["http.request.resend_count"] == 2
    for event in source.events:
        assert event.name == "mesh.retry"
        assert attributes_of(event) == {
            "mesh.retry.reason": "status",
            "mesh.destination.host": "a1",
        }
    assert len(source.events) == 2
    assert {ids(span)[2] for _, span in tries} == {ids(source)[1]}
    assert len({ids(span)[1] for _, span in tries}) == 3


async def test_a_copy_of_a_request_is_not_part_of_the_trace(traced: Traced) -> None:
    copies = await traced.grid.serve("orders", "o1")
    route = Route(name="m", to=(Destination(),), mirror=Mirror(service="orders"))
    await traced.start(tracing=ALWAYS, routes=(route,))
    await traced.call("b3: 1\r\n")
    await until(lambda: copies.requests)
    (copy,) = copies.requests
    assert copy.all("traceparent")[0].endswith("-02")
    assert copy.all("b3") == []
    await traced.spans()
    await traced.nothing_else(2)


async def test_without_a_receiver_contexts_pass_and_nothing_is_recorded(traced: Traced) -> None:
    await traced.start(tracing=ALWAYS)
    traced.grid.telemetry = Telemetry()
    traced.grid.apply()
    context = f"00-{TRACE}-{CALLER}-01"
    received = await traced.call(f"traceparent: {context}\r\nb3: {TRACE}-{CALLER}-1\r\n")
    assert received.all("traceparent") == [context]
    assert received.all("b3") == [f"{TRACE}-{CALLER}-1"]
    await traced.nothing_else(0)


async def test_the_share_and_the_receiver_change_while_requests_go_on(traced: Traced) -> None:
    await traced.start()
    await traced.call()
    traced.grid.policy["api"] = ServicePolicy(tracing=ALWAYS)
    traced.grid.apply()
    await traced.call()
    await traced.spans()
    other = OtlpReceiver()
    await other.start()
    try:
        traced.grid.telemetry = Telemetry(otlp=other.url)
        traced.grid.apply()
        await traced.call()
        await traced.nothing_else(2)
        assert len(other.spans) == 2
    finally:
        await other.stop()


async def test_a_hostile_request_cannot_spoil_a_batch(traced: Traced) -> None:
    await traced.start(tracing=ALWAYS)
    client = await traced.grid.connect()
    client.send(
        b"GET /%b HTTP/1.1\r\nHost: api\r\nX-Request-Id: \xff\xfe%b\r\nTracestate: \xc3=1\r\n"
        b"traceparent: 00-%b-%b-01\r\n\r\n"
        % (b"p" * 5000, b"\xc3" * 3000, TRACE.encode(), CALLER.encode())
    )
    assert (await client.response()).status == 200
    (_, source), _ = await traced.spans()
    said = attributes_of(source)
    assert len(said["url.path"]) == 256
    assert len(said["mesh.request_id"]) <= 256
    assert source.trace_state == ""


async def test_a_client_that_leaves_early_ends_its_spans(traced: Traced) -> None:
    held = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        held.set()
        await reader.read()

    await traced.start(tracing=ALWAYS)
    traced.app.script = hold
    client = await traced.grid.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
    await asyncio.wait_for(held.wait(), 10)
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    (_, source), (_, destination) = await traced.spans()
    assert attributes_of(source)["error.type"] == "DC"
    assert source.status.code == destination.status.code == Status.STATUS_CODE_ERROR


@pytest.mark.parametrize(
    ("headers", "is_traced"),
    [
        (f"traceparent: 00-{TRACE}-{CALLER}-01\r\n", True),
        (f"traceparent: 01-{TRACE}-{CALLER}-01-00\r\n", True),
        (f"Cookie: a=b\r\nb3: {TRACE}-{CALLER}-1\r\n", True),
        (f"traceparent: 00-{TRACE}-{CALLER}-00\r\n", False),
        (f"traceparent: 01-{TRACE}-{CALLER}-00-01\r\n", False),
        ("traceparent: what-01\r\n", False),
        ("Cookie: a=b\r\n", False),
        ("b3: 1\r\n", False),
        ("", False),
    ],
)
async def test_a_caller_without_a_proxy_is_followed_if_it_says_so(
    traced: Traced, headers: str, is_traced: bool
) -> None:
    traced.app = await traced.grid.serve("api", "p1", has_plaintext=True)
    traced.grid.telemetry = Telemetry(otlp=traced.receiver.url)
    traced.grid.policy["api"] = ServicePolicy(mode="permissive", tracing=ALWAYS)
    traced.grid.apply()
    address = traced.grid.planes["p1"].plaintext_address(ServiceName("api"))
    assert (await (await traced.grid.dial(*address)).get("/", headers)).status == 200
    if is_traced:
        ((_, span),) = await traced.spans(1)
        assert ids(span)[::2] == (TRACE, CALLER)
        said = attributes_of(span)
        assert said["mesh.source.service"] == "unknown"
        assert "mesh.source.identity" not in said
        (given,) = traced.app.requests[-1].all("traceparent")
        assert given == f"00-{TRACE}-{span.span_id.hex()}-01"
    await traced.nothing_else(int(is_traced))
