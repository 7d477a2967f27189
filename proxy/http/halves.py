"""What an exchange sees of its two sides, and of whoever decides where it goes."""

from typing import TYPE_CHECKING, Protocol

from proxy.core.retry import Failure, Verdict
from proxy.http.head import ResponseHead
from proxy.model.policy import Timeouts

if TYPE_CHECKING:
    from proxy.http.exchange import Exchange


class Downstream(Protocol):
    """The half that asks."""

    def respond(self, head: ResponseHead, data: bytes, is_end: bool) -> None: ...
    def respond_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None: ...
    def respond_whole(self, head: ResponseHead, data: bytes, trailers: list[bytes]) -> None:
        """Both at once, to the end: a unary answer of gRPC is one piece on its whole way."""

    def inform(self, head: ResponseHead) -> None:
        """An interim response (1xx)."""

    def abandon(self) -> None:
        """The response has begun and cannot be completed: the client must notice."""

    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
    def client(self) -> bytes:
        """Who asks, as far as the connection says: for hashing by source."""


class Upstream(Protocol):
    """The half that answers."""

    def send(self, exchange: "Exchange") -> None:
        """Sends the head and the exchange's body so far."""

    def send_data(self, data: bytes, is_end: bool, trailers: list[bytes]) -> None: ...
    def cancel(self) -> None:
        """The response is not wanted any more; makes no further calls."""

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


class Handler(Protocol):
    """Where a connection's requests go."""

    trusts_flag: bool
    """Whether ``x-mesh-flag`` from upstream is believed: it is, from a peer proxy."""
    authority: bytes
    """Host for a client that sent none."""

    @property
    def subject(self) -> str: ...
    @property
    def timeouts(self) -> Timeouts: ...
    def dispatch(self, exchange: "Exchange") -> None:
        """Says how long it may take, and ends, now or later, in ``attach``, ``upstream_failed`` or
        ``refuse``."""

    def retry(self, exchange: "Exchange", failure: Failure | None, verdict: Verdict) -> bool:
        """Dispatches once more, now or later, or does nothing and returns False: nowhere left
        to try, or not allowed to. ``failure`` None: because of the answer's status."""

    def finished(self, exchange: "Exchange") -> None: ...
