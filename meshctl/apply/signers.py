"""Signers on the control hosts: certified over SSH, and told who may have identities.

The key of a signer is made on its host and stays there; the root certifies it. Whoever runs
signers keeps no connection to them open: each call here is complete by itself and harmless to
repeat.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from meshctl import artifacts
from meshctl.apply.gather import read
from meshctl.apply.operate import Remote, file_argument
from meshctl.errors import MeshError
from meshctl.facts.request import layout_of
from meshctl.inventory.model import Host, Inventory
from meshctl.layout import SIGNER_ADMIN_PORT, SIGNER_UNIT
from meshctl.pki.authority import Issuer, certify_signer, pem, serial_text
from meshctl.pki.record import DeployRecord
from meshctl.pki.signers import Certificate
from meshctl.transport import Connector
from proxy.model.names import HostName, TrustDomain

_KEYS_TIMEOUT_S = 30.0
_RELOAD_S = 20.0


def signer_supervisor() -> dict[str, Any]:
    return {"kind": "systemd", "unit": SIGNER_UNIT}


async def certify(
    remote: Remote,
    root: Issuer,
    *,
    trust_bundle: bytes,
    trust_domain: TrustDomain,
    now: datetime,
    keep: Callable[[HostName, Certificate], None] | None = None,
    release: str = "",
) -> Certificate:
    """A new key and certificate for the signer of that host; it uses them from here on.

    ``keep`` is told of the certificate before the host is (``SignerCertificates.keep``).
    ``release``: digest of the release that makes the key; empty: the one that is installed. Raises
    MeshError; the certificate in force before stays in force then, or its successor is installed
    and taken at the signer's next start.
    """
    layout = layout_of(remote.host)
    home = layout.release(release) if release else layout.signer
    keys = (f"{home}/bin/python", "-I", "-m", "meshctl.signer.keys")
    common = ("--state-dir", layout.signer_state, "--trust-domain", trust_domain)
    bundle = artifacts.signer_trust_bundle(remote.host, trust_bundle)
    # Before the certificate: what is installed has to lead to a root that stands in there.
    await remote.operate("write", files=[file_argument(remote.host, bundle)], link=None)
    request = await remote.run(*keys, "request", *common, timeout_s=_KEYS_TIMEOUT_S)
    certificate = certify_signer(root, request, now)
    if keep is not None:
        keep(remote.host.name, certificate)
    await remote.run(
        *keys, "install", *common, "--trust-bundle", bundle.path,
        stdin=pem(certificate),
        timeout_s=_KEYS_TIMEOUT_S,
    )  # fmt: skip
    await _reload(remote, serial=serial_text(certificate))
    return certificate


async def _reload(remote: Remote, **expected: str) -> None:
    """One that does not run takes what there is when it starts."""
    await remote.operate(
        "reload-signer",
        supervisor=signer_supervisor(),
        admin=f"127.0.0.1:{SIGNER_ADMIN_PORT}",
        expected=expected,
        ready_s=_RELOAD_S,
        timeout_s=_RELOAD_S,
    )


async def tell(remote: Remote, record: DeployRecord) -> bool:
    """Give the signer of that host the deploy record; False: there is none. Raises MeshError."""
    file = artifacts.signer_record(remote.host, record)
    result = await remote.operate(
        "tell-signer",
        supervisor=signer_supervisor(),
        admin=f"127.0.0.1:{SIGNER_ADMIN_PORT}",
        file=file_argument(remote.host, file),
        expected={"record_digest": artifacts.signer_digest(file.content)},
        ready_s=_RELOAD_S,
        timeout_s=_RELOAD_S,
    )
    return bool(result["is_there"])


async def tell_all(
    inventory: Inventory,
    hosts: Iterable[Host],
    record: DeployRecord,
    connector: Connector,
    *,
    owner: str,
) -> dict[HostName, MeshError]:
    """Which signers could not be told, and why. Never raises for what happens on a host."""

    async def one(host: Host) -> MeshError | None:
        try:
            facts = await read(inventory, host, connector)
            if facts.seen.python is None or not facts.seen.signer.is_there:
                return None
            remote = Remote(
                host=host,
                transport=await connector.connect(host.name),
                python=facts.seen.python.executable,
                owner=owner,
            )
            try:
                await tell(remote, record)
            finally:
                with contextlib.suppress(MeshError):
                    await remote.operate("unlock")
        except MeshError as error:
            return error
        return None

    wanted = tuple(hosts)
    results = await asyncio.gather(*(one(host) for host in wanted))
    return {
        host.name: error for host, error in zip(wanted, results, strict=True) if error is not None
    }
