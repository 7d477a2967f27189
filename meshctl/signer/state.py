"""The files that a signer lives on, read together into one value, and again on reload.

A reload that fails changes nothing: what was in force stays, and the reason is shown.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from meshctl import durable
from meshctl.errors import MeshError
from meshctl.pki.authority import Issuer
from meshctl.pki.record import DeployRecord
from meshctl.signer import keys, serving
from meshctl.signer.serving import Serving
from meshctl.signer.settings import CaStatus, SignerSettings
from proxy.keyfiles import Refused
from proxy.model import codec

MAX_RECORD_BYTES = 16 * 1024 * 1024
MAX_BUNDLE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """All that a request is judged by: one value, so that none sees half of a reload."""

    issuer: Issuer
    status: CaStatus
    record: DeployRecord
    record_digest: str
    bundle: bytes
    bundle_digest: str
    serving: Serving


def load(settings: SignerSettings, now: datetime) -> InForce:
    """Raises Refused with one sentence that names the file."""
    bundle = _read(settings.trust_bundle, MAX_BUNDLE_BYTES)
    recorded = _read(settings.record, MAX_RECORD_BYTES)
    try:
        record = codec.decode(recorded, DeployRecord)
    except codec.Malformed as error:
        raise Refused(f"{settings.record} is not a deploy record: {error}") from error
    issuer = keys.load(Path(settings.state_dir), settings.trust_domain)
    return InForce(
        issuer=issuer,
        status=keys.status_of(issuer.certificate),
        record=record,
        record_digest=codec.digest(recorded),
        bundle=bundle,
        bundle_digest=codec.digest(bundle),
        serving=serving.make(issuer, settings.trust_domain, bundle, now),
    )


def renewed(before: InForce, settings: SignerSettings, now: datetime) -> InForce:
    """The same with a new certificate of the signer's own. Raises Refused."""
    made = serving.make(before.issuer, settings.trust_domain, before.bundle, now)
    return replace(before, serving=made)


def _read(path: str, limit: int) -> bytes:
    try:
        return durable.read(Path(path), limit=limit)
    except FileNotFoundError as error:
        raise Refused(f"{path} does not exist: run meshctl deploy") from error
    except MeshError as error:
        raise Refused(str(error)) from error
