"""The chunked transfer coding (RFC 9112, section 7.1), independent of how the bytes arrive.

Chunk extensions are dropped, as an intermediary may. Refused: a size that is not 1 to 15 hex
digits, a line ending that is not CRLF, an extension or trailer section above its limit.
"""

import re

from proxy.http.fields import MAX_HEAD_BYTES, ProtocolError, parse_trailers

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_LINE_BYTES = 512

_SIZE_LINE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)

LAST_CHUNK = b"0\r\n\r\n"


class ChunkedDecoder:
    """Of one body."""

    __slots__ = ("_held", "_left", "_state", "trailers")

    def __init__(self) -> None:
        self._state = _SIZE_LINE
        self._left = 0
        self._held = b""
        """An incomplete line or trailer section."""
        self.trailers: list[bytes] = []

    def feed(self, data: bytes) -> tuple[bytes, bool, bytes]:
        """The payload in ``data``, whether the body is complete, and what comes after it."""
        if self._held:
            data = self._held + data
            self._held = b""
        parts: list[bytes] = []
        at = 0
        size = len(data)
        while True:
            if self._state == _DATA:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                if part:
                    parts.append(part)
                if self._left:
                    break
                self._state = _DATA_END
            if self._state == _DATA_END:
                ending = data[at : at + 2]
                if ending != b"\r\n":
                    if ending and ending != b"\r":
                        raise ProtocolError("chunk", "a chunk does not end where it said")
                    self._held = ending
                    break
                at += 2
                self._state = _SIZE_LINE
            if self._state == _SIZE_LINE:
                end = data.find(b"\n", at, at + _LINE_BYTES)
                if end < 0:
                    if size - at >= _LINE_BYTES:
                        raise ProtocolError("chunk", "a chunk's size line is too long")
                    self._held = data[at:]
                    break
                match = _SIZE.fullmatch(data, at, end - 1) if data[end - 1] == 13 else None
                if match is None:
                    raise ProtocolError("chunk", "a chunk's size line is malformed")
                at = end + 1
                self._left = int(match[1], 16)
                self._state = _DATA if self._left else _TRAILERS
                continue
            if self._state == _TRAILERS:
                if data.startswith(b"\r\n", at):
                    at += 2
                else:
                    end = data.find(b"\r\n\r\n", at)
                    if end < 0:
                        if size - at > MAX_HEAD_BYTES:
                            raise ProtocolError("too_large", "the trailers exceed 60 KiB")
                        self._held = data[at:]
                        break
                    self.trailers = parse_trailers(data[at:end])
                    at = end + 4
                self._state = _DONE
            if self._state == _DONE:
                return b"".join(parts), True, data[at:]
        return b"".join(parts), False, b""


def encode_chunk(data: bytes) -> bytes:
    """``data`` may not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_end(trailers: list[bytes]) -> bytes:
    if not trailers:
        return LAST_CHUNK
    return b"0\r\n%b\r\n\r\n" % b"\r\n".join(trailers)
