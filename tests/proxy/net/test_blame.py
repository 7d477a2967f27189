"""Why an endpoint is out of use, in a word and in a sentence."""

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.core.grpc import Status
from proxy.core.retry import Failure
from proxy.net.blame import MAX_WHY, REASON_OF, blame, sentence


@pytest.mark.parametrize(
    ("status", "flag", "detail", "reason", "said"),
    [
        (500, "", "", "status", "answered 500"),
        (503, "DI", "", "status", "answered 503"),
        (504, "UT", "waited 2 s", "UT", "the service did not answer in time: waited 2 s"),
        (503, "UF", "", "UF", "the connection to the service could not be made"),
    ],
)
def test_a_failed_request_says_what_its_endpoint_did(
    status: int, flag: str, detail: str, reason: str, said: str
) -> None:
    exchange: Any = SimpleNamespace(status=status, flag=flag, detail=detail, grpc=None)
    found = blame(exchange)
    assert found[0] == reason
    assert sentence(*found) == said


def test_a_failed_call_says_how_it_ended() -> None:
    call = SimpleNamespace(status=Status.DATA_LOSS)
    exchange: Any = SimpleNamespace(status=200, flag="", detail="", grpc=call)
    assert blame(exchange) == ("status", "answered DATA_LOSS")


def test_every_way_to_fail_has_a_word_and_a_sentence() -> None:
    assert set(REASON_OF) == set(Failure)
    assert all(sentence(reason, "") for reason in REASON_OF.values())


def test_what_the_other_side_says_does_not_make_it_long() -> None:
    assert len(sentence("UF", "x" * 10_000)) == MAX_WHY
