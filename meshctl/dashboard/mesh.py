"""The sources of a real mesh: its proxies' counters every second, the slower things beside them."""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from meshctl.apply.policy import through_any
from meshctl.apply.survey import survey
from meshctl.consul.history import Entry, History
from meshctl.dashboard.denials import Denials, DenialsSource
from meshctl.dashboard.past import Past
from meshctl.dashboard.sources import Polled, Source
from meshctl.errors import MeshError
from meshctl.inventory.model import Inventory
from meshctl.policy.diff import Difference, difference
from meshctl.policy.origins import Places
from meshctl.status import MeshStatus
from meshctl.telemetry.collect import collecting
from meshctl.telemetry.rates import view
from meshctl.telemetry.view import document
from meshctl.transport import Connector
from proxy.model.flags import SENTENCE
from proxy.model.names import TrustDomain
from proxy.model.policy import Policy
from proxy.model.policy_keys import PolicyTrust

SLOW_S = 15.0
"""Between two looks at every host's state and at Consul: connections and commands on each."""
_DEADLINE_S = 90.0
_HOUR_S = 3600.0

AtHand = Callable[[], tuple[Policy, Places]]
"""The policy of the file at hand with its lines. Raises InvalidInput."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A mesh, and the way to it."""

    inventory: Inventory
    trust_domain: TrustDomain
    trust: PolicyTrust
    connector: Connector
    at_hand: AtHand
    every_s: float
    window_s: float
    parallel: int


class MeshSources:
    """What ``serving`` takes."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._history = History(entries=(), unverified=())
        self._denials = Denials()
        self.past = Past()

    def sources(self) -> tuple[Source, ...]:
        return (
            self._polled("mesh", self._greeting, every_s=_HOUR_S),
            _Live(self._watched, self.past, self._denials),
            self._polled("status", self._status),
            self._polled("history", self._read_history),
            DenialsSource(
                denials=self._denials,
                hosts=tuple(host for host in self._watched.inventory.hosts if host.services),
                connector=self._watched.connector,
            ),
        )

    def asks(self) -> Mapping[str, Callable[[Mapping[str, str]], Any]]:
        return {"difference": self._difference}

    def _polled(self, topic: str, read: Any, every_s: float = SLOW_S) -> Polled:
        return Polled(topic=topic, every_s=every_s, deadline_s=_DEADLINE_S, read=read)

    async def _greeting(self) -> dict[str, Any]:
        return {
            "trust_domain": self._watched.trust_domain,
            "interval_s": self._watched.every_s,
            "flags": SENTENCE,
        }

    async def _status(self) -> dict[str, Any]:
        own = self._watched
        seen = await survey(
            own.inventory, own.trust_domain, own.connector, trust=own.trust, parallel=own.parallel
        )
        return status_document(seen.status(own.inventory, own.trust_domain, datetime.now(UTC)))

    async def _read_history(self) -> dict[str, Any]:
        own = self._watched
        self._history = await through_any(
            own.inventory, own.connector, lambda edge: edge.history(own.trust)
        )
        self._explain_by(self._history.entries)
        return history_document(self._history, own.inventory)

    def _explain_by(self, entries: tuple[Entry, ...]) -> None:
        """The newest policy, with the lines of the file at hand if it says the same."""
        if not entries:
            return
        published, places = entries[0].policy, Places(None, "")
        try:
            at_hand, written = self._watched.at_hand()
            places = written if at_hand == published else places
        except MeshError:
            pass  # the file only lends its lines
        self._denials.policy, self._denials.places = published, places

    def _difference(self, query: Mapping[str, str]) -> dict[str, Any]:
        old, new = (self._entry(query.get(side, "")) for side in ("from", "to"))
        return difference_document(difference(old.policy, new.policy, self._watched.inventory))

    def _entry(self, generation: str) -> Entry:
        for entry in self._history.entries:
            if str(entry.generation) == generation:
                return entry
        raise MeshError(
            f"generation {generation!r} is not in the history", hint="meshctl config history"
        )


class _Live:
    """The views, one each interval."""

    topic = "view"

    def __init__(self, watched: Watched, past: Past, denials: Denials) -> None:
        self._watched, self._past, self._denials = watched, past, denials

    async def documents(self) -> AsyncGenerator[object, None]:
        own = self._watched
        hosts = tuple(host for host in own.inventory.hosts if host.services)
        protocols: dict[str, str] = {
            each.name: each.protocol for host in hosts for each in host.services
        }
        looking = collecting(
            hosts,
            own.connector,
            every_s=own.every_s,
            window_s=own.window_s,
            parallel=own.parallel,
        )
        async with looking as collector:
            async for looked in collector:
                shown = view(
                    looked.before,
                    looked.stats,
                    at=looked.at,
                    faults={host: str(error) for host, error in looked.faults.items()},
                    protocols=protocols,
                )
                if looked.before:
                    self._past.add(shown)
                self._denials.count(looked.stats, looked.at)
                yield document(shown)


def status_document(status: MeshStatus) -> dict[str, Any]:
    return {
        "generation": status.generation,
        "is_well": status.is_well,
        "hosts": status.hosts,
        "workloads": status.workloads,
        "signers": status.signers,
        "findings": status.findings,
    }


def history_document(history: History, inventory: Inventory) -> dict[str, Any]:
    """Each entry with what it changed against the one before it."""
    entries = history.entries
    older: tuple[Entry | None, ...] = (*entries[1:], None)
    return {
        "unverified": history.unverified,
        "entries": [
            {
                "generation": entry.generation,
                "published_at": entry.published_at,
                "by": entry.by,
                "why": entry.why,
                **difference_document(
                    difference(before.policy if before else None, entry.policy, inventory)
                ),
            }
            for entry, before in zip(entries, older, strict=False)
        ],
    }


def difference_document(found: Difference) -> dict[str, Any]:
    return {"changes": found.changes, "services": found.services, "hosts": found.hosts}
