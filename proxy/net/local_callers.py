"""Which processes of this host may call as a workload: those of its unix user, if it has one.

Loopback keeps other hosts out, not other users. So who has the other end of a connection to an
outbound listener is asked once, as it is accepted and before a byte of it is read; it costs
nothing where no user is set. Whatever is not certain is refused, with a reason where the protocol
has room for one.
"""

import asyncio
import logging
import pwd
from collections.abc import Mapping
from typing import Any, Final, Protocol

from proxy.core.retry import Failure, Verdict
from proxy.http.downstream import DownstreamConnection
from proxy.http.exchange import Exchange, Handler
from proxy.http.h2.server import Http2Server
from proxy.http.ledger import BoundedLog, Ledger
from proxy.model.flags import Flag
from proxy.model.names import ServiceName
from proxy.model.policy import Timeouts
from proxy.model.settings import Settings
from proxy.net.dataplane_metrics import DataPlaneMetrics
from proxy.net.relay import Closed
from proxy.net.sock_diag import SocketOwners, Unavailable

POLICY: Final = "local-user"
"""The last part of the id by which such a refusal is known."""

EXPLAINED_AT_ONCE: Final = 64
"""Refused connections that are open to be told why. Beyond it they are closed without a word, so
that those who may not call cannot take the room of those who may."""

_log = logging.getLogger(__name__)


class Listener(Protocol):
    """What accepts connections of one workload's processes."""

    subject: str
    authority: bytes
    timeouts: Timeouts

    @property
    def is_http(self) -> bool: ...

    def admit(self) -> asyncio.Protocol:
        """The protocol of one more connection."""

    def finished(self, exchange: Exchange) -> None: ...


class LocalCallers:
    """The rule of one workload. ``resolve`` before use, and whenever users may have changed."""

    def __init__(
        self,
        caller: ServiceName,
        user: str,
        owners: SocketOwners | str,
        ledger: Ledger,
        metrics: DataPlaneMetrics,
    ) -> None:
        """``owners``: a reason why there are none."""
        self.problem = ""
        """Why nobody may call, for people; empty: the user's processes may."""
        self._caller, self._user = caller, user
        self._owners = owners
        self._uid: int | None = None
        self._ledger = ledger
        self._refused = metrics.local_refusals
        self._bounded = BoundedLog()
        self.explaining = 0

    def resolve(self) -> None:
        """Looks the user up on this host; may read files, or ask a directory that the host uses."""
        before, self._uid, self.problem = self.problem, None, ""
        if isinstance(self._owners, str):
            self.problem = f"this host does not tell which user calls: {self._owners}"
        else:
            try:
                self._uid = pwd.getpwnam(self._user).pw_uid
            except KeyError:
                self.problem = f"there is no unix user {self._user} on this host"
            except OSError as error:
                self.problem = f"the unix user {self._user} cannot be looked up: {error.strerror}"
        if self.problem and self.problem != before:
            _log.error(
                "no local process may call as a workload",
                extra={"workload": self._caller, "user": self._user, "why": self.problem},
            )

    def accept(self, listener: Listener) -> asyncio.Protocol:
        return Gate(self, listener)

    def judge(self, transport: Any) -> str:
        """Why the process at the other end may not call; empty: it may."""
        uid = None
        if not isinstance(self._owners, str):
            uid = self._owners.uid(
                transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            )
        if uid is not None and uid == self._uid:
            return ""
        who = "a process that cannot be told" if uid is None else f"the process (uid {uid})"
        why = f"{who} may not call as {self._caller}: " + (
            self.problem or f"only unix user {self._user} may"
        )
        self._refused.labels(self._caller).value += 1
        if self._bounded.may(self._ledger.now):
            fields = {"workload": self._caller, "user": self._user, "uid": uid, "why": why}
            _log.warning("local caller refused", extra=fields | self._bounded.left_out())
        return why

    def turned_away(self, listener: Listener, why: str) -> asyncio.Protocol:
        if not listener.is_http or self._ledger.is_full or self.explaining >= EXPLAINED_AT_ONCE:
            return Closed()
        return _Explaining(
            self, self._ledger, _TurnedAway(listener, why, f"{self._caller}/{POLICY}")
        )


class Gate(asyncio.Protocol):
    """A connection until its owner is known, which is at once."""

    __slots__ = ("_callers", "_listener")

    def __init__(self, callers: LocalCallers, listener: Listener) -> None:
        self._callers, self._listener = callers, listener

    def connection_made(self, transport: Any) -> None:
        why = self._callers.judge(transport)
        upper = self._callers.turned_away(self._listener, why) if why else self._listener.admit()
        transport.set_protocol(upper)
        upper.connection_made(transport)


class _Explaining(DownstreamConnection):
    """One of the few that are told why."""

    __slots__ = ("_callers",)

    def __init__(self, callers: LocalCallers, ledger: Ledger, handler: "_TurnedAway") -> None:
        super().__init__(ledger, handler)
        self._callers = callers

    def connection_made(self, transport: Any) -> None:
        self._callers.explaining += 1
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._callers.explaining -= 1
        super().connection_lost(exc)

    def make_http2(self) -> Http2Server:
        return _ExplainingHttp2(self._callers, self._ledger, self._handler)


class _ExplainingHttp2(Http2Server):
    """The same to a client that speaks HTTP/2; it has been counted."""

    __slots__ = ("_callers",)

    def __init__(self, callers: LocalCallers, ledger: Ledger, handler: Handler) -> None:
        super().__init__(ledger, handler)
        self._callers = callers

    def connection_lost(self, exc: Exception | None) -> None:
        self._callers.explaining -= 1
        super().connection_lost(exc)


class _TurnedAway:
    """A Handler that answers every request of the connection in the same way."""

    trusts_flag = False

    def __init__(self, of: Listener, why: str, policy: str) -> None:
        self.subject = of.subject
        self.authority = of.authority
        self.timeouts = of.timeouts
        self.finished = of.finished
        self._why, self._policy = why, policy

    def dispatch(self, exchange: Exchange) -> None:
        exchange.refuse(Flag.DENIED, self._why, policy=self._policy)

    def retry(self, exchange: Exchange, failure: Failure | None, verdict: Verdict) -> bool:
        return False


class Guards:
    """The rules of all workloads of a process that have a user, and what they ask."""

    def __init__(self, settings: Settings, ledger: Ledger, metrics: DataPlaneMetrics) -> None:
        users = {work.service: work.user for work in settings.workloads if work.user}
        self._owners: SocketOwners | str = "nobody asked"
        if users:
            try:
                self._owners = SocketOwners()
            except Unavailable as error:
                self._owners = str(error)
        self._of = {
            service: LocalCallers(service, user, self._owners, ledger, metrics)
            for service, user in users.items()
        }

    def of(self, caller: ServiceName) -> LocalCallers | None:
        """None: every process of the host may call as ``caller``."""
        return self._of.get(caller)

    def resolve(self) -> None:
        for each in self._of.values():
            each.resolve()

    def problems(self) -> Mapping[ServiceName, str]:
        """Of the workloads that nobody may call as."""
        return {service: each.problem for service, each in self._of.items() if each.problem}

    def close(self) -> None:
        if isinstance(self._owners, SocketOwners):
            self._owners.close()
