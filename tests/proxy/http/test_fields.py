import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.fields import (
    ENCODING,
    FLAG,
    HOST,
    IDENTITY,
    LENGTH,
    POLICY,
    ProtocolError,
    Special,
    parse_field,
    parse_trailers,
    without_listed,
)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"Accept: */*", b"accept: */*"),
        (b"accept:*/*", b"accept: */*"),
        (b"X-Empty:", b"x-empty: "),
        (b"X-Space: \t a  b \t", b"x-space: a  b"),
        (b"X-High: \xc3\xa9", b"x-high: \xc3\xa9"),
        (b"X_Plain: 1", b"x_plain: 1"),
        (b"X-Forwarded-Client-Certs: 1", b"x-forwarded-client-certs: 1"),
        (b"X-Meshed: 1", b"x-meshed: 1"),
    ],
)
def test_a_line_becomes_canonical(raw: bytes, line: bytes) -> None:
    assert parse_field(raw) == line
    assert parse_field(raw) == line  # the same from the memo


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no colon",
        b": value",
        b"name : value",
        b"na me: value",
        b" folded: value",
        b"\tfolded",
        b"name: a\rb",
        b"name: a\nb",
        b"name: a\x00b",
        b"name: a\x7fb",
        b"n\xc3\xa9: value",
        b"(name): value",
        b"content_length: 5",
        b"Transfer_Encoding: chunked",
    ],
)
def test_a_malformed_line_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_field(raw)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"HOST: x", HOST),
        (b"Content-Length: 5", LENGTH),
        (b"Transfer-Encoding: chunked", ENCODING),
        (b"X-Forwarded-Client-Cert: x", IDENTITY),
        (b"x_forwarded_client_cert: x", IDENTITY),
        (b"x-mesh-anything: x", IDENTITY),
        (b"X_Mesh_Flag: UF", IDENTITY),
        (b"X-Mesh-Flag: UF", FLAG),
        (b"X-Mesh-Policy: api/no", POLICY),
        (b"x_mesh_policy: api/no", IDENTITY),
        (b"X.Mesh-Flag: UF", IDENTITY),
        (b"x-forwarded~client!cert: x", IDENTITY),
    ],
)
def test_what_the_proxy_acts_on_is_told_apart(raw: bytes, kind: int) -> None:
    field = parse_field(raw)
    assert isinstance(field, Special)
    assert field.kind == kind


@given(st.binary(max_size=200))
def test_whatever_is_accepted_is_one_safe_line(raw: bytes) -> None:
    try:
        field = parse_field(raw)
    except ProtocolError:
        return
    line = field.line if isinstance(field, Special) else field
    name, _, value = line.partition(b": ")
    assert name
    assert name == name.lower()
    assert not any(byte < 32 and byte != 9 for byte in line)
    assert value == value.strip(b" \t")
    again = parse_field(line)
    assert (again.line if isinstance(again, Special) else again) == line


def test_connection_removes_what_it_lists_but_nothing_that_is_relied_on() -> None:
    lines = [b"x-drop: 1", b"x-dropped: 1", b"content-length: 3", b"x-forwarded-for: 1"]
    listed = [b"x-drop", b"content-length", b"x-forwarded-for", b"nothing"]
    assert without_listed(lines, listed) == lines[1:]


def test_trailers_that_could_frame_route_or_authorize_are_dropped() -> None:
    block = b"X-Sum: 1\r\nContent-Length: 5\r\nHost: x\r\nAuthorization: x\r\nX-Mesh-Flag: UF"
    assert parse_trailers(block) == [b"x-sum: 1"]
