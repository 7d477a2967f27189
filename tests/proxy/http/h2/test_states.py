"""The table of RFC 9113, section 5.1."""

import pytest

from proxy.http.h2.states import (
    CLOSED,
    HALF_CLOSED_LOCAL,
    HALF_CLOSED_REMOTE,
    IDLE,
    MOVES,
    OPEN,
    OURS,
    RECEIVED_DATA,
    RECEIVED_DATA_END,
    RECEIVED_HEADERS,
    RECEIVED_HEADERS_END,
    RECEIVED_PRIORITY,
    RECEIVED_RESET,
    RECEIVED_WINDOW_UPDATE,
    RESET,
    SENT_DATA,
    SENT_DATA_END,
    SENT_HEADERS,
    SENT_HEADERS_END,
    SENT_RESET,
    TABLE,
)

STATES = (IDLE, OPEN, HALF_CLOSED_LOCAL, HALF_CLOSED_REMOTE, CLOSED, RESET)
EVENTS = range(SENT_RESET + 1)


def test_every_state_says_what_follows_from_every_event() -> None:
    assert set(TABLE) == set(STATES)
    for state in STATES:
        assert set(TABLE[state]) == set(EVENTS)
        for event, move in TABLE[state].items():
            assert MOVES[state + event] == move
            assert move < 0 or move in STATES


@pytest.mark.parametrize("state", [CLOSED, RESET])
def test_what_is_closed_stays_closed(state: int) -> None:
    assert {move for move in TABLE[state].values() if move >= 0} == {state}


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((RECEIVED_HEADERS_END, SENT_HEADERS_END), CLOSED),
        ((RECEIVED_HEADERS, RECEIVED_DATA, RECEIVED_DATA_END), HALF_CLOSED_REMOTE),
        ((RECEIVED_HEADERS, RECEIVED_DATA, RECEIVED_HEADERS_END), HALF_CLOSED_REMOTE),
        ((RECEIVED_HEADERS, SENT_HEADERS, SENT_DATA, SENT_HEADERS_END), HALF_CLOSED_LOCAL),
        ((SENT_HEADERS, RECEIVED_HEADERS, RECEIVED_HEADERS, RECEIVED_DATA_END), HALF_CLOSED_REMOTE),
        ((SENT_HEADERS_END, RECEIVED_HEADERS, RECEIVED_DATA_END), CLOSED),
        ((SENT_HEADERS, RECEIVED_HEADERS_END, SENT_DATA, SENT_DATA_END), CLOSED),
        ((SENT_HEADERS, SENT_RESET, RECEIVED_DATA, RECEIVED_HEADERS_END), RESET),
        ((RECEIVED_HEADERS, RECEIVED_RESET, RECEIVED_WINDOW_UPDATE), CLOSED),
        ((RECEIVED_PRIORITY, RECEIVED_HEADERS, RECEIVED_PRIORITY), OPEN),
        ((SENT_RESET,), CLOSED),
    ],
)
def test_a_life(events: tuple[int, ...], state: int) -> None:
    now = IDLE
    for event in events:
        now = MOVES[now + event]
    assert now == state


def test_a_side_that_has_ended_says_no_more() -> None:
    for event in (SENT_HEADERS, SENT_HEADERS_END, SENT_DATA, SENT_DATA_END):
        assert MOVES[HALF_CLOSED_LOCAL + event] == OURS
