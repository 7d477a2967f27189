"""One identity for one workload: the key is made on its host, the CA here decides and signs."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from meshctl.apply.operate import Remote
from meshctl.facts.request import layout_of
from meshctl.pki.authority import LEAF_LIFE_S
from meshctl.pki.store import Signer
from meshctl.state import DeployRecord
from proxy.model.names import ServiceName, TrustDomain

_KEYS_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """What signing takes: an unlocked CA and what it decides by."""

    signer: Signer
    record: DeployRecord
    trust_domain: TrustDomain
    now: Callable[[], datetime]
    life_s: float = LEAF_LIFE_S
    """``Inventory.leaf_life_s``: as long as befits who renews the leaf."""


async def issue(
    issuance: Issuance, remote: Remote, service: ServiceName, *, release: str, config: str
) -> None:
    """``release`` and ``config``: digests of what the leaf is made and verified with, which
    ``current`` may not point to yet. Raises MeshError; the identity in force is untouched then.
    """
    layout = layout_of(remote.host)
    python = f"{layout.release(release)}/bin/python"
    common = (
        "--state-dir", layout.state,
        "--service", service,
        "--trust-domain", issuance.trust_domain,
    )  # fmt: skip
    request = await remote.run(
        python, "-I", "-m", "proxy.keys", "request", *common, timeout_s=_KEYS_TIMEOUT_S
    )
    leaf = issuance.signer.issue(
        request,
        record=issuance.record,
        host=remote.host.name,
        service=service,
        now=issuance.now(),
        life_s=issuance.life_s,
    )
    await remote.run(
        python, "-I", "-m", "proxy.keys", "install", *common,
        "--trust-bundle", f"{layout.config(config)}/trust-bundle.pem",
        stdin=leaf.chain_pem,
        timeout_s=_KEYS_TIMEOUT_S,
    )  # fmt: skip
