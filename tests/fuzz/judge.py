"""Two strict parsers that are not ours: llhttp (of Node.js) and h11."""

from dataclasses import dataclass, field

import h11
import httptools

_MAX_HEAD_BYTES = 256 * 1024


@dataclass(slots=True)
class Message:
    """A request as somebody read it."""

    method: bytes = b""
    target: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    is_complete: bool = False

    @property
    def boundaries(self) -> tuple[bytes, bytes, bytes, bytes]:
        """What two readers of the same bytes have to agree on."""
        hosts = b",".join([value for name, value in self.headers if name == b"host"])
        return self.method, self.target, hosts, self.body


class Llhttp:
    """Feeds bytes to llhttp in its strict mode; ``messages`` is what it has seen so far."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> str:
        """Why it refuses; empty if it does not."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Asked for; its argument says where what comes behind the request begins.
            return "something behind an upgrade" if upgrade.args[0] < len(data) else ""
        except httptools.HttpParserError as error:
            return str(error) or type(error).__name__
        return ""

    @property
    def is_kept(self) -> bool:
        return bool(self._parser.should_keep_alive())

    def on_message_begin(self) -> None:
        self.messages.append(Message())

    def on_url(self, url: bytes) -> None:
        self.messages[-1].target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.messages[-1].headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.messages[-1].method = self._parser.get_method()

    def on_body(self, body: bytes) -> None:
        self.messages[-1].body += body

    def on_message_complete(self) -> None:
        self.messages[-1].is_complete = True


def first_by_llhttp(wire: bytes) -> Message | None:
    """The first request in ``wire``, if llhttp finds a complete one before it refuses."""
    reader = Llhttp()
    reader.feed(wire)
    return reader.messages[0] if reader.messages and reader.messages[0].is_complete else None


def first_by_h11(wire: bytes) -> tuple[Message | None, bytes]:
    """The first request in ``wire``, and what h11 left after it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
    message = Message()
    try:
        connection.receive_data(wire)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                message.method, message.target = event.method, event.target
                message.headers = list(event.headers)
            elif isinstance(event, h11.Data):
                message.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                message.is_complete = True
                return message, connection.trailing_data[0]
            else:
                return None, b""
    except h11.RemoteProtocolError:
        return None, b""
