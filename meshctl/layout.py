"""Where things live on a host. One place, so that plan, templates and uninstall agree.

With ``root`` empty these are the paths of a real host; the local transport (the demo) puts
everything below a directory of its own.
"""

from dataclasses import dataclass

from proxy.model.names import ServiceName

PROXY_UNIT = "meshctl-proxy.service"
CONSUL_UNIT = "meshctl-consul.service"
SIGNER_UNIT = "meshctl-signer.service"
PROXY_USER = "meshctl"
CONSUL_USER = "meshctl-consul"
SIGNER_USER = "meshctl-signer"
SIGNER_ADMIN_PORT = 15009
"""Loopback only."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Absolute paths on one host."""

    root: str = ""

    @property
    def prefix(self) -> str:
        return f"{self.root}/opt/meshctl"

    @property
    def wheels(self) -> str:
        """``<wheels>/<file name>``: pushed once, shared by releases; verified by SHA-256."""
        return f"{self.prefix}/wheels"

    def release(self, digest: str) -> str:
        """A private virtual environment, complete once its ``.complete`` file exists."""
        return f"{self.prefix}/releases/{digest}"

    def config(self, digest: str) -> str:
        """``proxy.json``, ``trust-bundle.pem`` and ``release`` -> the release it runs with."""
        return f"{self.prefix}/configs/{digest}"

    @property
    def current(self) -> str:
        """Symbolic link to ``config(<digest>)``: code and configuration switch as one."""
        return f"{self.prefix}/current"

    @property
    def previous(self) -> str:
        """Symbolic link to the configuration that ran before; kept for going back."""
        return f"{self.prefix}/previous"

    @property
    def python(self) -> str:
        return f"{self.current}/release/bin/python"

    @property
    def settings(self) -> str:
        return f"{self.current}/proxy.json"

    @property
    def consul_dir(self) -> str:
        """``<consul_dir>/<sha256>/consul`` for managed Consul."""
        return f"{self.prefix}/consul"

    @property
    def etc(self) -> str:
        return f"{self.root}/etc/meshctl"

    @property
    def consul_token(self) -> str:
        """What the proxy shows to a managed Consul."""
        return f"{self.etc}/consul.token"

    @property
    def consul_ca(self) -> str:
        """By which an agent knows the servers of a managed Consul; public."""
        return f"{self.etc}/consul-ca.pem"

    @property
    def consul_tls(self) -> str:
        """A server's ``current/{key.pem,chain.pem}``; ``current`` is switched atomically."""
        return f"{self.etc}/consul-tls"

    @property
    def consul_certificate(self) -> str:
        return f"{self.consul_tls}/current/chain.pem"

    @property
    def consul_key(self) -> str:
        return f"{self.consul_tls}/current/key.pem"

    @property
    def state(self) -> str:
        return f"{self.root}/var/lib/meshctl"

    @property
    def logs(self) -> str:
        """Access logs, where they are files."""
        return f"{self.root}/var/log/meshctl"

    @property
    def access_log(self) -> str:
        """With ``.1`` (the newest rotated one) and so on."""
        return f"{self.logs}/access.log"

    @property
    def consul_state(self) -> str:
        return f"{self.root}/var/lib/meshctl-consul"

    @property
    def signer(self) -> str:
        """Symbolic link to the release that the signer runs: ``release(<digest>)``."""
        return f"{self.prefix}/signer"

    @property
    def signer_etc(self) -> str:
        """``signer.json``, ``trust-bundle.pem``, ``record.json``: written by a deploy only."""
        return f"{self.etc}/signer"

    @property
    def signer_state(self) -> str:
        """The signer's key and certificate, and what it signed."""
        return f"{self.root}/var/lib/meshctl-signer"

    def identity(self, service: ServiceName) -> str:
        """``<identity>/current/{key.pem,chain.pem}``; ``current`` is switched atomically."""
        return f"{self.state}/identities/{service}"

    @property
    def units(self) -> str:
        return f"{self.root}/etc/systemd/system"
