"""What each side allows the other: our SETTINGS, and what may stand in the peer's."""

from typing import Final

from proxy.http.h2.frames import (
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    FLOW_CONTROL_ERROR,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_BYTES,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_WINDOW,
    NO_ERROR,
    NO_RFC7540_PRIORITIES,
    PROTOCOL_ERROR,
)
from proxy.http.h2.stream import WINDOW_BYTES

FRAME_BYTES: Final = 64 * 1024
"""In one frame that we take. What has come of a DATA frame is passed on before the rest is here, so
that its size costs no memory; larger ones than this save nothing that can be measured."""
MAX_STREAMS: Final = 256
"""That a client may have open at a time. What one of them may hold: ``WINDOW_BYTES`` each way."""
ASSUMED_STREAMS: Final = 100
"""That a server allows before it has said so (RFC 9113, section 6.5.2: no limit; but "it is
recommended that this value be no smaller than 100", and a stream refused costs a retry)."""
HEADER_LIST_BYTES: Final = 64 * 1024
ACKNOWLEDGED_S: Final = 10.0
"""Then a peer that has not acknowledged our SETTINGS is not going to (SETTINGS_TIMEOUT)."""

_BOTH: Final = {
    # No table: a header block so has no state, and equal bytes mean equal headers.
    HEADER_TABLE_SIZE: 0,
    INITIAL_WINDOW_SIZE: WINDOW_BYTES,
    MAX_FRAME_SIZE: FRAME_BYTES,
    MAX_HEADER_LIST_SIZE: HEADER_LIST_BYTES,
    NO_RFC7540_PRIORITIES: 1,
}
SERVER: Final = {**_BOTH, MAX_CONCURRENT_STREAMS: MAX_STREAMS, ENABLE_CONNECT_PROTOCOL: 1}
"""A server does not send ENABLE_PUSH: "A server MUST NOT explicitly set this value to 1"."""
CLIENT: Final = {**_BOTH, ENABLE_PUSH: 0}


def violation(identifier: int, value: int, *, is_server: bool) -> int:
    """The code of the connection error, or NO_ERROR; ``is_server``: we are."""
    if identifier == INITIAL_WINDOW_SIZE:
        return FLOW_CONTROL_ERROR if value > MAX_WINDOW else NO_ERROR
    if identifier == MAX_FRAME_SIZE:
        is_valid = 16_384 <= value <= MAX_FRAME_BYTES
    elif identifier == ENABLE_PUSH:
        # "A client MUST treat receipt of a SETTINGS frame with SETTINGS_ENABLE_PUSH set to 1 as a
        # connection error (Section 5.4.1) of type PROTOCOL_ERROR."
        is_valid = value <= is_server
    elif identifier in (ENABLE_CONNECT_PROTOCOL, NO_RFC7540_PRIORITIES):
        is_valid = value <= 1
    else:
        is_valid = True
    return NO_ERROR if is_valid else PROTOCOL_ERROR
