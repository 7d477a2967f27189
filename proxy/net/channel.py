"""What the main process and a worker say to each other, and how it goes over their socket pair.

A message is its length in four bytes and MessagePack. Both ends are ours and of one release; the
limit on the length is there for our own mistakes. The end of the channel is the end of the other
process, whatever ended it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

from proxy.core.exposition import Tally
from proxy.model.codec import Value
from proxy.model.endpoint import Catalogue
from proxy.model.names import ServiceName
from proxy.model.observed import Observed
from proxy.model.policy import Policy
from proxy.model.recent import Ended, SeenRequest, Wanted
from proxy.model.settings import Settings
from proxy.model.status import IdentityStatus

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""A policy of a thousand services is a few MiB."""
_LENGTH_BYTES = 4

_log = logging.getLogger(__name__)


class Listener(Value, frozen=True, kw_only=True):
    """An inherited socket."""

    host: str
    port: int
    """As the settings have them."""
    fd: int


class Start(Value, frozen=True, kw_only=True, tag="start"):
    """First of all; listening begins with the first ``Apply`` after it."""

    settings: Settings
    share: float
    listeners: tuple[Listener, ...]


class Apply(Value, frozen=True, kw_only=True, tag="apply"):
    revision: int
    """Counts what the main process has put in force since its start."""
    policy: Policy | None
    """None: unknown; nobody is let in."""
    catalogue: Catalogue
    cuts: int = 0
    """Goes up with each policy that ends what it would not let in."""


class Reload(Value, frozen=True, kw_only=True, tag="reload"):
    """Identities and trust bundle; answered by ``Reloaded``."""

    number: int


class Ask(Value, frozen=True, kw_only=True, tag="ask"):
    """Answered by ``Told``."""

    number: int


class Find(Value, frozen=True, kw_only=True, tag="find"):
    """Answered by ``Found``."""

    number: int
    request_id: str
    """Empty: the newest requests."""
    wanted: Wanted | None = None
    """Not None: instead, what ended since."""


class Observe(Value, frozen=True, kw_only=True, tag="observe"):
    """Answered by ``Noted``."""

    number: int
    seconds: float | None
    """None: only say what was seen; otherwise as for ``DataPlane.observe``."""


class Drain(Value, frozen=True, kw_only=True, tag="drain"):
    """Answered by ``Drained``, after which the worker ends."""

    number: int
    deadline_s: float


class Stop(Value, frozen=True, kw_only=True, tag="stop"):
    """At once."""


class Applied(Value, frozen=True, kw_only=True, tag="applied"):
    revision: int


class Listening(Value, frozen=True, kw_only=True, tag="listening"):
    """The worker accepts connections."""


class Reloaded(Value, frozen=True, kw_only=True, tag="reloaded"):
    number: int
    found: dict[ServiceName, IdentityStatus | str]
    """As ``DataPlane.reload_identities`` has it."""


class Told(Value, frozen=True, kw_only=True, tag="told"):
    number: int
    connections: int
    tally: Tally
    dropped: Tally = ()
    """Series that were dropped since the last one."""


class Found(Value, frozen=True, kw_only=True, tag="found"):
    number: int
    requests: tuple[SeenRequest, ...]
    ended: Ended | None = None


class Noted(Value, frozen=True, kw_only=True, tag="noted"):
    number: int
    observed: Observed


class Drained(Value, frozen=True, kw_only=True, tag="drained"):
    number: int
    is_finished: bool
    tally: Tally


ToWorker = Start | Apply | Reload | Ask | Find | Observe | Drain | Stop
Reply = Reloaded | Told | Found | Noted | Drained
ToMain = Applied | Listening | Reply

to_worker: "msgspec.msgpack.Decoder[ToWorker]" = msgspec.msgpack.Decoder(ToWorker)
to_main: "msgspec.msgpack.Decoder[ToMain]" = msgspec.msgpack.Decoder(ToMain)

M = TypeVar("M")


def frame(message: ToWorker | ToMain) -> bytes:
    """As it goes over the wire; may be sent to several."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is above {MAX_MESSAGE_BYTES}")
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class Channel(asyncio.Protocol, Generic[M]):
    """One end. ``received`` gets each message, then ``lost`` is called once; an error of
    ``received``, like a message that makes no sense, is logged and ends the channel."""

    def __init__(
        self,
        decoder: "msgspec.msgpack.Decoder[M]",
        received: Callable[[M], None],
        lost: Callable[[], None],
    ) -> None:
        self._decoder, self._received, self._lost = decoder, received, lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        try:
            while len(buffer) >= _LENGTH_BYTES:
                ends = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "big")
                if ends > MAX_MESSAGE_BYTES + _LENGTH_BYTES:
                    raise ValueError(f"a message of {ends} bytes")
                if len(buffer) < ends:
                    return
                message = self._decoder.decode(bytes(buffer[_LENGTH_BYTES:ends]))
                del buffer[:ends]
                self._received(message)
        except Exception:
            _log.exception("the channel between the processes of the proxy fails")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._buffer.clear()
        self._lost()

    def send(self, message: ToWorker | ToMain) -> None:
        self.send_frame(frame(message))

    def send_frame(self, data: bytes) -> None:
        """Nothing is sent to a process that is gone: its end is known from ``lost``."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """After what is still to be sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
