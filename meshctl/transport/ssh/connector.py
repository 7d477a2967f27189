"""One SSH connection per host and per jump host, opened once and shared.

Whom to trust is decided here and nowhere else: the host's key is checked during the key
exchange, before the operator authenticates and before any payload. The operator's own
``~/.ssh/config`` is not read: what a deploy does must follow from the inventory alone, not from
which person runs it; what is needed of it (user, port, key, jump host) stands in the inventory.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from meshctl.errors import MeshError, Refused, Unreachable
from meshctl.inventory.model import Become, Host, HostKeyPolicy, Ssh
from meshctl.transport.shared import SharedAttempts
from meshctl.transport.ssh import credentials, hostkeys
from meshctl.transport.ssh.hostkeys import HostKey, Trusted
from meshctl.transport.ssh.transport import SshTransport, close_connection
from proxy.model.names import HostName

KEEPALIVE_S = 5.0
KEEPALIVE_COUNT = 3
"""With the interval: a cut network is noticed within 15 to 20 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One machine on the way to a host: the host itself, or its jump host."""

    host: HostName
    """The host this is on the way to: what the operator calls it."""
    subject: str
    user: str
    address: str
    port: int
    ssh: Ssh
    known_hosts: Path


def route(host: Host, known_hosts: Path) -> tuple[Hop, ...]:
    """The jump host, if any, then the host. Raises Refused for a jump host that makes no sense."""
    known_hosts = host.ssh.known_hosts or known_hosts
    target = Hop(
        host=host.name,
        subject=f"{host.name} ({host.address}:{host.ssh.port})",
        user=host.ssh.user,
        address=host.address,
        port=host.ssh.port,
        ssh=host.ssh,
        known_hosts=known_hosts,
    )
    if host.ssh.jump is None:
        return (target,)
    user, _, place = host.ssh.jump.rpartition("@")
    address, port = _split_port(place)
    jump = Hop(
        host=host.name,
        subject=f"jump host {address}:{port} of {host.name}",
        user=user or host.ssh.user,
        address=address,
        port=port,
        ssh=host.ssh,
        known_hosts=known_hosts,
    )
    return (jump, target)


class SshConnector:
    """Opens ``SshTransport``s; jump hosts are dialled once, however many hosts lie behind."""

    def __init__(
        self,
        hosts: Iterable[Host],
        *,
        known_hosts: Path,
        keepalive_s: float = KEEPALIVE_S,
        keepalive_count: int = KEEPALIVE_COUNT,
    ) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._known_hosts = known_hosts
        self._keepalive = {
            "keepalive_interval": keepalive_s,
            "keepalive_count_max": keepalive_count,
        }
        self._jumps: SharedAttempts[tuple[object, ...], asyncssh.SSHClientConnection] = (
            SharedAttempts(
                is_usable=lambda connection: not connection.is_closed(), close=close_connection
            )
        )
        self._open: list[SshTransport] = []

    async def connect(self, host: HostName) -> SshTransport:
        """A new connection each time; ``Connections`` is what shares them."""
        *jumps, target = route(self._hosts[host], self._known_hosts)
        via = await self._through(jumps[0]) if jumps else None
        connection = await _dial(target, via, self._keepalive)
        transport = SshTransport(
            host,
            connection,
            become_from=target.user
            if target.ssh.become is Become.SUDO and target.user != "root"
            else None,
        )
        try:
            await transport.check_become(timeout_s=target.ssh.connect_timeout_s)
        except BaseException:
            await transport.close()
            raise
        self._open.append(transport)
        return transport

    async def close(self) -> None:
        """Hosts first, then the jump hosts that carry them."""
        transports, self._open = self._open, []
        await asyncio.gather(*(transport.close() for transport in transports))
        await self._jumps.close()

    async def _through(self, jump: Hop) -> asyncssh.SSHClientConnection:
        identity = (jump.user, jump.address, jump.port, jump.ssh.key, jump.known_hosts)
        return await self._jumps.get(identity, lambda: _dial(jump, None, self._keepalive))


async def scan_host_key(host: Host, *, known_hosts: Path) -> HostKey:
    """The key presented by the first machine on the way to ``host`` that is not trusted yet;
    by the host itself when there is none. Behind a jump host it therefore takes two rounds of
    scan and ``trust``. Nothing is sent to a machine that is not trusted.
    """
    *jumps, target = route(host, known_hosts)
    connector = SshConnector([host], known_hosts=known_hosts)
    try:
        via = None
        for jump in jumps:
            key = await _scan(jump, None)
            if not key.is_trusted:
                return key
            via = await connector._through(jump)
        return await _scan(target, via)
    finally:
        await connector.close()


class _Gate(asyncssh.SSHClient):
    """Asked by asyncssh, in the middle of the key exchange, about a key that is not trusted."""

    def __init__(self, may_accept: bool) -> None:
        self._may_accept = may_accept
        self.presented: asyncssh.SSHKey | None = None

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        self.presented = key
        return self._may_accept


async def _dial(
    hop: Hop, via: asyncssh.SSHClientConnection | None, keepalive: dict[str, Any]
) -> asyncssh.SSHClientConnection:
    trusted = hostkeys.lookup(hop.known_hosts, hop.address, hop.port)
    accepts_new = hop.ssh.host_keys is HostKeyPolicy.ACCEPT_NEW and not trusted.is_known
    gate = _Gate(accepts_new)
    options = credentials.options(hop.ssh.key)
    try:
        async with asyncio.timeout(hop.ssh.connect_timeout_s):
            connection, _ = await asyncssh.create_connection(
                lambda: gate,
                hop.address,
                hop.port,
                tunnel=via,
                username=hop.user,
                config=None,
                known_hosts=lambda *_: hostkeys.as_match(trusted),
                server_host_key_algs=trusted.algorithms(),
                x509_trusted_certs=None,
                gss_host=None,
                agent_forwarding=False,
                **options,
                **keepalive,
            )
    except asyncssh.HostKeyNotVerifiable as error:
        raise _judged(hop, trusted, gate.presented, str(error)) from None
    except asyncssh.KeyExchangeFailed as error:
        raise Refused(f"{hop.subject}: no key exchange is possible: {error}") from error
    except asyncssh.PermissionDenied as error:
        raise Refused(
            f"{hop.subject} does not let {hop.user} in with the keys that were offered",
            hint=f"ssh-copy-id -p {hop.port} {hop.user}@{hop.address}, "
            "or set `ssh.user` and `ssh.key` in the inventory",
        ) from error
    except TimeoutError as error:
        raise Unreachable(
            f"{hop.subject} did not answer within {hop.ssh.connect_timeout_s:g} s",
            hint="check the address, the port and firewalls",
        ) from error
    except (OSError, asyncssh.Error) as error:
        raise Unreachable(
            f"{hop.subject} cannot be reached: {_reason(error)}",
            hint="check that the host is up and that its SSH server runs",
        ) from error
    if accepts_new and gate.presented is not None:
        await _record(hop, gate.presented, trusted, connection)
    return connection


async def _record(
    hop: Hop, key: asyncssh.SSHKey, trusted: Trusted, connection: asyncssh.SSHClientConnection
) -> None:
    """Only now, because the key exchange has proved that the host has the private half."""
    presented = _described(hop, key, trusted)
    try:
        await asyncio.to_thread(hostkeys.trust, presented, hop.known_hosts)
    except BaseException:
        await close_connection(connection)
        raise


def _judged(
    hop: Hop, trusted: Trusted, presented: asyncssh.SSHKey | None, reason: str
) -> MeshError:
    """Why the host's key was refused; without a presented key asyncssh's own words, for a revoked
    key or a host certificate that is not valid.
    """
    if presented is None:
        return Refused(
            f"{hop.subject} was refused: {reason}; nothing was sent",
            hint=f"see the entries for this host in {hop.known_hosts}",
        )
    key = _described(hop, presented, trusted)
    return hostkeys.changed(key) if trusted.is_known else hostkeys.unknown(key)


async def _scan(hop: Hop, via: asyncssh.SSHClientConnection | None) -> HostKey:
    trusted = hostkeys.lookup(hop.known_hosts, hop.address, hop.port)
    try:
        async with asyncio.timeout(hop.ssh.connect_timeout_s):
            key = await asyncssh.get_server_host_key(
                hop.address,
                hop.port,
                tunnel=via or (),
                config=None,
                server_host_key_algs=trusted.algorithms(),
            )
    except TimeoutError as error:
        raise Unreachable(
            f"{hop.subject} did not answer within {hop.ssh.connect_timeout_s:g} s"
        ) from error
    except (OSError, asyncssh.Error) as error:
        raise Unreachable(f"{hop.subject} cannot be reached: {_reason(error)}") from error
    if key is None:
        raise Unreachable(f"{hop.subject} presented no host key")
    return _described(hop, key, trusted)


def _described(hop: Hop, key: asyncssh.SSHKey, trusted: Trusted) -> HostKey:
    return hostkeys.host_key(hop.host, hop.subject, hop.address, hop.port, key, trusted)


def _reason(error: Exception) -> str:
    match error:
        case asyncssh.ChannelOpenError() | asyncssh.DisconnectError():
            return error.reason
        case OSError():
            return error.strerror or str(error)
        case _:
            return str(error)


def _split_port(place: str) -> tuple[str, int]:
    """``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address."""
    if place.startswith("["):
        address, _, rest = place[1:].partition("]")
        port = rest.removeprefix(":")
    elif place.count(":") == 1:
        address, _, port = place.partition(":")
    else:
        address, port = place, ""
    if not address or not (port or "22").isdecimal():
        raise Refused(
            f"{place!r} is not a jump host", hint="write it as [user@]host[:port] in the inventory"
        )
    return address, int(port or hostkeys.SSH_PORT)
