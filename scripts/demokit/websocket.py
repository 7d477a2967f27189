"""A WebSocket as a client has it (RFC 6455), as much of it as one short text each way takes."""

import base64
import hashlib
import os
import socket
from dataclasses import dataclass

DEADLINE_S = 10.0
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _MASKED = 0x81, 0x80
_SHORT = 125
"""The longest text whose length is one byte."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    status: int
    """101, or why there was none."""
    is_accepted: bool
    """The server has shown that it speaks WebSocket and read the key."""
    text: str


def say(port: int, path: str, text: str) -> Conversation:
    """Opens a WebSocket at ``path`` and sends ``text``; what came back. Raises OSError."""
    key = base64.b64encode(os.urandom(16))
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
        connection.sendall(
            b"GET %b HTTP/1.1\r\nhost: api\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: %b\r\n\r\n" % (path.encode(), key)
        )
        stream = connection.makefile("rb")
        status = int(stream.readline().split()[1])
        fields = dict(_field(line) for line in iter(stream.readline, b"\r\n"))
        if status != 101:
            return Conversation(status=status, is_accepted=False, text="")
        data = text.encode()
        assert len(data) <= _SHORT
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        connection.sendall(bytes((_TEXT, _MASKED | len(data))) + mask + masked)
        _, length = stream.read(2)
        wanted = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        return Conversation(
            status=status,
            is_accepted=fields.get(b"sec-websocket-accept") == wanted,
            text=stream.read(length).decode(),
        )


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip()
