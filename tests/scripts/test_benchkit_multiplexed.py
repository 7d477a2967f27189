"""The benchmark's HTTP/2, gRPC and WebSocket: the load itself, and a tiny go of each group."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import hpack
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchkit import (
    command,
    connections,
    h2load,
    multiplexed,
    needs,
    probe,
    report,
    rounds,
    streaming_app,
    streaming_load,
    targets,
    websockets,
    wire,
)
from benchkit.contestants import CALLED, CALLER, Application, Contestant, Site, spiffe_id
from benchkit.contestants.envoy import Envoy
from benchkit.contestants.haproxy import HAProxy
from benchkit.contestants.ours import BEFORE, Ours
from benchkit.figures import Metric, Sample
from benchkit.processes import Failed, Group, Process
from benchkit.turn import PHASES, Bench, Effort, free_ports

TREE = Path(__file__).resolve().parents[2]
PROGRAMS = ("nginx", "haproxy", "h2load", "nghttpd")
TINY = Effort(
    phases=frozenset(),
    duration_s=1.0,
    warmup_s=0.0,
    paced_s=0.0,
    tcp_s=0.0,
    held_connections=20,
    held_streams=200,
    download_bytes=64 * 1024**2,  # the system counts a process's time in steps of 10 ms
)
OUTPUT = """\
starting benchmark...
finished in 2.00s, 50.00 req/s, 1.00MB/s
requests: 100 total, 100 started, 100 done, 99 succeeded, 1 failed, 0 errored, 0 timeout
status codes: 98 2xx, 0 3xx, 0 4xx, 2 5xx
traffic: 1.04MB (1090000) total, 1.00KB (1024) headers (space savings 0.00%), 1.00MB (9900) data
"""


# the wire


def test_frames_are_read_whole_however_they_arrive() -> None:
    sent = [(wire.DATA, wire.END_STREAM, 3, b"abc"), (wire.PING, 0, 0, b"12345678")]
    data = b"".join(wire.frame(*one) for one in sent)
    for cut in range(len(data) + 1):
        buffer = bytearray(data[:cut])
        found = list(wire.frames(buffer))
        buffer += data[cut:]
        assert found + list(wire.frames(buffer)) == sent
        assert not buffer


def test_a_header_block_says_what_was_meant() -> None:
    fields = [(":path", "/a"), ("long", "x" * 200), ("limit", "y" * 127), ("under", "z" * 126)]
    assert list(hpack.Decoder().decode(wire.block(fields))) == fields


@pytest.mark.parametrize("is_huffman", [False, True])
@pytest.mark.parametrize(("status", "is_ok"), [("0", True), ("14", False), ("1", False)])
def test_a_grpc_status_is_told_from_another_in_either_encoding(
    is_huffman: bool, status: str, is_ok: bool
) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    trailers = encoder.encode([("grpc-status", status), ("grpc-message", "0")], huffman=is_huffman)
    assert wire.is_grpc_ok(trailers) is is_ok


@pytest.mark.parametrize(("status", "is_ok"), [("200", True), ("503", False), ("204", False)])
def test_a_response_with_200_is_told_from_another(status: str, is_ok: bool) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0  # announced at the beginning of the block
    assert wire.is_200(encoder.encode([(":status", status), ("a", "b")])) is is_ok


# h2load


def test_an_answer_of_h2load_is_read_with_each_kind_of_failure() -> None:
    counted = h2load.parse(OUTPUT, body_bytes=100)
    assert (counted.succeeded, counted.received_bytes, counted.duration_s) == (99, 9900, 2.0)
    assert counted.failures == ("1 x failed", "2 x status")


def test_calls_that_succeed_without_a_message_are_failures() -> None:
    text = OUTPUT.replace("1 failed", "0 failed").replace("2 5xx", "0 5xx")
    assert h2load.parse(text, body_bytes=100).failures == ()
    assert h2load.parse(text, body_bytes=101).failures == ("9900 bytes in 99 answers of 101",)


@pytest.mark.parametrize("missing", ["finished", "requests:", "status codes", "traffic"])
def test_an_answer_of_h2load_that_is_not_whole_is_refused(missing: str) -> None:
    text = "\n".join(line for line in OUTPUT.splitlines() if not line.startswith(missing))
    with pytest.raises(Failed, match="cannot be read"):
        h2load.parse(text, body_bytes=1)


# the caller and the application


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_ports().http_out
    with Group() as group:
        process = Process(
            "application",
            [sys.executable, "-m", "benchkit.streaming_app", str(port)],
            core=min(os.sched_getaffinity(0)),
            log=tmp_path_factory.mktemp("application") / "log",
            environment={**os.environ, "PYTHONPATH": str(TREE / "scripts")},
        )
        probe.wait_listening(group.add(process), port)
        yield port


@pytest.mark.parametrize("mode", ["flood", "echo"])
def test_every_message_arrives_and_every_stream_ends_well(application: int, mode: str) -> None:
    counted = streaming_load.run(application, mode, 2, 3, 0.3)
    assert counted["received"] > 6
    assert counted["sent"] == (6 if mode == "flood" else counted["received"])


def test_streams_are_held_and_end_well(application: int) -> None:
    with streaming_load.held(application, connections=2, streams=50):
        assert streaming_load.answers(application) == ""


def test_websockets_are_held(application: int) -> None:
    with websockets.held(application, 5):
        assert probe.answers(application, "/any") == ""


def answering(*answers: bytes) -> int:
    """A port whose connections get these bytes in turn, each after something was read."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(10)

    def serve() -> None:
        with closing(listening):
            one, _ = listening.accept()
            one.settimeout(10)
            with one:
                for answer in answers:
                    one.recv(65536)
                    one.sendall(answer)
                one.recv(65536)

    threading.Thread(target=serve, daemon=True).start()
    port: int = listening.getsockname()[1]
    return port


