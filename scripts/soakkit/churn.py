"""Hosts that come and go in the registry: what is kept for an endpoint must go with it."""

import random
from collections import deque

from benchkit import registry
from benchkit.contestants import Ports

from soakkit.mesh import api_endpoint

_AT_ONCE = 5


class Churn:
    def __init__(self, ports: Ports, rng: random.Random) -> None:
        self._ports, self._rng = ports, rng
        self._hosts: deque[str] = deque()

    def turn(self) -> None:
        """One more host that was never there, and at most ``_AT_ONCE``. Blocks."""
        host = f"host-{self._rng.getrandbits(40):010x}"
        registry.register(self._ports.registry, api_endpoint(host, self._ports))
        self._hosts.append(host)
        if len(self._hosts) > _AT_ONCE:
            gone = f"/v1/agent/service/deregister/mesh-api-{self._hosts.popleft()}"
            registry.ask(self._ports.registry, "PUT", gone)
