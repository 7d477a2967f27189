"""What one host trusts: given to it over SSH, and asked of it on the wire.

A proxy reads its trust bundle again on a reload, for new connections. What it then believes is not
taken from a file or its own words: somebody dials it with a certificate and sees.
"""

import base64
import ssl
from collections.abc import Sequence

from meshctl import artifacts
from meshctl.apply.operate import Remote
from meshctl.apply.placed import Reached
from meshctl.artifacts import TRUST_BUNDLE_FILE, RenderedFile
from meshctl.errors import MeshError
from meshctl.facts.request import admin_query, layout_of, uses_systemd
from meshctl.inventory.model import Host
from meshctl.layout import SIGNER_ADMIN_PORT, SIGNER_UNIT
from meshctl.pki.served import Served, fetch_served, probe_trust
from meshctl.transport import Transport
from proxy.model.names import (
    ServiceName,
    TrustDomain,
    server_name,
    signer_id,
    signer_server_name,
)
from proxy.model.settings import Address

_RELOAD_S = 30.0
_SIGNER_RELOAD_S = 20.0


async def give_bundle(reached: Reached, bundle: bytes) -> None:
    """``bundle`` (PEM) to the proxy and to the signer, as far as there is one, in force for new
    connections when it returns. Raises MeshError."""
    host, layout = reached.host, layout_of(reached.host)
    files = [
        # Those for going back too: an old bundle would lock the host out after a rollback.
        RenderedFile(path=f"{layout.config(config)}/{TRUST_BUNDLE_FILE}", content=bundle)
        for config in reached.placed.configs
    ]
    if reached.placed.signer:
        files.append(artifacts.signer_trust_bundle(host, bundle))
    await reached.remote.operate("write", files=[_file(host, file) for file in files], link=None)
    if reached.placed.config:
        await reload_proxy(reached.remote)
    if reached.placed.signer:
        await reload_signer(reached.remote, bundle_digest=artifacts.signer_digest(bundle))


async def write_bundle(reached: Reached, bundle: bytes) -> None:
    """For a proxy that may not run: taken when it starts."""
    host, layout = reached.host, layout_of(reached.host)
    files = [
        RenderedFile(path=f"{layout.config(config)}/{TRUST_BUNDLE_FILE}", content=bundle)
        for config in reached.placed.configs
    ]
    await reached.remote.operate("write", files=[_file(host, file) for file in files], link=None)


async def reload_proxy(remote: Remote) -> None:
    """Raises RemoteFailure when it does not run, or no identity could be taken."""
    # Over HTTP rather than by a signal: the answer comes once the new identities are in force.
    await remote.run(*admin_query(remote.host, "POST", "/reload"), timeout_s=_RELOAD_S)


async def reload_signer(remote: Remote, **expected: str) -> None:
    """``expected``: what its status has to say afterwards. Raises MeshError."""
    await remote.operate(
        "reload-signer",
        supervisor={"kind": "systemd", "unit": SIGNER_UNIT},
        admin=f"127.0.0.1:{SIGNER_ADMIN_PORT}",
        expected=expected,
        ready_s=_SIGNER_RELOAD_S,
        timeout_s=_SIGNER_RELOAD_S,
    )


async def require_trust(
    host: Host,
    transport: Transport,
    trust_domain: TrustDomain,
    services: Sequence[ServiceName],
    probe: ssl.SSLContext,
    *,
    is_trusted: bool,
) -> None:
    """Every workload of ``host`` believes what ``probe`` shows, or none does. Raises MeshError."""
    async with transport.tunnel(inbound_of(host)) as local:
        for service in services:
            name = server_name(trust_domain, service)
            if await probe_trust(local, name, probe) is not is_trusted:
                verdict = "does not trust the new root" if is_trusted else "trusts the old root"
                raise MeshError(
                    f"{service} on {host.name} {verdict}, although its proxy has the trust bundle",
                    hint=f"on {host.name}: journalctl -u meshctl-proxy",
                )


async def look(
    host: Host,
    transport: Transport,
    trust_domain: TrustDomain,
    service: ServiceName,
    trust_bundle: bytes | None,
) -> Served:
    """The leaf that ``host`` serves for ``service``, seen through the transport, so that no
    firewall between the operator and the mesh port matters."""
    async with transport.tunnel(inbound_of(host)) as local:
        return await fetch_served(
            local, server_name(trust_domain, service), trust_bundle=trust_bundle
        )


async def look_at_signer(
    host: Host, transport: Transport, trust_domain: TrustDomain, port: int, trust_bundle: bytes
) -> Served:
    """The certificate of the signer on ``host``; raises MeshError when it does not verify."""
    target = Address(host=inbound_of(host).host, port=port)
    async with transport.tunnel(target) as local:
        served = await fetch_served(
            local, signer_server_name(trust_domain), trust_bundle=trust_bundle
        )
    if served.identities != (signer_id(trust_domain),):
        raise MeshError(f"what answers on {host.name} at port {port} is not a signer of this mesh")
    return served


def inbound_of(host: Host) -> Address:
    """The mesh port as the host itself reaches it."""
    bind = host.proxy.inbound_address
    return Address(
        host="127.0.0.1" if bind in ("0.0.0.0", "::") else bind,  # noqa: S104
        port=host.proxy.inbound_port,
    )


def _file(host: Host, file: RenderedFile) -> dict[str, object]:
    is_owned = uses_systemd(host)
    return {
        "path": file.path,
        "content": base64.b64encode(file.content).decode(),
        "mode": file.mode,
        "owner": file.owner if is_owned else "",
        "group": file.group if is_owned else "",
    }
