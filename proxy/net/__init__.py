"""Everything that touches the world: listeners, pools, TLS, Consul, files, systemd.

``server`` wires it. The data plane (``dataplane``) gets immutable route tables and identities; the
control side (``watcher``, ``registrar``, ``store``, ``health``, ``admin``) makes and reports them.
Neither waits for the other.
"""
