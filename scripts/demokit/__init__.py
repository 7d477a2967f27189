"""The demo: three hosts' worth of services on one machine, through the real commands.

    web ──> proxy on front ══mTLS══> proxy on back-1 ──> api v1, users
                           ══mTLS══> proxy on back-2 ──> api v2, cache

Each act of ``acts`` states what is to be seen, does it, shows it, and holds or fails. The mesh is
made, deployed and given its policy by the same ``meshctl`` commands that an operator types, over
the local transport; ``load`` judges every count from outside the mesh.

``inventory`` says what runs where, ``services`` runs the applications (``app``), ``stage`` is how
the demo speaks, ``operator`` runs ``meshctl``, ``scene`` is what every act is given.
"""
