"""Hosts with systemd and sshd on one machine, for tests against the real thing.

``place`` names everything, ``sources`` finds the package mirror, ``image`` builds the base once,
``network`` makes namespaces, ``cgroups`` owns the processes, ``machine`` boots one host, ``record``
remembers what runs, ``lab`` composes them, ``cli`` speaks. Standard library only, because
``scripts/lab`` must run before anything is installed.
"""
