"""A connection that carries many requests at a time, as the pool that owns it sees it.

Of two kinds: ``streams_client`` between two proxies, ``h2.client`` to an application.
"""

from collections.abc import Sized
from typing import Protocol

from proxy.http.exchange import Exchange


class SharedConnection(Protocol):
    tag: object
    """The pool's own: the identity that the connection was made with."""
    idle_since: float
    is_lost: bool

    @property
    def streams(self) -> Sized:
        """Requests in flight."""

    @property
    def has_room(self) -> bool:
        """Whether one more may be opened."""

    @property
    def is_flowing(self) -> bool:
        """Whether one that is opened now does not have to wait behind others."""

    def open(self, exchange: Exchange) -> None:
        """Sends the request; only with room."""

    def go(self) -> None:
        """Closes as soon as nothing is in flight."""

    def sweep(self, now: float) -> None:
        """About once a second, unless it is idle for too long."""

    def close(self) -> None: ...
    def abort(self) -> None: ...


class SharedPool(Protocol):
    def connected_shared(self, connection: SharedConnection) -> None:
        """It may be used."""

    def failed_shared(self, connection: SharedConnection, detail: str) -> None:
        """It never could be."""

    def stream_ended(self, connection: SharedConnection) -> None:
        """One more may be opened, or several."""

    def lost_shared(self, connection: SharedConnection) -> None: ...
