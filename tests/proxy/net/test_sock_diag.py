"""Real sockets; as root, of real other users."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.net import sock_diag
from proxy.net.sock_diag import SocketOwners, Unavailable

ROOT = Path(__file__).parents[3]
FAMILIES = {"IPv4": (socket.AF_INET, "127.0.0.1"), "IPv6": (socket.AF_INET6, "::1")}


def without_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "NETLINK_SOCK_DIAG", 99)  # there is no such protocol


@pytest.fixture(params=["netlink", "proc"])
def owners(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SocketOwners]:
    if request.param == "proc":
        without_netlink(monkeypatch)
    made = SocketOwners()
    assert made.way == request.param
    yield made
    made.close()


class Pair:
    """A connection on loopback: ``client`` asks, ``accepted`` is the server's end."""

    def __init__(self, family: int, host: str) -> None:
        self.listener = socket.create_server((host, 0), family=family)
        self.client = socket.create_connection(self.listener.getsockname()[:2], timeout=10)
        self.accepted, self.peer = self.listener.accept()
        self.local = self.accepted.getsockname()

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self.client, self.accepted, self.listener):
            each.close()


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    family, host = FAMILIES[request.param]
    if family == socket.AF_INET6 and not has_ipv6():
        pytest.skip("this machine has no IPv6 on loopback")
    with Pair(family, host) as made:
        yield made


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_the_owner_of_the_other_end_is_found(owners: SocketOwners, pair: Pair) -> None:
    assert owners.uid(pair.peer, pair.local) == os.geteuid()


def test_another_user_is_told_from_us(owners: SocketOwners, pair: Pair) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a socket to another user")
    os.fchown(pair.client.fileno(), 4711, -1)
    assert owners.uid(pair.peer, pair.local) == 4711


def test_a_client_that_has_sent_all_still_has_an_owner(owners: SocketOwners, pair: Pair) -> None:
    pair.client.shutdown(socket.SHUT_WR)
    assert pair.accepted.recv(1) == b""
    assert owners.uid(pair.peer, pair.local) == os.geteuid()


def test_a_client_that_is_gone_has_none(owners: SocketOwners, pair: Pair) -> None:
    """The kernel says 0 of a socket that nobody holds: it must not pass for root."""
    pair.client.close()
    assert pair.accepted.recv(1) == b""
    assert owners.uid(pair.peer, pair.local) is None


def test_a_connection_that_never_was_has_none(owners: SocketOwners, pair: Pair) -> None:
    host, port = pair.local[:2]
    assert owners.uid((host, 1), (host, port)) is None


def test_a_listener_on_the_clients_port_is_not_the_client(owners: SocketOwners, pair: Pair) -> None:
    host = pair.local[0]
    assert owners.uid(pair.listener.getsockname(), (host, 1)) is None


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (None, None),
        (("127.0.0.1", 1), None),
        ("/a/unix/socket", ""),
        (("localhost", 1), ("127.0.0.1", 2)),
        (("127.0.0.1", 1), ("::1", 2)),
        (("127.0.0.1", 70000), ("127.0.0.1", 2)),
    ],
)
def test_what_is_no_pair_of_addresses_has_no_owner(
    owners: SocketOwners, peer: object, local: object
) -> None:
    assert owners.uid(peer, local) is None


def test_answers_left_behind_are_not_taken_for_new_ones(pair: Pair) -> None:
    owners = SocketOwners()
    if owners.way != "netlink":
        pytest.skip("this machine has no sock_diag")
    assert owners._netlink is not None
    try:
        assert owners.uid(pair.peer, pair.local) == os.geteuid()
        # The same question again, whose answer nobody reads.
        before = owners._sequence
        host = pair.local[0]
        for _ in range(3):
            owners._netlink.send(_question(owners, pair))
        assert owners.uid((host, 1), (host, 2)) is None
        assert owners._sequence == before + 1
    finally:
        owners.close()


def _question(owners: SocketOwners, pair: Pair) -> bytes:
    found = sock_diag._addresses(pair.peer, pair.local)
    assert found is not None
    family, source, destination = found
    body = sock_diag._ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    body += source[-2:] + destination[-2:]
    body += source[:-2].ljust(16, b"\0") + destination[:-2].ljust(16, b"\0")
    body += b"\0\0\0\0" + b"\xff" * 8
    return sock_diag._HEAD.pack(16 + len(body), 20, 1, owners._sequence, 0) + body


def test_without_any_way_to_tell_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    without_netlink(monkeypatch)
    monkeypatch.setattr(sock_diag, "_look_up", lambda *_: None)
    with pytest.raises(Unavailable, match="who calls"):
        SocketOwners()


def test_in_a_user_namespace_nobody_is_not_a_user(
    monkeypatch: pytest.MonkeyPatch, pair: Pair, owners: SocketOwners
) -> None:
    """There, 65534 stands for everybody whom it does not know."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a socket to another user")
    os.fchown(pair.client.fileno(), 65534, -1)
    assert owners.uid(pair.peer, pair.local) == 65534
    monkeypatch.setattr(owners, "_sees_everybody", False)
    assert owners.uid(pair.peer, pair.local) is None


def test_a_user_namespace_is_noticed() -> None:
    code = "from proxy.net.sock_diag import sees_everybody; print(sees_everybody())"
    answers = []
    for prefix in ([], ["unshare", "--user", "--map-root-user"]):
        done = subprocess.run(
            [*prefix, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
        if prefix and "unshare" in done.stderr:
            pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
        answers.append(done.stdout.strip())
    assert answers[1] == "False"
    assert answers[0] == str(sock_diag.sees_everybody())
