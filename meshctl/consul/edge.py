"""The operator's edge to Consul: publish policy, read what the proxies registered."""

import asyncio
import contextlib
import getpass
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType

from meshctl.consul import history, workloads
from meshctl.consul.client import Connection
from meshctl.consul.history import Entry
from meshctl.consul.workloads import RegisteredWorkload
from meshctl.errors import Refused, RemoteFailure
from proxy.model.codec import Malformed, decode
from proxy.model.names import TrustDomain
from proxy.model.policy import Policy, Snapshot
from proxy.model.registration import SERVICE_PREFIX, SNAPSHOT_KEY
from proxy.model.snapshot import MAX_PACKED, pack, plain, unpack

_PUBLISH_ATTEMPTS = 10
_PARALLEL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    generation: int
    """Now in force."""
    changed: bool
    """False: what is there already says the same."""


class ConsulEdge:
    """One Consul agent, or the embedded registry. ``async with``, or ``close``."""

    def __init__(self, url: str, token: str | None = None, *, datacenter: str | None = None):
        """Raises InvalidInput for a URL that is not ``http[s]://host:port``."""
        self._connection = Connection(url, token, datacenter)
        self.url = self._connection.url

    def __repr__(self) -> str:
        return f"ConsulEdge({self.url!r})"

    async def __aenter__(self) -> "ConsulEdge":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    async def leader(self) -> str:
        """The leader's address. Raises RemoteFailure while there is none."""
        leader = await self._connection.ask(self._connection.api.status.leader())
        if not isinstance(leader, str):
            raise self._connection.garbage("its leader is not a string")
        if not leader:
            raise RemoteFailure(
                f"Consul at {self.url} has no leader",
                hint="see that a majority of its servers run: consul operator raft list-peers",
            )
        return leader

    async def fetch_snapshot(self) -> tuple[Snapshot | None, int]:
        """What is published, and the index to replace it at; None and 0 before the first.

        Raises RemoteFailure if something else is stored in its place; ``publish`` repairs that.
        """
        data, index = await self._read_snapshot()
        if data is None:
            return None, index
        try:
            return unpack(data), index
        except Malformed as error:
            raise RemoteFailure(
                f"the policy stored in Consul under {SNAPSHOT_KEY} is broken: {error}",
                hint="proxies keep their last good one; `meshctl deploy` publishes it anew",
            ) from error

    async def publish(
        self, policy: Policy, trust_domain: TrustDomain, *, why: str = ""
    ) -> Publication:
        """Puts ``policy`` in force by check-and-set, unless it is in force already, and records
        it in the history with ``why``.

        Generations only go up, also over a wiped or broken store: proxies know what they ran.
        Raises Refused if the store belongs to a mesh of another trust domain, or if the policy
        is larger than Consul takes.
        """
        for _ in range(_PUBLISH_ATTEMPTS):
            data, index = await self._read_snapshot()
            try:
                current = unpack(data) if data is not None else None
            except Malformed:
                current = None
            if current is not None and current.trust_domain != trust_domain:
                raise Refused(
                    f"Consul at {self.url} holds the policy of {current.trust_domain}, "
                    f"not of {trust_domain}",
                    hint="one Consul serves one mesh; if that mesh is gone: "
                    f"consul kv delete {SNAPSHOT_KEY}",
                )
            if current is not None and current.policy == policy:
                return Publication(generation=current.generation, changed=False)
            latest = current.generation if current is not None else await self._last_known(index)
            snapshot = Snapshot(generation=latest + 1, trust_domain=trust_domain, policy=policy)
            packed = pack(snapshot)
            if len(packed) > MAX_PACKED:
                raise Refused(
                    f"the policy has {len(packed)} bytes when compressed, and Consul takes at "
                    f"most {MAX_PACKED}",
                    hint="move what services have in common to the defaults",
                )
            put = self._connection.api.kv.put(SNAPSHOT_KEY, packed, cas=index)
            if await self._connection.ask(put) is True:
                await self._remember(snapshot, why)
                return Publication(generation=snapshot.generation, changed=True)
        raise RemoteFailure(
            f"the policy in Consul at {self.url} was changed by others {_PUBLISH_ATTEMPTS} times",
            hint="see who else deploys, and run the command again",
        )

    async def history(self) -> list[Entry]:
        """What was published, the newest first; entries that cannot be read are left out."""
        pairs = await self._connection.indexed(
            self._connection.api.kv.get(history.PREFIX, recurse=True)
        )
        entries = []
        for pair in pairs or []:
            with contextlib.suppress(Malformed, AttributeError, TypeError):
                entries.append(decode(plain(pair.get("Value") or b""), Entry))
        return sorted(entries, key=lambda entry: entry.generation, reverse=True)

    async def _remember(self, snapshot: Snapshot, why: str) -> None:
        entry = Entry(
            generation=snapshot.generation,
            trust_domain=snapshot.trust_domain,
            policy=snapshot.policy,
            published_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            by=f"{getpass.getuser()}@{socket.gethostname()}",
            why=why,
        )
        kv = self._connection.api.kv
        packed = pack(entry)
        if len(packed) <= MAX_PACKED:
            await self._connection.ask(kv.put(history.key(snapshot.generation), packed))
        keys = await self._connection.indexed(kv.get(history.PREFIX, keys=True))
        for outlived in sorted(keys or [])[: -history.KEPT]:
            await self._connection.ask(kv.delete(outlived))

    async def workloads(self) -> list[RegisteredWorkload]:
        """All instances of all services of meshes, sorted by service and host.

        Entries under our prefix that no proxy of ours can have made are left out.
        """
        services = await self._connection.indexed(self._connection.api.catalog.services())
        if not isinstance(services, dict):
            raise self._connection.garbage("its list of services is not an object")
        names = sorted(name for name in services if name.startswith(SERVICE_PREFIX))
        at_once = asyncio.Semaphore(_PARALLEL)

        async def fetch(name: str) -> list[RegisteredWorkload]:
            async with at_once:
                entries = await self._connection.indexed(self._connection.api.health.service(name))
            if not isinstance(entries, list):
                raise self._connection.garbage(f"its instances of {name} are not a list")
            try:
                return [w for entry in entries if (w := workloads.parse(name, entry)) is not None]
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise self._connection.garbage(f"an instance of {name} is malformed") from error

        fetched = await asyncio.gather(*map(fetch, names), return_exceptions=True)
        found: list[RegisteredWorkload] = []
        for result in fetched:
            if isinstance(result, BaseException):
                raise result
            found += result
        return sorted(found, key=lambda workload: (workload.service, workload.host))

    async def _read_snapshot(self) -> tuple[bytes | None, int]:
        pair = await self._connection.indexed(self._connection.api.kv.get(SNAPSHOT_KEY))
        if pair is None:
            return None, 0
        if not isinstance(pair, dict) or not isinstance(pair.get("ModifyIndex"), int):
            raise self._connection.garbage("its answer for a key is malformed")
        value = pair.get("Value") or b""
        return value, pair["ModifyIndex"]

    async def _last_known(self, index: int) -> int:
        """A generation at least as high as any that was published and is not there any more."""
        acknowledged = (w.acknowledgement for w in await self.workloads())
        # Each publication was one write, so the index of what replaced it is higher.
        return max([index, *(a.generation for a in acknowledged if a is not None)])
