from typing import Any

import pytest

from proxy.core.retry import MAX_TRIES, Failure, Verdict, decide

GET: dict[str, Any] = {
    "method": b"GET",
    "tries": 1,
    "is_reused": False,
    "is_replayable": True,
    "has_begun": False,
}
POST = {**GET, "method": b"POST"}


@pytest.mark.parametrize(
    ("failure", "request_", "verdict"),
    [
        (Failure.CONNECT, GET, Verdict.OTHER_ENDPOINT),
        (Failure.CONNECT, POST, Verdict.OTHER_ENDPOINT),
        (Failure.REFUSED_BY_PEER, POST, Verdict.OTHER_ENDPOINT),
        (Failure.RESET, GET, Verdict.GIVE_UP),
        (Failure.RESET, {**GET, "is_reused": True}, Verdict.FRESH_CONNECTION),
        (Failure.RESET, {**GET, "is_reused": True, "method": b"PUT"}, Verdict.FRESH_CONNECTION),
        (Failure.RESET, {**POST, "is_reused": True}, Verdict.GIVE_UP),
        (Failure.RESET, {**GET, "is_reused": True, "method": b"PATCH"}, Verdict.GIVE_UP),
        (Failure.RESET, {**GET, "is_reused": True, "has_begun": True}, Verdict.GIVE_UP),
        (Failure.RESET, {**GET, "is_reused": True, "is_replayable": False}, Verdict.GIVE_UP),
        (Failure.CONNECT, {**GET, "is_replayable": False}, Verdict.GIVE_UP),
        (Failure.CONNECT, {**GET, "tries": MAX_TRIES}, Verdict.GIVE_UP),
        (Failure.CONNECT, {**GET, "tries": MAX_TRIES - 1}, Verdict.OTHER_ENDPOINT),
        (Failure.PROTOCOL, {**GET, "is_reused": True}, Verdict.GIVE_UP),
        (Failure.TIMEOUT, {**GET, "is_reused": True}, Verdict.GIVE_UP),
    ],
)
def test_only_what_provably_never_reached_the_application_is_repeated(
    failure: Failure, request_: dict[str, Any], verdict: Verdict
) -> None:
    assert decide(failure, **request_) is verdict
