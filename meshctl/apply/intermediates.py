"""New intermediate certificates for the signers, one signer after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from meshctl.apply.members import members
from meshctl.apply.placed import reached
from meshctl.apply.root_rotation import certify
from meshctl.errors import MeshError
from meshctl.inventory.model import Inventory
from meshctl.pki.authority import serial_text
from meshctl.pki.passphrase import Source
from meshctl.pki.store import CaStore
from meshctl.state import StateDir
from meshctl.transport import Connector
from proxy.model.names import HostName


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedSigner:
    host: HostName
    serial: str
    not_after: datetime


async def certify_signers(
    inventory: Inventory,
    state: StateDir,
    ca: CaStore,
    connector: Connector,
    *,
    passphrase: Source,
    owner: str,
    now: datetime,
    say: Callable[[str], None],
) -> tuple[CertifiedSigner, ...]:
    """A new key and certificate for each. One after the other, so that the others renew meanwhile;
    raises MeshError at the first that fails."""
    found = [
        member for member in members(inventory, state.read_record()).deployed if member.is_signer
    ]
    if not found:
        return ()
    root = ca.unlock_root(passphrase)
    done = []
    for member in found:
        name = member.host.name
        try:
            async with reached(member.host, connector, owner) as there:
                certificate = await certify(there, ca, root, now)
        except MeshError as error:
            raise MeshError(
                f"the signer on {name} was not certified anew: {error}",
                hint="correct that, then run meshctl certs rotate intermediates again",
            ) from error
        if certificate is None:
            say(f"{name} has no signer yet: meshctl deploy brings it there")
            continue
        say(f"the signer on {name} has a new key and certificate")
        done.append(
            CertifiedSigner(
                host=name,
                serial=serial_text(certificate),
                not_after=certificate.not_valid_after_utc,
            )
        )
    return tuple(done)
