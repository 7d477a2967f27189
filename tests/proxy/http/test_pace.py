import socket
from typing import Any

from proxy.http.pace import LEAST_TAKEN_BYTES, PATIENCE_S, Uptake, acked_bytes, queued_bytes
from proxy.http.wire import forget_unsent


class _Output:
    def __init__(self, sock: socket.socket | None, unsent: int = 0) -> None:
        self.unsent, self._sock = unsent, sock

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        assert name == "socket"
        return default if self._sock is None else self._sock


def test_what_the_peers_kernel_has_is_counted_and_what_ours_has_is_not() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
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
        at_first = acked_bytes(_Output(ours))
        assert at_first < 65536 < sent
        assert queued_bytes(_Output(ours)) >= sent - at_first
        taken = 0
        while taken < sent:
            taken += len(theirs.recv(1 << 20))
        assert at_first + 65536 < acked_bytes(_Output(ours)) <= sent + 2  # SYN and FIN count
        assert queued_bytes(_Output(ours)) == 0


def test_without_the_kernels_help_the_buffers_shrinking_is_what_was_taken() -> None:
    closed = socket.socket()
    closed.close()
    for sock in (None, closed):
        output = _Output(sock, 5000)
        assert queued_bytes(output) == 0
        before = acked_bytes(output)
        output.unsent = 2000
        assert acked_bytes(output) - before == 3000


def test_a_peer_is_stuck_if_it_takes_too_little_for_too_long() -> None:
    output, uptake = _Output(None, 100_000), Uptake()
    assert not uptake.is_awaited
    assert not uptake.is_stuck(output, 0.0)
    assert uptake.is_awaited
    assert not uptake.is_stuck(output, PATIENCE_S)
    output.unsent -= LEAST_TAKEN_BYTES
    assert not uptake.is_stuck(output, PATIENCE_S + 1)
    output.unsent -= LEAST_TAKEN_BYTES - 1
    assert uptake.is_stuck(output, 2 * PATIENCE_S + 2)
    assert not uptake.is_stuck(output, 2 * PATIENCE_S + 2, 1)
    uptake.forget()
    assert not uptake.is_awaited
    assert not uptake.is_stuck(output, 9 * PATIENCE_S)


def test_a_socket_that_is_closed_has_nothing_to_forget() -> None:
    closed = socket.socket()
    closed.close()
    for sock in (None, closed):
        forget_unsent(_Output(sock))  # type: ignore[arg-type]  # all of a transport it asks
