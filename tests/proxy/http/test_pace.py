import socket
from typing import Any

from proxy.http.pace import untaken_bytes


class _Output:
    def __init__(self, unsent: int, sock: socket.socket | None) -> None:
        self._unsent, self._sock = unsent, sock

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert name == "socket"
        return default if self._sock is None else self._sock


def test_what_the_kernel_holds_counts_until_the_peer_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        ours.setblocking(False)
        sent = 0
        try:
            while True:
                sent += ours.send(bytes(65536))
        except BlockingIOError:
            pass
        before = untaken_bytes(_Output(1000, ours))
        assert 1000 < before <= 1000 + sent
        assert untaken_bytes(_Output(0, ours)) == 0  # nothing waits for it
        taken = 0
        while taken < sent:
            taken += len(theirs.recv(1 << 20))
        assert untaken_bytes(_Output(1000, ours)) < before


def test_without_a_socket_the_buffer_is_all_there_is() -> None:
    assert untaken_bytes(_Output(1000, None)) == 1000
    closed = socket.socket()
    closed.close()
    assert untaken_bytes(_Output(1000, closed)) == 1000
