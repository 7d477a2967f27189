import logging
from collections import Counter

import pytest

from proxy.http.ledger import LOGGED_AT_ONCE, LOGGED_PER_S, Ledger

PEER = ("10.0.0.1", 4000)
LISTENER = ("127.0.0.1", 15001)


def test_a_refused_request_is_counted_and_logged_with_all_that_is_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts: Counter[str] = Counter()
    ledger = Ledger(10, lambda reason: counts.update([reason]))
    ledger.refused("length", "content-length is not a number", "web -> api", PEER, LISTENER)
    assert counts == {"length": 1}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "request refused: length"
    fields = vars(record)
    assert fields["detail"] == "content-length is not a number"
    assert (fields["reason"], fields["subject"]) == ("length", "web -> api")
    assert (fields["peer"], fields["listener"]) == ("10.0.0.1:4000", "127.0.0.1:15001")
    assert "suppressed" not in fields


def test_a_refused_response_is_counted_apart(caplog: pytest.LogCaptureFixture) -> None:
    counts: Counter[str] = Counter()
    ledger = Ledger(10, lambda _: pytest.fail("not a request"), lambda r: counts.update([r]))
    ledger.upstream_error("framing", "both lengths")
    assert counts == {"framing": 1}
    (record,) = caplog.records
    assert record.getMessage() == "response refused: framing"
    assert vars(record)["peer"] == ""


def test_a_flood_is_counted_in_full_and_logged_up_to_a_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts: Counter[str] = Counter()
    ledger = Ledger(10, lambda reason: counts.update([reason]))
    ledger.now = 1000.0
    for _ in range(LOGGED_AT_ONCE + 50):
        ledger.refused("field", "", "", PEER, None)
    assert counts["field"] == LOGGED_AT_ONCE + 50
    assert len(caplog.records) == LOGGED_AT_ONCE
    ledger.now = 1001.0
    for _ in range(50):
        ledger.refused("field", "", "", PEER, None)
    assert len(caplog.records) == LOGGED_AT_ONCE + LOGGED_PER_S
    assert vars(caplog.records[LOGGED_AT_ONCE])["suppressed"] == 50
