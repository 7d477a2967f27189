"""The listening sockets of several worker processes: each address bound once for every worker.

SO_REUSEPORT lets the kernel spread new connections over the workers by a hash of the addresses
(docs/decisions/0007). Two of its habits are undone here: a second proxy of the same user would
join in and take a share, so that each address is first bound as a lone listener would; and a dead
process takes its queue of connections with it, so that the main process holds every socket open.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

from proxy.model.settings import Address, Settings
from proxy.net.dataplane import ListenError

BACKLOG = 1024

Place = tuple[str, int]
"""Host and port as the settings have them."""


def usable_cores() -> int:
    """What this process may run on; a quota of CPU time is not looked at."""
    return len(os.sched_getaffinity(0)) or 1


def worker_count(settings: Settings) -> int:
    return settings.workers or usable_cores()


def places(settings: Settings) -> Iterator[tuple[Address, str]]:
    """Every address that the data plane listens on, and who wants it."""
    yield settings.inbound, "the inbound side of the mesh"
    for workload in settings.workloads:
        for upstream in workload.upstreams:
            if upstream.listen is not None:
                yield upstream.listen, f"{workload.service} for its upstream {upstream.service}"
        if workload.outbound is not None:
            yield workload.outbound, f"{workload.service} for all its upstreams"
        if workload.plaintext is not None:
            yield workload.plaintext, f"{workload.service} for callers without an identity"


class Sockets:
    """None for a single worker: its data plane binds its own."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self.workers = workers
        self._settings = settings
        self._of: list[dict[Place, socket.socket]] = [{} for _ in range(workers)]

    def bind(self) -> None:
        """All, listening; or none, and raises ListenError."""
        if self.workers == 1:
            return
        with ExitStack() as undo:
            undo.callback(self.close)
            for address, who in places(self._settings):
                try:
                    self._bind(address)
                except (OSError, OverflowError) as error:
                    reason = getattr(error, "strerror", None) or str(error)
                    raise ListenError(
                        f"cannot listen on {address.host}:{address.port}, wanted by {who}: {reason}"
                    ) from error
            undo.pop_all()

    def of(self, worker: int) -> dict[Place, socket.socket]:
        """The worker's own, still held here; empty until they are bound."""
        return self._of[worker]

    def copies(self, worker: int) -> dict[Place, socket.socket]:
        """For this process to serve and to close. They share the worker's queues."""
        return {place: each.dup() for place, each in self._of[worker].items()}

    def close(self) -> None:
        """Whoever still serves a copy goes on; a queue that nobody serves is reset."""
        for own in self._of:
            for each in own.values():
                each.close()
            own.clear()

    def _bind(self, address: Address) -> None:
        family, kind, _, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with _socket(family, kind) as probe:
            probe.bind(where)  # fails if anybody listens there, sharing or not
            where = probe.getsockname()
        for own in self._of:
            own[address.host, address.port] = each = _socket(family, kind)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(where)
            each.listen(BACKLOG)


def _socket(family: int, kind: int) -> socket.socket:
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