def ended(*fields: tuple[str, str]) -> bytes:
    flags = wire.END_HEADERS | wire.END_STREAM
    return wire.frame(wire.HEADERS, flags, 1, wire.block(fields))


HEADERS = wire.frame(wire.HEADERS, wire.END_HEADERS, 1, b"\x88")
MESSAGE = wire.frame(wire.DATA, 0, 1, wire.message(100))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (HEADERS + MESSAGE + ended(("grpc-status", "0")), ""),
        (HEADERS + ended(("grpc-status", "0")), "no message came back"),
        (HEADERS + MESSAGE + ended(("grpc-status", "14")), "1 x a call failed"),
        (wire.frame(wire.RST_STREAM, 0, 1, b"\0\0\0\x07"), "1 x a stream was reset, code 7"),
        (wire.frame(wire.GOAWAY, 0, 0, bytes(7) + b"\x0b"), "a connection broke: GOAWAY, code 11"),
        (
            wire.frame(wire.HEADERS, wire.END_HEADERS, 1, b"\x8d"),
            "1 x another status than 200",
        ),
        (
            HEADERS + wire.frame(wire.DATA, wire.END_STREAM, 1, wire.message(100)),
            "1 x a stream ended without trailers",
        ),
    ],
)
def test_a_call_that_does_not_end_well_is_found_out(answer: bytes, problem: str) -> None:
    assert streaming_load.answers(answering(wire.settings({}) + answer)) == problem


def test_what_is_sent_stays_within_the_peers_window() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname(), 5)
        other, _ = listening.accept()
    with one, other:
        calling = streaming_load.Calling(one)
        stream = calling.begin(1)
        one.setblocking(True)  # so that reading waits for what was sent just now
        other.sendall(wire.settings({wire.INITIAL_WINDOW_SIZE: 10}))
        assert calling.read()
        calling.send(1, stream, b"x" * 25)
        assert (stream.credit, len(stream.pending)) == (0, 15)
        other.sendall(wire.window_update(1, 20))
        assert calling.read()
        assert (stream.credit, len(stream.pending)) == (5, 0)


def test_a_websocket_that_is_refused_is_found_out() -> None:
    port = answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    with (
        pytest.raises(Failed, match=r"WebSocket 1 of 1: answered with HTTP/1.1 403"),
        websockets.held(port, 1),
    ):
        pass


# the contestants


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    try:
        needs.programs(print, PROGRAMS)
    except Failed as error:
        pytest.skip(str(error))
    connections.allow_files(100)
    cores = sorted(os.sched_getaffinity(0))
    with rounds.bench(Path(sys.executable), proxy_core=cores[-1], load_core=cores[0]) as made:
        yield made


def ours(*, is_before: bool = False) -> Ours:
    python = Path(sys.executable)
    return Ours(host_python=python, operator_python=python, version="tree", is_before=is_before)


