"""Client connections that are opened, used once and kept: what a proxy holds for those who idle."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchkit.contestants import ROUTING_HEADER
from benchkit.processes import Failed

_ASK_S = 5.0
_SPARE_FILES = 256


def allow_files(count: int) -> None:
    """Raises the limit of open files of this process, and of those that it starts from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count * 4 + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@contextmanager
def held(port: int, path: str, count: int) -> Iterator[None]:
    """``count`` connections, each after one whole answer; raises Failed if one has none."""
    request = f"GET {path} HTTP/1.1\r\nHost: held\r\n{ROUTING_HEADER}: t1\r\n\r\n".encode()
    with ExitStack() as cleanup:
        for number in range(1, count + 1):
            try:
                one = cleanup.enter_context(socket.create_connection(("127.0.0.1", port), _ASK_S))
                one.sendall(request)
                _read_answer(one)
            except (OSError, ValueError) as error:
                raise Failed(f"connection {number} of {count}: {error}") from error
        yield


def _read_answer(one: socket.socket) -> None:
    """Raises ValueError unless it is a 200 with a length, and all of it is there."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += _more(one)
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.lower().split(b"\r\n")
    if not first.startswith(b"http/1.1 200"):
        raise ValueError(f"answered with {first.decode(errors='replace')}")
    fields = dict(line.split(b":", 1) for line in lines)
    missing = int(fields.get(b"content-length", b"-1")) - len(body)
    while missing > 0:
        missing -= len(_more(one))


def _more(one: socket.socket) -> bytes:
    data = one.recv(65536)
    if not data:
        raise ValueError("closed before the answer was complete")
    return data
