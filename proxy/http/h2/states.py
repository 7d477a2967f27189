"""The life of a stream: RFC 9113, section 5.1, as a literal table.

States are multiples of sixteen and events are below, so that ``MOVES[state + event]`` is one look
into a tuple. It holds the next state, or below zero what was violated: ``-code`` for an error of
the stream, ``-code - CONNECTION`` for one of the connection. There are no reserved states, because
neither role of ours allows a push.
"""

from typing import Final

from proxy.http.h2.frames import PROTOCOL_ERROR, STREAM_CLOSED

# States
IDLE: Final = 0
OPEN: Final = 16
HALF_CLOSED_LOCAL: Final = 32
"""We have ended our side."""
HALF_CLOSED_REMOTE: Final = 48
CLOSED: Final = 64
"""By the ends of both sides, or by the peer's RST_STREAM."""
RESET: Final = 80
"""Closed by our RST_STREAM, of which the peer may not know yet."""

# Events; each END is its plain one plus END_STREAM's bit
RECEIVED_HEADERS: Final = 0
RECEIVED_HEADERS_END: Final = 1
RECEIVED_DATA: Final = 2
RECEIVED_DATA_END: Final = 3
RECEIVED_RESET: Final = 4
RECEIVED_WINDOW_UPDATE: Final = 5
RECEIVED_PRIORITY: Final = 6
SENT_HEADERS: Final = 7
SENT_HEADERS_END: Final = 8
SENT_DATA: Final = 9
SENT_DATA_END: Final = 10
SENT_RESET: Final = 11

CONNECTION: Final = 1000
"""Added to the code of an error that ends the connection."""

_CONN_PROTOCOL: Final = -PROTOCOL_ERROR - CONNECTION
_CONN_CLOSED: Final = -STREAM_CLOSED - CONNECTION
_STREAM_CLOSED: Final = -STREAM_CLOSED
OURS: Final = -2 * CONNECTION
"""We would break the rules ourselves: a bug."""

TABLE: Final[dict[int, dict[int, int]]] = {
    # "Receiving any frame other than HEADERS or PRIORITY on a stream in this state MUST be treated
    # as a connection error of type PROTOCOL_ERROR."
    IDLE: {
        RECEIVED_HEADERS: OPEN,
        RECEIVED_HEADERS_END: HALF_CLOSED_REMOTE,
        RECEIVED_DATA: _CONN_PROTOCOL,
        RECEIVED_DATA_END: _CONN_PROTOCOL,
        RECEIVED_RESET: _CONN_PROTOCOL,
        RECEIVED_WINDOW_UPDATE: _CONN_PROTOCOL,
        RECEIVED_PRIORITY: IDLE,
        SENT_HEADERS: OPEN,
        SENT_HEADERS_END: HALF_CLOSED_LOCAL,
        SENT_DATA: OURS,
        SENT_DATA_END: OURS,
        SENT_RESET: CLOSED,  # not sent: RST_STREAM must not be sent for an idle stream (6.4)
    },
    OPEN: {
        RECEIVED_HEADERS: OPEN,
        RECEIVED_HEADERS_END: HALF_CLOSED_REMOTE,
        RECEIVED_DATA: OPEN,
        RECEIVED_DATA_END: HALF_CLOSED_REMOTE,
        RECEIVED_RESET: CLOSED,
        RECEIVED_WINDOW_UPDATE: OPEN,
        RECEIVED_PRIORITY: OPEN,
        SENT_HEADERS: OPEN,
        SENT_HEADERS_END: HALF_CLOSED_LOCAL,
        SENT_DATA: OPEN,
        SENT_DATA_END: HALF_CLOSED_LOCAL,
        SENT_RESET: RESET,
    },
    HALF_CLOSED_LOCAL: {
        RECEIVED_HEADERS: HALF_CLOSED_LOCAL,
        RECEIVED_HEADERS_END: CLOSED,
        RECEIVED_DATA: HALF_CLOSED_LOCAL,
        RECEIVED_DATA_END: CLOSED,
        RECEIVED_RESET: CLOSED,
        RECEIVED_WINDOW_UPDATE: HALF_CLOSED_LOCAL,
        RECEIVED_PRIORITY: HALF_CLOSED_LOCAL,
        SENT_HEADERS: OURS,
        SENT_HEADERS_END: OURS,
        SENT_DATA: OURS,
        SENT_DATA_END: OURS,
        SENT_RESET: RESET,
    },
    # "If an endpoint receives additional frames, other than WINDOW_UPDATE, PRIORITY, or RST_STREAM,
    # for a stream that is in this state, it MUST respond with a stream error of type
    # STREAM_CLOSED."
    HALF_CLOSED_REMOTE: {
        RECEIVED_HEADERS: _STREAM_CLOSED,
        RECEIVED_HEADERS_END: _STREAM_CLOSED,
        RECEIVED_DATA: _STREAM_CLOSED,
        RECEIVED_DATA_END: _STREAM_CLOSED,
        RECEIVED_RESET: CLOSED,
        RECEIVED_WINDOW_UPDATE: HALF_CLOSED_REMOTE,
        RECEIVED_PRIORITY: HALF_CLOSED_REMOTE,
        SENT_HEADERS: HALF_CLOSED_REMOTE,
        SENT_HEADERS_END: CLOSED,
        SENT_DATA: HALF_CLOSED_REMOTE,
        SENT_DATA_END: CLOSED,
        SENT_RESET: RESET,
    },
    # "An endpoint MAY treat receipt of any other type of frame on a closed stream as a connection
    # error of type STREAM_CLOSED", except what crossed our own end on its way. Sending is for
    # nothing here, and no mistake: whoever sends may not know yet.
    CLOSED: {
        RECEIVED_HEADERS: _CONN_CLOSED,
        RECEIVED_HEADERS_END: _CONN_CLOSED,
        RECEIVED_DATA: _CONN_CLOSED,
        RECEIVED_DATA_END: _CONN_CLOSED,
        RECEIVED_RESET: CLOSED,
        RECEIVED_WINDOW_UPDATE: CLOSED,
        RECEIVED_PRIORITY: CLOSED,
        SENT_HEADERS: CLOSED,
        SENT_HEADERS_END: CLOSED,
        SENT_DATA: CLOSED,
        SENT_DATA_END: CLOSED,
        SENT_RESET: CLOSED,
    },
    # "An endpoint that sends a RST_STREAM frame on a stream that is in the open or half-closed
    # (local) state could receive any type of frame", and ignores it.
    RESET: {
        RECEIVED_HEADERS: RESET,
        RECEIVED_HEADERS_END: RESET,
        RECEIVED_DATA: RESET,
        RECEIVED_DATA_END: RESET,
        RECEIVED_RESET: RESET,
        RECEIVED_WINDOW_UPDATE: RESET,
        RECEIVED_PRIORITY: RESET,
        SENT_HEADERS: RESET,
        SENT_HEADERS_END: RESET,
        SENT_DATA: RESET,
        SENT_DATA_END: RESET,
        SENT_RESET: RESET,
    },
}

MOVES: Final = tuple(TABLE[index & ~15].get(index & 15, OURS) for index in range(max(TABLE) + 16))
"""The table, flat."""
