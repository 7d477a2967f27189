"""The last good policy and catalogue on disk, so that a proxy starts with Consul gone.

Written at most once a second, atomically, by a thread; a file that cannot be read is set aside and
the proxy starts without it. The policy in it was verified before it was written, and is believed
without its signature: the folder belongs to the proxy alone (0700), as do its keys, and whoever
can write there needs no policy. Its generation is what no published one may fall below.
"""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from proxy.model.codec import Malformed, Value, decode, encode
from proxy.model.endpoint import Catalogue
from proxy.model.names import TrustDomain
from proxy.model.policy import Snapshot

FILE_NAME = "last-good.json"
MAX_BYTES = 32 * 1024 * 1024
WRITE_INTERVAL_S = 1.0
RETRY_S = 10.0

_serial = itertools.count()
_log = logging.getLogger(__name__)


class LastGood(Value, frozen=True, kw_only=True):
    """What is kept."""

    trust_domain: TrustDomain
    snapshot: Snapshot | None
    catalogue: Catalogue


class Store:
    """One file; one writer: the task that runs ``run``."""

    def __init__(self, state_dir: Path, trust_domain: TrustDomain) -> None:
        self._path = state_dir / FILE_NAME
        self._trust_domain = trust_domain
        self._current: Callable[[], LastGood] | None = None
        self._written = b""
        self._is_due = asyncio.Event()

    def load(self) -> LastGood | None:
        """None: there is none, or none that is of use; the latter is logged."""
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("the last good state cannot be read: %s", error)
            return None
        try:
            if len(data) > MAX_BYTES:
                raise Malformed(f"larger than {MAX_BYTES} bytes")
            found = decode(data, LastGood)
        except Malformed as error:
            aside = self._path.with_name(FILE_NAME + ".corrupt")
            with suppress(OSError):
                self._path.replace(aside)
            _log.warning("the last good state is corrupt, kept as %s: %s", aside, error)
            return None
        snapshot = found.snapshot
        if found.trust_domain != self._trust_domain or (
            snapshot is not None and snapshot.trust_domain != self._trust_domain
        ):
            _log.warning("the last good state is of another trust domain: %s", found.trust_domain)
            return None
        self._written = data
        return found

    def changed(self, current: Callable[[], LastGood]) -> None:
        """Something may have changed; ``current`` is asked when it is time to write."""
        self._current = current
        self._is_due.set()

    async def run(self) -> None:
        """Writes until cancelled. A full disk is logged and tried again."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            is_written = await self.flush()
            if not is_written:
                self._is_due.set()
            await asyncio.sleep(WRITE_INTERVAL_S if is_written else RETRY_S)

    async def flush(self) -> bool:
        """Writes now if there is anything new; False if it could not."""
        if self._current is None:
            return True
        data = encode(self._current())
        if data == self._written:
            return True
        try:
            await asyncio.to_thread(_write, self._path, data)
        except OSError as error:
            _log.warning("the last good state cannot be written: %s", error)
            return False
        self._written = data
        return True


def _write(path: Path, data: bytes) -> None:
    """Atomic: a crash leaves the old file or the new one. The mode is final from the start."""
    # A name of its own: a cancelled writer's thread may still be at work on the one before.
    temporary = path.with_name(f".{path.name}.{next(_serial)}.new")
    with suppress(FileNotFoundError):
        temporary.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
