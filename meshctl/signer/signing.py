"""One renewal: limits, record, request, signature, written down. Every outcome is logged and
counted here, whoever it was.
"""

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from meshctl.errors import MeshError
from meshctl.pki import authority
from meshctl.pki.authority import Leaf
from meshctl.pki.issued import IssuedLog
from meshctl.signer import decision
from meshctl.signer.decision import Caller, Code, Refusal
from meshctl.signer.limits import Limits
from meshctl.signer.measures import Measures
from meshctl.signer.settings import SignerSettings
from meshctl.signer.state import InForce
from proxy.core.backoff import TokenBucket

ISSUED_FILE = "issued.jsonl"
MAX_ISSUED_BYTES = 64 * 1024 * 1024
"""Some 300,000 leaves; then the file is renamed to ``issued.jsonl.1``, over the one before."""
REFUSALS_LOGGED_PER_S = 5.0
"""Who is refused decides how often it happens; all of them are counted."""
REFUSALS_LOGGED_AT_ONCE = 50.0

_log = logging.getLogger(__name__)


class Signing:
    """``sign`` may be called by many at once; signatures are made one after the other, beside the
    event loop, because each ends with a write to the disk."""

    def __init__(self, settings: SignerSettings, measures: Measures) -> None:
        self._settings, self._measures = settings, measures
        self._limits = Limits(settings.csr_per_s)
        self._issued = IssuedLog(Path(settings.state_dir) / ISSUED_FILE)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="signing")
        self._said = TokenBucket(rate=REFUSALS_LOGGED_PER_S, burst=REFUSALS_LOGGED_AT_ONCE)

    def admit(self, caller: Caller, in_force: InForce) -> None:
        """Everything that can be decided before the body is read. Raises Refusal."""
        decision.allow(caller, in_force.record)
        self._limits.take(caller, time.monotonic())

    async def sign(self, caller: Caller, csr_pem: bytes, in_force: InForce) -> Leaf:
        """Raises Refusal; then nothing was signed, or what was signed was not handed out."""
        decision.check_request(csr_pem, caller)
        loop = asyncio.get_running_loop()
        leaf = await loop.run_in_executor(self._thread, self._sign, caller, csr_pem, in_force)
        self._measures.signed.value += 1
        _log.info(
            "identity renewed",
            extra={
                "host": caller.host,
                "service": caller.service,
                "serial": leaf.serial,
                "replaces": caller.serial,
                "not_after": f"{leaf.not_after:%Y-%m-%dT%H:%M:%SZ}",
            },
        )
        return leaf

    def refused(self, refusal: Refusal, address: str, caller: Caller | None) -> None:
        """Leaves its trace."""
        self._measures.refused.labels(refusal.code).value += 1
        if self._said.try_take(time.monotonic()):
            who = {"host": caller.host, "service": caller.service} if caller else {}
            _log.warning(
                "renewal refused",
                extra={"code": str(refusal.code), "why": str(refusal), "address": address, **who},
            )

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _sign(self, caller: Caller, csr_pem: bytes, in_force: InForce) -> Leaf:
        now = datetime.now(UTC)
        try:
            leaf = authority.sign_leaf(
                in_force.issuer,
                csr_pem,
                record=in_force.record,
                host=caller.host,
                service=caller.service,
                now=now,
                life_s=self._settings.leaf_life_s,
            )
            self._rotate()
            self._issued.append(leaf, f"{now:%Y-%m-%dT%H:%M:%SZ}")
        except MeshError as error:
            # Caller and request have been looked at: what is left is this signer's own fault.
            raise Refusal(
                Code.NOT_READY, f"this signer cannot sign: {error}", hint="run meshctl deploy"
            ) from error
        return leaf

    def _rotate(self) -> None:
        path = self._issued.path
        with suppress(OSError):  # missing: nothing to rotate; else `append` says what is wrong
            if path.stat().st_size > MAX_ISSUED_BYTES:
                os.replace(path, path.with_name(f"{path.name}.1"))
