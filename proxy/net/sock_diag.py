"""Which unix user has the other end of a TCP connection within this host.

The kernel is asked about one socket by its exact addresses (sock_diag(7)): some microseconds, in
which nothing is waited for, since it answers within the call that asks. Where netlink is not to be
had, the same is read from /proc/self/net/tcp, which costs more the more connections there are.

What is not certain is None: the socket is gone, nobody holds it any more (the kernel would call it
root's), its owner cannot be seen from this user namespace, or it is not the one that was asked for.
"""

import contextlib
import os
import socket
import struct
from typing import Final

NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST: Final = 1
_ERROR: Final = 2
_NO_COOKIE: Final = b"\xff" * 8
_ALL_STATES: Final = 0xFFFFFFFF
_ANSWER_BYTES: Final = 4096
_ANSWERS: Final = 8

_HEAD: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ASKED: Final = struct.Struct("=BBBBI")  # inet_diag_req_v2: family, protocol, extensions, -, states
_FOUND: Final = struct.Struct("=BBBB")  # inet_diag_msg: family, state, timer, retransmissions
_ID_BYTES: Final = 48  # inet_diag_sockid: ports and addresses, interface, cookie
_PLACES_BYTES: Final = 36  # of it, ports and addresses
_OWNER: Final = struct.Struct("=IIIII")  # expires, receive queue, send queue; uid, inode

_HELD: Final = frozenset((1, 4, 5))
"""ESTABLISHED; FIN_WAIT1 and FIN_WAIT2 are a client that has sent all it had to say."""

_OVERFLOW_UID: Final = 65534
"""What the kernel says of a user that this namespace does not know."""
_EVERYBODY: Final = 2**32 - 1
_PROC_BYTES: Final = 16 * 1024 * 1024
_PROC_FIELDS: Final = 10

Address = tuple[str, int]


class Unavailable(Exception):
    """The host does not tell who owns a socket; the text says why."""


class SocketOwners:
    """One of a process; ``uid`` may be called from its thread only. ``close`` it."""

    def __init__(self) -> None:
        """Tries out what it will use. Raises Unavailable."""
        self._netlink: socket.socket | None = None
        self._sequence = 0
        self._sees_everybody = sees_everybody()
        with contextlib.suppress(OSError):
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG)
            self._netlink.setblocking(False)
            self._netlink.connect((0, 0))  # only the kernel may answer
        if self._netlink is not None and not self._works():
            self._netlink.close()
            self._netlink = None
        if self._netlink is None and not self._works():
            raise Unavailable("neither netlink (sock_diag) nor /proc/self/net/tcp tells who calls")

    @property
    def way(self) -> str:
        return "netlink" if self._netlink is not None else "proc"

    @property
    def sees_everybody(self) -> bool:
        """False: in a user namespace; of others than its own users it only says that they are."""
        return self._sees_everybody

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def uid(self, peer: object, local: object) -> int | None:
        """``peer``: the address of the socket that is asked about; ``local``: of its other end,
        both as ``getpeername`` gives them. Does not raise."""
        found = _addresses(peer, local)
        if found is None:
            return None
        family, source, destination = found
        uid = (
            self._ask(family, source, destination)
            if self._netlink is not None
            else _look_up(family, source, destination)
        )
        if uid == _OVERFLOW_UID and not self._sees_everybody:
            return None  # this is everybody else, not the user `nobody`
        return uid

    def _ask(self, family: int, source: bytes, destination: bytes) -> int | None:
        """Addresses as 4 or 16 octets, then 2 of the port."""
        netlink = self._netlink
        assert netlink is not None
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        body = (
            _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
            + source[-2:]
            + destination[-2:]
            + source[:-2].ljust(16, b"\0")
            + destination[:-2].ljust(16, b"\0")
            + b"\0\0\0\0"  # any interface
            + _NO_COOKIE
        )
        head = _HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, _REQUEST, self._sequence, 0)
        try:
            netlink.send(head + body)
            for _ in range(_ANSWERS):  # one, unless an earlier one was left behind
                answer = netlink.recv(_ANSWER_BYTES)
                if len(answer) >= _HEAD.size and _HEAD.unpack_from(answer)[3] == self._sequence:
                    return _owner(answer, body)
        except OSError:
            pass
        return None

    def _works(self) -> bool:
        """Whether the owner of a socket of our own is found to be us."""
        try:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = listener.getsockname()
                with socket.create_connection(address, timeout=1) as client:
                    return self.uid(client.getsockname(), address) == os.geteuid()
        except OSError:
            return False


def _owner(answer: bytes, asked: bytes) -> int | None:
    """Of the one message that answers ``asked``; None also for NLMSG_ERROR."""
    at = _HEAD.size
    if _HEAD.unpack_from(answer)[1] != _BY_FAMILY:
        return None
    if len(answer) < at + _FOUND.size + _ID_BYTES + _OWNER.size:
        return None
    family, state, _, _ = _FOUND.unpack_from(answer, at)
    at += _FOUND.size
    # Without such a connection the kernel answers with a listener on the port, if there is one.
    places = slice(_ASKED.size, _ASKED.size + _PLACES_BYTES)
    if family != asked[0] or answer[at : at + _PLACES_BYTES] != asked[places]:
        return None
    *_, uid, inode = _OWNER.unpack_from(answer, at + _ID_BYTES)
    return uid if state in _HELD and inode else None


def _addresses(peer: object, local: object) -> tuple[int, bytes, bytes] | None:
    if not (isinstance(peer, tuple) and isinstance(local, tuple)):
        return None  # the connection is gone already
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    try:
        source, destination = (
            socket.inet_pton(family, each[0].partition("%")[0]) + each[1].to_bytes(2)
            for each in (peer, local)
        )
    except (OSError, OverflowError):
        return None
    return family, source, destination


def _look_up(family: int, source: bytes, destination: bytes) -> int | None:
    """In the kernel's table as text."""
    wanted = [_spelled(source), _spelled(destination)]
    path = "/proc/self/net/tcp6" if family == socket.AF_INET6 else "/proc/self/net/tcp"
    read = 0
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                read += len(line)
                if read > _PROC_BYTES:
                    return None
                fields = line.split(maxsplit=_PROC_FIELDS)
                if fields[1:3] == wanted and len(fields) >= _PROC_FIELDS:
                    is_held = int(fields[3], 16) in _HELD and fields[9] != "0"
                    return int(fields[7]) if is_held else None
    except (OSError, ValueError):
        pass
    return None


def _spelled(address: bytes) -> str:
    """As the kernel prints it: words as numbers of this machine's byte order, the port as is."""
    words = struct.unpack(f"={(len(address) - 2) // 4}I", address[:-2])
    return "".join(f"{word:08X}" for word in words) + ":" + address[-2:].hex().upper()


def sees_everybody() -> bool:
    """Whether every user of the host has its own number here: no user namespace hides any."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            found = [tuple(map(int, line.split())) for line in file]
    except (OSError, ValueError):
        return False
    return found == [(0, 0, _EVERYBODY)]