MAKERS: dict[str, Callable[[], Contestant]] = {
    "meshctl": ours,
    "envoy": lambda: Envoy(needs.envoy(print)),
    "haproxy": HAProxy,
}
FIGURES = {
    "unary": {Metric.UNARY_US, Metric.UNARY_PER_S},
    "streaming": {Metric.FLOOD_US, Metric.FLOOD_PER_S, Metric.ECHO_US, Metric.ECHO_PER_S},
    "download": {Metric.DOWNLOAD_CPU_S_PER_GIB, Metric.DOWNLOAD_MIB_PER_S},
    "streams": {Metric.RSS_STREAMS_MIB, Metric.PSS_STREAMS_MIB},
    "websockets": {Metric.RSS_WEBSOCKETS_MIB, Metric.PSS_WEBSOCKETS_MIB},
}


@pytest.mark.parametrize("phase", multiplexed.PHASES)
@pytest.mark.parametrize("name", MAKERS)
def test_a_tiny_go_has_its_figures_and_no_fault(bench: Bench, name: str, phase: str) -> None:
    sample = multiplexed.take(bench, MAKERS[name](), 1, phase, TINY)
    assert sample.faults == ()
    assert set(sample.figures) - {Metric.MULTIPLEXED_FOREIGN_SHARE} == FIGURES[phase]
    assert all(value > 0 for key, value in sample.figures.items() if key in FIGURES[phase])


class Careless(HAProxy):
    """Forgets to check who calls."""

    def configurations(self, site: Site) -> tuple[str, str]:
        server, client = super().configurations(site)
        kept = [line for line in server.splitlines() if "ssl_c_s_dn(CN) -m str" not in line]
        return "\n".join([*kept, ""]), client


def test_a_go_that_lets_strangers_in_does_not_count(bench: Bench) -> None:
    sample = multiplexed.take(bench, Careless(), 1, "websockets", TINY)
    assert not sample.figures
    assert sample.faults[0] == "identity: api let stranger in"


class Shut(HAProxy):
    """Refuses every call, politely."""

    def configurations(self, site: Site) -> tuple[str, str]:
        server, client = super().configurations(site)
        return server.replace(
            "http-request deny unless", "http-request deny if !{ always_false }\n#"
        ), client


def test_a_go_in_which_calls_fail_does_not_count(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexed, "_READY_S", 0.5)
    sample = multiplexed.take(bench, Shut(), 1, "unary", TINY)
    assert not sample.figures
    assert "unary: not ready" in sample.faults[0]


def test_everybody_speaks_http2_on_the_hop_and_routes_by_service(tmp_path: Path) -> None:
    site = Site(
        directory=tmp_path,
        identities=tmp_path,
        backend_port=1,
        application=Application(
            port=2, protocol="grpc", routes=multiplexed.CALL_ROUTES, most_requests=4321
        ),
        ports=free_ports(),
        proxy_core=0,
        load_core=0,
    )
    for document in map(str, Envoy(needs.envoy(print)).configurations(site)):
        assert document.count("http2_protocol_options") == 1
        assert "'max_requests': 4321" in document
        assert "grpc_stats" in document
    server, client = Envoy(needs.envoy(print)).configurations(site)
    assert "'alpn_protocols': ['h2', 'http/1.1']" in str(server)
    assert "'alpn_protocols': ['h2']" in str(client)
    assert CALLED in str(client)
    assert spiffe_id(CALLER) in str(server)
    texts = HAProxy().configurations(site)
    assert "alpn h2,http/1.1" in texts[0]
    assert "server app 127.0.0.1:2 proto h2 maxconn 4321" in texts[0]
    assert texts[1].count("alpn h2 sni") == 2
    assert texts[1].count(f"path_beg {CALLED}/") == 2


def test_for_http1_nothing_more_is_configured(tmp_path: Path) -> None:
    site = Site(
        directory=tmp_path,
        identities=tmp_path,
        backend_port=1,
        application=Application(port=1),
        ports=free_ports(),
        proxy_core=0,
        load_core=0,
    )
    for text in (*Envoy(needs.envoy(print)).configurations(site), *HAProxy().configurations(site)):
        assert "h2" not in str(text)
        assert "http2" not in str(text)


# the run and its report


