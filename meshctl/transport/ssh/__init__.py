"""Hosts over SSH, on asyncssh.

``connector`` opens connections and decides whom to trust, ``transport`` runs commands on one,
``channel`` is a single command, ``hostkeys`` the known-hosts file, ``credentials`` the operator's
keys. asyncssh is imported nowhere else.
"""

from meshctl.transport.ssh.connector import SshConnector, scan_host_key
from meshctl.transport.ssh.hostkeys import HostKey, trust
from meshctl.transport.ssh.transport import SshTransport

__all__ = ["HostKey", "SshConnector", "SshTransport", "scan_host_key", "trust"]
