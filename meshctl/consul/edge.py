"""The operator's edge to Consul: publish policy, read what the proxies registered."""

import asyncio
import getpass
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType

from msgspec import structs

from meshctl.consul import history, published, workloads
from meshctl.consul.client import Connection
from meshctl.consul.history import Entry, History
from meshctl.consul.workloads import RegisteredWorkload
from meshctl.errors import Refused, RemoteFailure
from meshctl.pki.signing import Signing
from proxy.core.verification import Unverified
from proxy.model.codec import Malformed
from proxy.model.names import TrustDomain
from proxy.model.policy import Policy, Snapshot
from proxy.model.policy_keys import MAX_GENERATION, PolicyTrust
from proxy.model.registration import SERVICE_PREFIX, SNAPSHOT_KEY
from proxy.model.signed import Kind
from proxy.model.snapshot import MAX_PACKED, pack

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

    async def fetch_snapshot(self, trust: PolicyTrust) -> tuple[Snapshot | None, int]:
        """What is published, and the index to replace it at; None and 0 before the first.

        Raises RemoteFailure if something else is stored in its place, or something that is not
        signed by this mesh; ``publish`` repairs both.
        """
        data, index = await self._read_snapshot()
        if data is None:
            return None, index
        try:
            return published.snapshot(data, trust), index
        except Unverified as error:
            raise RemoteFailure(
                f"the policy stored in Consul under {SNAPSHOT_KEY} is not signed by this mesh: "
                f"{error}",
                hint="proxies keep their last good one; `meshctl deploy` publishes it anew, and "
                "whoever can write there should not: see the ACLs of Consul",
            ) from error
        except Malformed as error:
            raise RemoteFailure(
                f"the policy stored in Consul under {SNAPSHOT_KEY} is broken: {error}",
                hint="proxies keep their last good one; `meshctl deploy` publishes it anew",
            ) from error

    async def publish(
        self, policy: Policy, signing: Signing, *, why: str = "", cut_denied: bool = False
    ) -> Publication:
        """Signs it and puts it in force by check-and-set, unless it is in force already, and
        records it in the history with ``why``.

        What is there is believed only with our signature, and if nothing newer was published from
        here: Consul may have been given an old one back. Generations only go up, also over a wiped
        or broken store: proxies know what they ran.

        Raises Refused if the store belongs to a mesh of another trust domain, or if the policy
        is larger than Consul takes.
        """
        for _ in range(_PUBLISH_ATTEMPTS):
            data, index = await self._read_snapshot()
            current = published.ours(data, signing) if data is not None else None
            if data is not None and current is None:
                self._require_not_anothers(data, signing.trust_domain)
            if (
                current is not None
                and current.generation >= signing.last_published
                and current.policy == policy
                and (current.cut_denied or not cut_denied)
            ):
                return Publication(generation=current.generation, changed=False)
            claimed = 0 if current is not None else await self._claimed(index, signing)
            verified = current.generation if current is not None else 0
            made = Snapshot(
                generation=MAX_GENERATION,
                trust_domain=signing.trust_domain,
                policy=policy,
                cut_denied=cut_denied,
            )
            _require_room(len(pack(made)))  # before a number is taken for it
            made = structs.replace(made, generation=signing.next_generation(verified, claimed))
            sealed = signing.key.seal(Kind.POLICY, pack(made))
            put = self._connection.api.kv.put(SNAPSHOT_KEY, sealed, cas=index)
            if await self._connection.ask(put) is True:
                await self._remember(made, signing, why)
                return Publication(generation=made.generation, changed=True)
        raise RemoteFailure(
            f"the policy in Consul at {self.url} was changed by others {_PUBLISH_ATTEMPTS} times",
            hint="see who else deploys, and run the command again",
        )

    async def history(self, trust: PolicyTrust) -> History:
        """What was published, the newest first."""
        pairs = await self._connection.indexed(
            self._connection.api.kv.get(history.PREFIX, recurse=True)
        )
        return history.read(pairs or [], trust)

    async def _remember(self, snapshot: Snapshot, signing: Signing, why: str) -> None:
        entry = Entry(
            generation=snapshot.generation,
            trust_domain=snapshot.trust_domain,
            policy=snapshot.policy,
            published_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            by=f"{getpass.getuser()}@{socket.gethostname()}",
            why=why,
        )
        kv = self._connection.api.kv
        sealed = signing.key.seal(Kind.HISTORY, pack(entry))
        if len(sealed) <= MAX_PACKED:
            await self._connection.ask(kv.put(history.key(snapshot.generation), sealed))
        keys = await self._connection.indexed(kv.get(history.PREFIX, keys=True))
        for outlived in history.outlived(keys or []):
            await self._connection.ask(kv.delete(outlived))

    def _require_not_anothers(self, data: bytes, trust_domain: TrustDomain) -> None:
        """Raises Refused where another mesh says that this is its own. That is read without its
        signature, whose key we do not have: it decides nothing but that we keep off."""
        found = published.claimed_trust_domain(data)
        if found is not None and found != trust_domain:
            raise Refused(
                f"Consul at {self.url} holds the policy of {found}, not of {trust_domain}",
                hint="one Consul serves one mesh; if that mesh is gone: "
                f"consul kv delete {SNAPSHOT_KEY}",
            )

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

    async def _claimed(self, index: int, signing: Signing) -> int:
        """A generation at least as high as any that was published and is not there any more, if
        Consul tells the truth."""
        acknowledged = (w.acknowledgement for w in await self.workloads())
        known = [a.generation for a in acknowledged if a is not None]
        if signing.last_published == 0:
            # Each publication was one write, so the index of what replaced it is higher.
            known.append(index)
        return max(known, default=0)


def _require_room(packed: int) -> None:
    if packed + published.ENVELOPE_BYTES > MAX_PACKED:
        raise Refused(
            f"the policy has {packed} bytes when compressed, and Consul takes at most "
            f"{MAX_PACKED} with its signature",
            hint="move what services have in common to the defaults",
        )
