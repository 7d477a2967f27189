"""The embedded registry: for one machine, the subset of Consul's HTTP API that the mesh uses.

``state`` (with ``kv`` and ``catalogue``) is what it knows, pure; ``api`` turns calls into answers
in Consul's own forms, pure too; ``server`` has the sockets, the waiting and the clock;
``persistence`` the file. What it does not implement it refuses with a 501 that says so. One
contract suite, ``tests/contract``, runs against it and against a real Consul.
"""

from meshctl.registry.server import Registry

__all__ = ["Registry"]
