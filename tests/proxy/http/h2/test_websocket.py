"""What stands for what between the two handshakes."""

from base64 import b64decode

from proxy.http.h2.websocket import add_key, granted
from proxy.http.head import UNTIL_CLOSE, RequestHead, ResponseHead


def asked(protocol: bytes, *lines: bytes) -> RequestHead:
    head = RequestHead(b"GET", b"/", b"api", False)
    head.upgrade, head.lines = protocol, list(lines)
    return head


def test_a_key_is_sixteen_bytes_and_never_the_same() -> None:
    first, second = asked(b"websocket"), asked(b"websocket")
    add_key(first)
    add_key(second)
    keys = {head.get(b"sec-websocket-key") for head in (first, second)}
    assert len(keys) == 2
    assert {len(b64decode(key or b"")) for key in keys} == {16}
    assert first.fleeting == 1


def test_another_protocol_has_no_key() -> None:
    head = asked(b"connect-udp")
    add_key(head)
    assert head.lines == []


def test_a_2xx_is_a_101_with_the_proof_that_the_client_expects() -> None:
    answer = ResponseHead(200, b"200", True)
    answer.lines = [b"content-length: 0", b"sec-websocket-protocol: chat"]
    # RFC 6455, section 1.3
    head = granted(answer, asked(b"websocket", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="))
    assert (head.status, head.length) == (101, UNTIL_CLOSE)
    assert head.lines == [
        b"sec-websocket-protocol: chat",
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    ]


def test_without_a_key_there_is_nothing_to_prove() -> None:
    assert granted(ResponseHead(200, b"200", True), asked(b"websocket")).lines == []
