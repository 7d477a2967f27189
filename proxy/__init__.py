"""The host side of the mesh: one process per host that carries every workload of that host.

Layers, each importing only those above it (``tests/test_architecture.py`` asserts it):

``proxy.model``
    The shared vocabulary: names, settings, policy, endpoints, response flags, wire codec.
    Values only. The operator's side (``meshctl``) speaks the same vocabulary.
``proxy.core``
    Decisions without I/O: which endpoint, whether to retry, when to back off. ``now`` and
    ``rng`` are arguments.
``proxy.http``
    HTTP/1.1 on the wire: two parsers, one exchange between them.
``proxy.net``
    Everything that owns a socket, a file or a task: listeners, pools, TLS contexts, the TCP
    relay, the admin server, Consul, the application's health.

Nothing here imports ``meshctl``; a host has only what the ``host`` extra names.
"""

__version__ = "0.1.0"
