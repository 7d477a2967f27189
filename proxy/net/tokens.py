"""Tokens verified for the intentions that ask for them, and the keys for it kept fresh.

One for each process. Providers come and go with the policy; while there are none, nothing is
imported, fetched or remembered. A request is never held up: a key id that is not known has the
keys asked for at once (but not more often than ``APART_S``), and this request is refused. Where a
source fails, the last good keys stay in force, as an issuer that is away must not end the service.
"""

import asyncio
import contextlib
import importlib
import logging
import random
from collections.abc import Callable, Mapping
from hashlib import sha256
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from proxy.core.authorization import Claims, Untrusted
from proxy.core.metrics import Metrics
from proxy.model.authorization import TokenProvider
from proxy.net import jwks
from proxy.net.jwks import Mark, NoKeys

if TYPE_CHECKING:
    from proxy.net.signatures import KeySet

APART_S = 10.0
"""Between two fetches, however many unknown keys tokens name."""
LOOK_S = 1.0
"""Between two looks at a file."""
MAX_WAIT_S: Final = 60.0
"""Between two tries while a source fails."""
MAX_REMEMBERED: Final = 2000
"""Verified tokens of one provider: at most some 10 KiB each, mostly 1."""

_log = logging.getLogger(__name__)


class TokenVerifier:
    """``verify`` is the data plane's; ``apply`` and ``close`` are for who runs it."""

    def __init__(self, metrics: Metrics, rng: random.Random | None = None) -> None:
        self._rng = rng or random.SystemRandom()
        self._metrics = _Metrics(metrics)
        self._providers: dict[str, _Provider] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._make: Callable[[bytes], KeySet] | None = None
        """None: the library is not there yet."""
        self.is_serving = False
        """While false, nobody is held up by what takes time."""

    def apply(self, providers: Mapping[str, TokenProvider]) -> None:
        """Those that are new get their keys; those that are as before keep theirs."""
        before, self._providers = self._providers, {}
        for name, settings in providers.items():
            known = before.pop(name, None)
            if known is not None and known.settings == settings:
                self._providers[name] = known
                continue
            if known is not None:
                known.stop()
            self._providers[name] = _Provider(name, settings, self._metrics)
        for name, gone in before.items():
            gone.stop()
            self._metrics.forget(name)
        if self._make is not None:
            self._begin(self._make)
        elif self._providers and not self._tasks:
            if self.is_serving:
                self._spawn("tokens", self._load())
            else:
                self._begin(_key_set())

    def verify(self, provider: str, token: bytes) -> Claims | Untrusted:
        found = self._providers.get(provider)
        if found is None:
            return Untrusted("unavailable", "tokens of its provider cannot be verified here")
        claims = found.verify(token)
        if isinstance(claims, Untrusted):
            self._metrics.refused(provider, claims.reason)
        return claims

    def describe(self) -> dict[str, dict[str, object]]:
        """For people."""
        return {name: each.describe() for name, each in self._providers.items()}

    def close(self) -> None:
        for each in self._providers.values():
            each.stop()
        self._providers = {}
        for task in self._tasks:
            task.cancel()

    async def _load(self) -> None:
        # A tenth of a second, most of it without holding up the loop.
        self._begin(await asyncio.to_thread(_key_set))

    def _begin(self, make: Callable[[bytes], "KeySet"]) -> None:
        self._make = make
        for each in self._providers.values():
            if each.make is None:
                each.make = make
                if each.settings.jwks_url:
                    each.task = self._spawn(f"jwks-{each.name}", each.follow(self._rng))
                else:
                    each.look()

    def _spawn(self, name: str, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Metrics:
    def __init__(self, metrics: Metrics) -> None:
        self._keys = metrics.gauge(
            "mesh_jwks_keys",
            "Public keys in force for a provider's tokens.",
            ("provider",),
            combine="max",
        )
        self._failures = metrics.counter(
            "mesh_jwks_failures_total",
            "Times that a provider's keys could not be read or fetched; the last good ones stay.",
            ("provider",),
        )
        self._refused = metrics.counter(
            "mesh_tokens_refused_total", "Tokens not accepted, by why.", ("provider", "reason")
        )

    def keys(self, provider: str, count: int) -> None:
        self._keys.labels(provider).value = count

    def failed(self, provider: str) -> None:
        self._failures.labels(provider).value += 1

    def refused(self, provider: str, reason: str) -> None:
        self._refused.labels(provider, reason).value += 1

    def forget(self, provider: str) -> None:
        self._keys.remove(provider)


class _Provider:
    """The keys of one provider, and what was verified with them."""

    def __init__(self, name: str, settings: TokenProvider, metrics: _Metrics) -> None:
        self.name, self.settings, self._metrics = name, settings, metrics
        self.make: Callable[[bytes], KeySet] | None = None
        self.task: asyncio.Task[None] | None = None
        self._keys: KeySet | None = None
        self._data = b""
        self._taken_at = 0.0
        self._error = "they were not asked for yet"
        self._mark: Mark | None = None
        self._looked = -LOOK_S
        self._wanted = asyncio.Event()
        self._verified: dict[bytes, tuple[Claims, float]] = {}
        """By a token's digest; with the Unix time at which it is no longer valid. The oldest
        first."""
        metrics.keys(name, 0)

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def verify(self, token: bytes) -> Claims | Untrusted:
        if self.settings.jwks_file and monotonic() - self._looked >= LOOK_S:
            self.look()
        keys = self._keys
        if keys is None:
            return Untrusted("no-keys", "there are no keys yet to verify the token with")
        digest = sha256(token).digest()
        known = self._verified.get(digest)
        if known is not None:
            if time() < known[1]:
                return known[0]
            del self._verified[digest]
        claims = keys.verify(token, self.settings)
        if isinstance(claims, Untrusted):
            if claims.reason == "unknown-key":
                self._wanted.set()
            return claims
        if len(self._verified) >= MAX_REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[digest] = claims, float(claims["exp"]) + self.settings.leeway_s
        return claims

    def look(self) -> None:
        """At the file, and into it if it has changed."""
        self._looked = monotonic()
        if self.make is None:
            return
        try:
            mark = jwks.mark_of(self.settings.jwks_file)
            if mark == self._mark:
                return
            self._take(jwks.read(self.settings.jwks_file))
            self._mark = mark
        except NoKeys as error:
            self._failed(str(error))

    async def follow(self, rng: random.Random) -> None:
        """Fetches for as long as it lives."""
        failures = 0
        while True:
            self._wanted.clear()
            try:
                self._take(await jwks.fetch(self.settings.jwks_url))
                failures = 0
                wait_s = self.settings.refresh_s * rng.uniform(0.9, 1.0)
            except NoKeys as error:
                self._failed(str(error))
                wait_s = min(2.0**failures, MAX_WAIT_S) * rng.uniform(0.5, 1.0)
                failures = min(failures + 1, 10)
            except Exception:  # a defect, but no reason to never ask again
                _log.exception("token keys not refreshed", extra={"provider": self.name})
                self._failed("it failed; see the log")
                wait_s = MAX_WAIT_S
            await asyncio.sleep(min(APART_S, wait_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wait_s - APART_S)):
                    await self._wanted.wait()

    def _take(self, data: bytes) -> None:
        """Raises NoKeys."""
        assert self.make is not None
        if self._keys is None or data != self._data:
            self._keys = self.make(data)
            self._data = data
            self._verified.clear()  # with a key that may not be there any more
            self._metrics.keys(self.name, len(self._keys.ids))
            _log.info("token keys in force", extra={"provider": self.name, "ids": self._keys.ids})
        self._taken_at, self._error = time(), ""

    def _failed(self, error: str) -> None:
        self._metrics.failed(self.name)
        if error != self._error:  # a source that stays away fails in the same way each time
            extra = {"provider": self.name, "error": error, "keeps": self._keys is not None}
            _log.warning("token keys not refreshed", extra=extra)
        self._error = error

    def describe(self) -> dict[str, object]:
        return {
            "issuer": self.settings.issuer,
            "source": self.settings.jwks_url or self.settings.jwks_file,
            "key_ids": self._keys.ids if self._keys is not None else (),
            "taken_at": self._taken_at,
            "error": self._error,
        }


def _key_set() -> "Callable[[bytes], KeySet]":
    try:
        made: Callable[[bytes], KeySet] = importlib.import_module("proxy.net.signatures").KeySet
    except Exception as error:  # a library that is not there, or is broken
        _log.exception("tokens cannot be verified on this host")
        reason = f"tokens cannot be verified on this host: {error}"

        def no_keys(data: bytes) -> "KeySet":
            raise NoKeys(reason)

        return no_keys
    return made
