"""Lines of finished calls, whatever stands in them."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.access_entry import Request, Session
from proxy.core.access_format import BOTH, HTTP, TCP, parse_format
from proxy.core.access_line import MAX_LINE_BYTES, Printer, Stamps, lines
from proxy.core.outcome import Outcome
from proxy.model.endpoint import Endpoint
from proxy.model.names import HostName, ServiceName

SINCE = 1_700_000_000.0
ENDPOINT = Endpoint(
    service=ServiceName("api"), host=HostName("vm2"), address="10.0.0.2", port=15006
)
TRACE = b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def printer(text: str = "", **changed: Any) -> Printer:
    names: dict[str, Any] = {
        "side": "source",
        "host": "vm1",
        "caller": "web",
        "caller_identity": "spiffe://mesh.test/svc/web",
        "service": "api",
        "service_identity": "spiffe://mesh.test/svc/api",
    }
    return Printer(
        **(names | changed), format=parse_format(text) if text else None, stamps=Stamps()
    )


def request(**changed: Any) -> Request:
    common: dict[str, Any] = {
        "caller": "web",
        "service": "api",
        "method": b"GET",
        "authority": b"api.mesh",
        "route": "r",
        "endpoint": ENDPOINT,
        "attempts": 2,
        "status": 200,
        "flag": "",
        "is_failure": False,
        "protocol": "http",
        "grpc_status": "",
    }
    fields: dict[str, Any] = {
        "ended": 12.5,
        "started": 12.0,
        "headed": 12.25,
        "queue_s": 0.001,
        "connect_s": 0.002,
        "id_line": b"x-request-id: r-1",
        "trace_line": TRACE,
        "target": b"/items?secret=1",
        "tried": (),
        "policy": "",
        "detail": "",
        "request_bytes": 3,
        "response_bytes": 4,
    }
    common |= {name: changed.pop(name) for name in set(changed) & common.keys()}
    return Request(outcome=Outcome(**common), **(fields | changed))


def session(**changed: Any) -> Session:
    fields: dict[str, Any] = {
        "kind": None,
        "ended": 12.5,
        "started": 12.0,
        "connect_s": 0.002,
        "endpoint": ENDPOINT,
        "attempts": 1,
        "flag": "",
        "policy": "",
        "detail": "",
        "sent_bytes": 5,
        "received_bytes": 6,
    }
    return Session(**(fields | changed))


def text(entry: Request | Session, by: Printer) -> str:
    """Its line, which is the same whether it is made alone or with others."""
    if isinstance(entry, Session):
        entry = entry._replace(kind=by.bad_session)
    else:
        by.prepare(entry.outcome)
    made = lines([entry], SINCE, by.stamps).decode("ascii")
    assert made.endswith("\n")
    assert made.count("\n") == 1
    if isinstance(entry, Request):
        assert made == by.request(entry, SINCE)
    return made


def line(entry: Request | Session, by: Printer | None = None) -> Any:
    return json.loads(text(entry, by or printer()))


def test_a_request_has_all_fields_in_their_order() -> None:
    found = line(request())
    assert tuple(found) == (*BOTH, *HTTP)
    assert found == {
        "ts": "2023-11-14T22:13:32.500Z",
        "log": "access",
        "side": "source",
        "host": "vm1",
        "caller": "web",
        "caller_identity": "spiffe://mesh.test/svc/web",
        "service": "api",
        "service_identity": "spiffe://mesh.test/svc/api",
        "protocol": "http",
        "request_id": "r-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "method": "GET",
        "authority": "api.mesh",
        "path": "/items",
        "route": "r",
        "endpoint": "vm2 10.0.0.2:15006",
        "attempts": 2,
        "status": 200,
        "grpc_status": None,
        "flag": None,
        "reason": None,
        "policy": None,
        "queue_ms": 1.0,
        "connect_ms": 2.0,
        "first_byte_ms": 250.0,
        "total_ms": 500.0,
        "request_bytes": 3,
        "response_bytes": 4,
    }


def test_a_session_has_none_of_a_request() -> None:
    found = line(session(flag="UF", detail="refused"))
    assert tuple(found) == (*BOTH, *TCP)
    assert (found["protocol"], found["sent_bytes"], found["received_bytes"]) == ("tcp", 5, 6)
    assert found["reason"] == "the connection to the service could not be made: refused"


def test_what_is_missing_is_null() -> None:
    bare = request(
        id_line=b"", trace_line=b"", authority=None, route="", endpoint=None, status=0, headed=0.0
    )
    found = line(bare, printer(caller_identity="", service_identity=""))
    for name in ("request_id", "trace_id", "authority", "route", "endpoint", "first_byte_ms"):
        assert found[name] is None
    assert found["caller_identity"] is found["service_identity"] is None


def test_an_answer_that_came_as_a_whole_came_with_its_first_byte() -> None:
    assert line(request(headed=0.0))["first_byte_ms"] == 500.0


def test_a_trace_context_that_is_none_is_no_trace() -> None:
    for bad in (b"traceparent: ", b'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e47"6-00f0-01'):
        assert line(request(trace_line=bad))["trace_id"] is None


def test_the_reason_is_a_sentence() -> None:
    for flag, detail, status, said in (
        ("UH", "(0 in the registry)", 503, "is known for this service (0 in the registry)"),
        ("UC", "", 502, "the service closed the connection before its answer was complete"),
        ("URX", "it failed, in 2 tries: reset", 502, "it failed, in 2 tries: reset"),
        ("URX", "", 503, "every attempt failed and no further one is allowed"),
        ("??", "", 503, "the service itself answered 503"),
        ("", "", 500, "the service itself answered 500"),
    ):
        found = line(request(is_failure=True, flag=flag, detail=detail, status=status))["reason"]
        assert found.endswith(said)


def test_an_address_of_ipv6_is_in_brackets() -> None:
    six = Endpoint(service=ServiceName("api"), host=HostName(""), address="::1", port=80)
    assert line(request(endpoint=six))["endpoint"] == "[::1]:80"


def test_endpoints_are_told_apart_however_many_there_were() -> None:
    by = printer()
    for number in range(2500):
        endpoint = Endpoint(
            service=ServiceName("api"), host=HostName("h"), address="10.0.0.1", port=number
        )
        assert line(request(endpoint=endpoint), by)["endpoint"] == f"h 10.0.0.1:{number}"


def test_a_second_has_its_own_stamp() -> None:
    stamps = Stamps()
    assert stamps.of(1.9999) == "1970-01-01T00:00:01.999Z"
    assert stamps.of(2.0) == "1970-01-01T00:00:02.000Z"
    assert stamps.of(1.0) == "1970-01-01T00:00:01.000Z"


def test_text_writes_what_is_missing_as_a_dash() -> None:
    by = printer("%ts% %caller% %request_id% %flag% %sent_bytes% %total_ms%")
    assert by.request(request(), SINCE) == "2023-11-14T22:13:32.500Z web r-1 - - 500.000\n"
    assert by.session(session(), SINCE) == "2023-11-14T22:13:32.500Z web - - 5 500.000\n"


def test_every_field_in_text_is_that_of_json() -> None:
    for names, entry in (
        ((*BOTH, *HTTP), request(is_failure=True, flag="UC", policy="p")),
        ((*BOTH, *TCP), session()),
    ):
        found = line(entry)
        for name in names:
            by = printer(f"%{name}%")
            value = text(entry, by).removesuffix("\n")
            if isinstance(found[name], int | float):
                assert float(value) == found[name]
            else:
                assert value == ("-" if found[name] is None else found[name])


@given(
    id_value=st.binary(max_size=300),
    target=st.binary(max_size=1000),
    authority=st.binary(max_size=300),
    method=st.binary(max_size=32),
    detail=st.text(max_size=600),
    policy=st.text(max_size=300),
    flag=st.sampled_from(("", "UF", "UAEX", 'x"y')),
    route=st.text(max_size=50),
)
def test_no_text_of_the_network_breaks_a_line(
    id_value: bytes,
    target: bytes,
    authority: bytes,
    method: bytes,
    detail: str,
    policy: str,
    flag: str,
    route: str,
) -> None:
    entry = request(
        is_failure=True,
        id_line=b"x-request-id: " + id_value,
        target=target,
        authority=authority,
        method=method,
        detail=detail,
        policy=policy,
        flag=flag,
        route=route,
        status=503,
    )
    everything = " ".join(f"%{name}%" for name in HTTP)
    for by in (printer(), printer(everything)):
        data = by.request(entry, SINCE)
        assert len(data) <= MAX_LINE_BYTES
        assert data.isascii()
        assert data[:-1].isprintable()
        assert data.endswith("\n")
    json.loads(printer().request(entry, SINCE))
    json.loads(printer().session(session(flag="UF", detail=detail, policy=policy), SINCE))


def test_a_line_is_bounded_where_each_character_takes_six() -> None:
    longest = request(
        is_failure=True,
        id_line=b"x-request-id: " + b"\xff" * 500,
        target=b"/" + b'"' * 5000,
        authority=b"\xff" * 500,
        flag="UF",
        detail="\u202e" * 5000,
        policy="\u202e" * 5000,
        status=503,
    )
    by = printer(caller_identity="spiffe://" + "x" * 250, service_identity="spiffe://" + "x" * 250)
    data = by.request(longest, SINCE)
    assert len(data) <= MAX_LINE_BYTES
    assert json.loads(data)["status"] == 503
    text = printer("e" * 500 + "%path%" * 49).request(longest, SINCE)
    assert len(text) <= MAX_LINE_BYTES
    assert text.endswith("\n")


def test_many_lines_are_made_at_once_and_each_is_what_it_is_alone() -> None:
    one, two, text_by = printer(), printer(side="destination"), printer("%path% %status%")
    entries = [
        request(id_line=b"x-request-id: 550e8400-e29b-41d4-a716-446655440000"),
        request(target=b"/a", headed=0.0, queue_s=0.0, connect_s=0.0),
        request(target=b"/a?x", ended=13.0),
        request(status=503, is_failure=True, flag="UF", detail="refused"),
        request(target=b'/"\xff' * 200),
        request(id_line=b"", trace_line=b""),
        request(ended=12.0005, started=12.0, request_bytes=10**12),
    ]
    for at, entry in enumerate(entries):
        (two if at % 2 else one).prepare(entry.outcome)
    in_text = request()
    text_by.prepare(in_text.outcome)
    closed = session(kind=one.good_session)
    kept: list[Any] = [*map(tuple, entries), tuple(in_text), tuple(closed)]
    made = lines(kept, SINCE, one.stamps).decode("ascii").splitlines(keepends=True)
    alone = [entry.outcome.printer.request(entry, SINCE) for entry in entries]  # type: ignore[attr-defined]
    assert made[:-2] == alone
    assert made[-2:] == ["/items 200\n", one.session(closed, SINCE)]
    assert json.loads(made[2])["path"] == "/a"
    assert json.loads(made[6])["total_ms"] in (0.499, 0.5)


@given(
    ids=st.lists(st.binary(max_size=200), min_size=1, max_size=5),
    trace=st.none() | st.binary(max_size=60),
)
def test_no_id_of_a_good_request_breaks_its_own_line_or_another(
    ids: list[bytes], trace: bytes | None
) -> None:
    by = printer()
    entries = [request(id_line=b"x-request-id: " + each) for each in ids]
    if trace is not None:
        entries.append(request(trace_line=b"traceparent: " + trace))
    for entry in entries:
        by.prepare(entry.outcome)
    made = lines(entries, SINCE, by.stamps).decode("ascii")
    found = [json.loads(each) for each in made.splitlines()]
    assert len(found) == len(entries)
    for each, own in zip(found[: len(ids)], ids, strict=True):
        assert each["request_id"] == (own.decode("latin-1")[:128] or None)
    assert all(each.isprintable() for each in made.splitlines())


def test_a_grpc_call_has_its_status() -> None:
    found = line(request(protocol="grpc", grpc_status="14", is_failure=True))
    assert (found["protocol"], found["status"], found["grpc_status"]) == ("grpc", 200, 14)
