"""The demo's own judgement: a demo that cannot fail shows nothing."""

import http.client
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from demokit import app, stage, websocket
from demokit.acts import ACTS, canary, ejection, observed, rate_limit, retries, versions
from demokit.inventory import Ports, inventory
from demokit.load import ask, send
from demokit.receiver import Receiver, Span
from demokit.stage import ActFailed, holds

from meshctl.inventory.parse import parse as parse_inventory
from meshctl.policy import parse as parse_policy
from proxy.model.policy import Policy


@pytest.fixture
def port() -> Iterator[int]:
    """The demo's HTTP application, as api v2."""

    class Api(app.Answer):
        name, version = "api", "v2"

    server: ThreadingHTTPServer = app.Http(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        app.Answer.is_broken = False
        server.shutdown()
        thread.join(5)
        server.server_close()


def parsed(tmp_path: Path, services: str) -> Policy:
    mesh = parse_inventory(inventory(tmp_path, Ports.pick()), tmp_path / "inventory.yaml")
    return parse_policy("version: 1\n" + services, "mesh.yaml", mesh, datetime.now(UTC))


@pytest.mark.parametrize(
    "services",
    [
        *(canary.policy(old, new) for old, new in ((90, 10), (50, 50), (0, 100))),
        retries.WITHOUT,
        retries.WITHOUT + retries.RETRIES,
        ejection.POLICY,
        rate_limit.POLICY,
        observed.POLICY % "http://127.0.0.1:4318/v1/traces",
        versions.POLICY,
    ],
)
def test_each_policy_of_an_act_is_one_for_the_demos_inventory(
    tmp_path: Path, services: str
) -> None:
    assert parsed(tmp_path, services).services.keys() == {"api"}


def test_the_demo_shows_what_it_promises() -> None:
    claims = " ".join(text for text, _ in ACTS)
    for word in (
        "canary",
        "Retries hide",
        "ejected",
        "rate limit",
        "One port",
        "dies",
        "rotated",
        "is seen",
        "WebSocket",
        "gRPC",
    ):
        assert word in claims


def test_load_tells_answers_from_failures(port: int) -> None:
    well = send(port, 20, "/hello")
    assert (well.answers, well.failed, well.total) == ({"api v2": 20}, 0, 20)
    assert ask(port, "/break", method="POST").status == 200
    broken = send(port, 20, "/hello")
    assert (broken.answers, broken.failed) == ({}, 20)
    assert all(failure.startswith("503") for failure in broken.failures)


def test_a_broken_application_is_healthy_by_its_own_account_until_it_is_mended(port: int) -> None:
    ask(port, "/break", method="POST")
    assert (ask(port, "/healthz").status, ask(port, "/hello").status) == (200, 503)
    ask(port, "/mend", method="POST")
    assert ask(port, "/hello").document["version"] == "v2"


def test_its_websocket_sends_a_text_back_in_upper_case(port: int) -> None:
    spoken = websocket.say(port, "/echo", "hello")
    assert (spoken.status, spoken.is_accepted, spoken.text) == (101, True, "HELLO")
    assert websocket.say(port, "/hello", "hello").status == 200


def test_a_service_that_is_not_there_is_a_failure_and_no_exception(unused_tcp_port: int) -> None:
    assert send(unused_tcp_port, 5).failed >= 5


def test_what_does_not_hold_ends_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    holds(True, "this does")
    with pytest.raises(ActFailed, match="this does not"):
        holds(False, "this does not")
    printed = capsys.readouterr().out
    assert "ok   this does" in printed.replace("\n", "")
    assert "FAILED this does not" in printed.replace("\n", "")


def test_a_bar_shows_the_shares(capsys: pytest.CaptureFixture[str]) -> None:
    stage.shares("seen", {"v1": 90, "v2": 10})
    printed = capsys.readouterr().out
    full, empty = stage._CELLS
    assert full * 36 + empty * 4 in printed
    assert "v1  90.0%" in printed


def test_every_port_is_taken_once() -> None:
    ports: Any = Ports.pick()
    single = [value for value in vars(ports).values() if isinstance(value, int)]
    every = [*single, *ports.admin, *ports.inbound]
    assert len(every) == len(set(every)) == 17


def exported(*spans: trace_pb2.Span) -> bytes:
    """As a proxy sends them, of two services."""
    request = ExportTraceServiceRequest()
    for span in spans:
        batch = request.resource_spans.add()
        attribute = batch.resource.attributes.add()
        attribute.key, attribute.value.string_value = "service.name", span.name
        batch.scope_spans.add().spans.append(span)
    return request.SerializeToString()


def test_the_receiver_reads_what_it_draws_of_a_trace() -> None:
    trace, one, other = b"t" * 16, b"a" * 8, b"b" * 8
    server, client = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CLIENT
    made = (
        trace_pb2.Span(
            trace_id=trace, span_id=other, parent_span_id=one, name="api", kind=server,
            start_time_unix_nano=2_000_000, end_time_unix_nano=3_500_000,
        ),
        trace_pb2.Span(
            trace_id=trace, span_id=one, name="web", kind=client,
            start_time_unix_nano=1_000_000, end_time_unix_nano=4_000_000,
        ),
    )  # fmt: skip
    with Receiver() as receiver:
        parts = urlsplit(receiver.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=5)
        connection.request("POST", parts.path, exported(*made))
        assert connection.getresponse().status == 200
        connection.close()
        first, second = receiver.trace(trace.hex(), 2)
    assert (first.service, first.kind, first.parent_id, first.ms) == ("web", "CLIENT", "", 3.0)
    assert (second.service, second.kind, second.ms) == ("api", "SERVER", 1.5)
    assert second.parent_id == first.span_id == one.hex()


def test_a_path_of_spans_ends_where_one_is_missing() -> None:
    def span(service: str, span_id: str, parent_id: str) -> Span:
        return Span(
            service=service, trace_id="t", span_id=span_id, parent_id=parent_id, name="GET",
            kind="CLIENT", ms=1.0, start_ns=0,
        )  # fmt: skip

    whole = [span("web", "1", observed.CALLER_ID), span("api", "2", "1"), span("users", "3", "2")]
    assert observed._path(whole) == ["web CLIENT", "api CLIENT", "users CLIENT"]
    assert observed._path([whole[0], whole[2]]) == ["web CLIENT"]
    assert observed._path(whole[1:]) == []