def a_sample(number: int, name: str, **values: float) -> Sample:
    figures = {Metric(key): value for key, value in values.items()}
    return Sample(contestant=name, round=number, figures=figures)


def test_the_targets_are_ratios_to_envoy_within_a_round() -> None:
    samples = [
        a_sample(1, "meshctl", cpu_us_per_call=69.0, cpu_us_per_streamed_message=3.1),
        a_sample(1, "envoy", cpu_us_per_call=100.0, cpu_us_per_streamed_message=3.0),
        a_sample(1, "meshctl", http2_cpu_s_per_gib=1.19, pss_websockets_mib=99.0),
        a_sample(1, "envoy", http2_cpu_s_per_gib=1.0, pss_websockets_mib=100.0),
        a_sample(1, "meshctl", cpu_us_per_request=40.0),
        a_sample(1, BEFORE, cpu_us_per_request=35.0),
    ]
    met = {target.figure: target.is_met for target in targets.judge(samples)}
    assert met["CPU per unary gRPC call of 100 bytes, of Envoy's"] is True
    streamed = "CPU per streamed gRPC message of 1 KiB, "
    assert met[f"{streamed}as fast as they go, of Envoy's"] is False
    assert met[f"{streamed}one at a time on each stream, of Envoy's"] is None
    assert met["CPU per GiB of an HTTP/2 download, of Envoy's"] is True
    assert met["memory at 10,000 idle gRPC streams, of Envoy's"] is None
    assert met["memory at 1,000 WebSockets, of Envoy's"] is True
    assert met["CPU per request over HTTP/1.1, of that of an earlier commit"] is False


def test_the_page_has_a_table_of_those_who_took_part() -> None:
    run = report.Run(
        date="2025-01-02 03:04 UTC",
        command="scripts/bench --only unary",
        rounds=1,
        duration_s=1.0,
        connections=32,
        tcp_connections=4,
        rate_per_s=0.0,
        entrants=[report.Entrant(name=name, version="1") for name in ("meshctl", "envoy", "nginx")],
        tools={},
        facts={},
        samples=[
            a_sample(1, "meshctl", cpu_us_per_call=40.0, multiplexed_foreign_share=0.4),
            a_sample(1, "envoy", cpu_us_per_call=80.0),
        ],
    )
    page = report.markdown(run, "x.svg")
    assert "## HTTP/2, gRPC and WebSocket\n\n|  | meshctl | envoy |\n" in page
    assert "| CPU per unary call, µs | 40.0 | 80.0 |" in page
    assert "| CPU per unary call (less is better) | 0.50 | 1.00 |" in page
    assert "up to 40% of a core" in page
    shown = [line.split() for line in report.terminal(run).splitlines()]
    assert ["CPU", "per", "unary", "call,", "µs", "40.0", "80.0"] in shown


def test_an_earlier_tree_takes_part_in_what_it_can() -> None:
    earlier = ours(is_before=True)
    assert earlier.name == BEFORE
    assert earlier.phases == frozenset(PHASES)
    assert not earlier.phases & frozenset(multiplexed.PHASES)


def test_an_earlier_tree_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--before", str(tmp_path)]) == 2
    assert "is no tree of this project" in capsys.readouterr().err


def test_only_those_who_can_are_asked_and_everybody_is_first_once(
    monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    asked: list[tuple[str, str, int]] = []

    def take(_: Bench, one: Contestant, number: int, phase: str, effort: Effort) -> Sample:
        asked.append((phase, one.name, number))
        return Sample(contestant=one.name, round=number)

    monkeypatch.setattr(multiplexed, "take", take)
    chosen = [ours(), ours(is_before=True), HAProxy()]
    phases = frozenset({"unary", "streams", "http"})
    list(multiplexed.run(bench, chosen, 2, TINY, phases, lambda _: None))
    assert asked == [
        *(("unary", "meshctl", 1), ("unary", "haproxy", 1)),
        *(("streams", "meshctl", 1), ("streams", "haproxy", 1)),
        *(("unary", "haproxy", 2), ("unary", "meshctl", 2)),
        *(("streams", "haproxy", 2), ("streams", "meshctl", 2)),
    ]


def test_the_modes_are_told_by_different_bytes() -> None:
    modes = {streaming_app.FLOOD, streaming_app.ECHO, streaming_app.IDLE}
    assert len(modes) == 3
    assert {len(mode) for mode in modes} == {1}
