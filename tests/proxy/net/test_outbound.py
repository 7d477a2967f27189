import pytest

from proxy.http.head import parse_request
from proxy.net.outbound import _identify


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Cookie: a=b",
        "X-Request-Id: 1",
        "Traceparent: 00-a-b-00",
        "Cookie: a=b\r\nTraceparent: 00-a-b-00",
        "Cookie: a=b\r\nX-Request-Id: 1",
        "Traceparent: 00-a-b-00\r\nX-Request-Id: 1\r\nCookie: a=b",
    ],
)
def test_a_request_has_its_ids_where_the_peer_looks_for_them(given: str) -> None:
    text = f"GET / HTTP/1.1\r\nHost: api\r\n{given}\r\nAccept: */*".replace("\r\n\r\n", "\r\n")
    head = parse_request(text.encode())
    if not (head.has_request_id and head.has_trace):
        _identify(head)
    names = [line.partition(b":")[0].decode() for line in head.lines]
    assert names[:3] == ["accept", "x-request-id", "traceparent"]
    assert names[3:] == ["cookie"] * ("Cookie" in given)
    assert head.has_request_id
    assert head.has_trace
