"""The responses that the proxy makes itself: a status, a flag, one plain sentence."""

from typing import Final

from proxy.http.head import ResponseHead
from proxy.model.flags import SENTENCE, STATUS, Flag

PHRASES = {
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    408: b"Request Timeout",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
REFUSAL_STATUS: Final = {"timeout": 408, "too_large": 431}
"""Where a request is refused for what it is or how it comes, by the reason; any other is 400."""


def make_reply(
    subject: str, flag: Flag, detail: str = "", status: int = 0
) -> tuple[ResponseHead, bytes]:
    """``<subject>: <sentence>[: detail]``; a detail in parentheses follows without the colon.

    ``status``: where it is not the flag's own.
    """
    status = status or STATUS[flag]
    joint = "" if not detail else " " if detail.startswith("(") else ": "
    text = f"{subject}: {SENTENCE[flag]}{joint}{detail}\n"
    body = text.encode("utf-8", "replace")
    head = ResponseHead(status, b"%d %b" % (status, PHRASES.get(status, b"")), True)
    head.flag = flag.value.encode()
    head.length = len(body)
    head.lines = [b"content-type: text/plain; charset=utf-8", b"content-length: %d" % len(body)]
    return head, body
