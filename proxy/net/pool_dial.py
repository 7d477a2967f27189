"""New connections: TCP, then TLS where there is an identity, within one deadline.

The only tasks of the data plane are in here, one for each connection being made, because the
loop offers no other way; they end with the connection's being there.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.core.peer import identify
from proxy.http.frames import ALPN
from proxy.http.h2.client import Http2Client
from proxy.http.shared import SharedConnection, SharedPool
from proxy.http.streams_client import StreamsClient
from proxy.model.names import InvalidName, SpiffeId, TrustDomain, parse_spiffe_id, spiffe_id
from proxy.net.tls import PeerRefused, TlsTransport
from proxy.net.tls_identity import Identity

_running: set[asyncio.Task[None]] = set()
"""The loop itself holds tasks only weakly."""


class Dial:
    """One attempt; ends in ``connection_made`` of the protocol, or in ``failed``."""

    __slots__ = ("_failed", "_is_over", "_lower", "_task", "_timeout_s", "_timer")

    def __init__(
        self,
        address: str,
        port: int,
        timeout_s: float,
        protocol: asyncio.Protocol | None,
        failed: Callable[[str], None],
        make_tls: Callable[["Dial"], TlsTransport] | None,
    ) -> None:
        self._failed = failed
        self._is_over = False
        self._timeout_s = timeout_s
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(timeout_s, self._expired)
        lower = make_tls(self) if make_tls is not None else protocol
        self._lower = lower
        self._task = loop.create_task(
            self._connect(loop, lower, address, port), name=f"dial {address}:{port}"
        )
        _running.add(self._task)
        self._task.add_done_callback(_running.discard)

    async def _connect(
        self, loop: asyncio.AbstractEventLoop, lower: Any, address: str, port: int
    ) -> None:
        try:
            await loop.create_connection(lambda: lower, address, port)
        except (OSError, ValueError, OverflowError) as error:  # the last two: an impossible address
            self.fail((getattr(error, "strerror", None) or str(error)).lower())

    def fail(self, detail: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._timer.cancel()
            self._failed(detail)

    def succeeded(self) -> None:
        self._is_over = True
        self._timer.cancel()

    @property
    def is_over(self) -> bool:
        return self._is_over

    def cancel(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._timer.cancel()
            self._abandon()

    def _abandon(self) -> None:
        self._task.cancel()
        if isinstance(self._lower, TlsTransport | Http2Client):
            self._lower.abandon()

    def _expired(self) -> None:
        self._abandon()
        self.fail(f"no connection within {self._timeout_s:g} s")


class Dialer:
    """Makes connections of one kind; this one, plain ones."""

    is_sharing = False
    """Whether its peers may carry many requests on one connection: then ``shared`` makes it."""
    identity: Identity | None = None
    """What new connections are made with; kept ones of another are not used."""

    def shared(self, pool: SharedPool) -> SharedConnection | None:
        """What carries many requests, made for one dial."""
        return None

    def dial(
        self,
        address: str,
        port: int,
        timeout_s: float,
        protocol: asyncio.Protocol,
        failed: Callable[[str], None],
        shared: asyncio.Protocol | None = None,
    ) -> Dial:
        """``failed`` is never called before this returns. ``shared`` instead of ``protocol``, if
        the peer can carry many streams on one connection."""
        return Dial(address, port, timeout_s, shared or protocol, failed, None)


class Http2Dialer(Dialer):
    """Plain connections to an application that speaks HTTP/2 and is known to (RFC 9113, section
    3.3): nothing is negotiated, so it is never spoken to in another version."""

    is_sharing = True

    def shared(self, pool: SharedPool) -> SharedConnection:
        return Http2Client(pool, self.identity)


class MeshDialer(Dialer):
    """Connections over mTLS, as one workload, to one service."""

    is_sharing = True

    def __init__(self, domain: TrustDomain, server_name: str, expected: SpiffeId) -> None:
        self._domain = domain
        self._server_name = server_name
        self._expected = expected
        self._service = parse_spiffe_id(expected, domain)

    def shared(self, pool: SharedPool) -> SharedConnection:
        return StreamsClient(pool, self.identity)

    def dial(
        self,
        address: str,
        port: int,
        timeout_s: float,
        protocol: asyncio.Protocol,
        failed: Callable[[str], None],
        shared: asyncio.Protocol | None = None,
    ) -> Dial:
        """Only with an identity."""
        identity = self.identity
        assert identity is not None

        def accept(transport: TlsTransport) -> asyncio.Protocol:
            if dial.is_over:
                raise PeerRefused("timeout", "too late")
            self._verify(transport)
            if shared is not None and transport.ssl_object.selected_alpn_protocol() == ALPN:
                return shared
            return protocol

        def make_tls(dial: Dial) -> TlsTransport:
            return TlsTransport(
                identity.client,
                accept,
                lambda _reason, detail: dial.fail(detail),
                server_name=self._server_name,
            )

        dial = Dial(address, port, timeout_s, None, failed, make_tls)
        return dial

    def _verify(self, transport: TlsTransport) -> None:
        """That the peer is the service that was dialled, before a byte is sent to it."""
        der = transport.ssl_object.getpeercert(True) or b""
        try:
            found = identify(der, self._domain, is_server=True)
        except InvalidName as error:
            raise PeerRefused("identity", str(error)) from error
        if found != self._service:
            raise PeerRefused(
                "identity", f"the peer is {spiffe_id(self._domain, found)}, not {self._expected}"
            )
