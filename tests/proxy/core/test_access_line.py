"""Lines of finished calls, whatever stands in them."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.access_entry import Request, Session
from proxy.core.access_format import BOTH, HTTP, TCP, parse_format
from proxy.core.access_line import MAX_LINE_BYTES, Printer, Stamps
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
    fields: dict[str, Any] = {
        "make": lambda *_: "",
        "is_bad": False,
        "ended": 12.5,
        "started": 12.0,
        "headed": 12.25,
        "queue_s": 0.001,
        "connect_s": 0.002,
        "id_line": b"x-request-id: r-1",
        "trace_line": TRACE,
        "method": b"GET",
        "target": b"/items?secret=1",
        "authority": b"api.mesh",
        "route": "r",
        "endpoint": ENDPOINT,
        "attempts": 2,
        "status": 200,
        "flag": "",
        "policy": "",
        "detail": "",
        "request_bytes": 3,
        "response_bytes": 4,
    }
    return Request(**(fields | changed))


def session(**changed: Any) -> Session:
    fields: dict[str, Any] = {
        "make": lambda *_: "",
        "is_bad": False,
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


def line(entry: Request | Session, by: Printer | None = None) -> Any:
    by = by or printer()
    make = by.request if isinstance(entry, Request) else by.session
    data = make(entry, SINCE)
    assert data.endswith("\n")
    assert data.count("\n") == 1
    return json.loads(data)


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
        found = line(request(is_bad=True, flag=flag, detail=detail, status=status))["reason"]
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
        ((*BOTH, *HTTP), request(is_bad=True, flag="UC", policy="p")),
        ((*BOTH, *TCP), session()),
    ):
        found = line(entry)
        for name in names:
            by = printer(f"%{name}%")
            make = by.request if isinstance(entry, Request) else by.session
            value = make(entry, SINCE).removesuffix("\n")
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
        is_bad=True,
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
        is_bad=True,
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
