"""What the proxy says of itself: the admin port's answers and the gauges of the control side."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from time import monotonic, time

import msgspec

from proxy import __version__
from proxy.core.discovery import ServiceView
from proxy.core.metrics import Metrics
from proxy.core.routing.paths import decode
from proxy.model.names import ServiceName
from proxy.model.recent import SeenRequests, Wanted
from proxy.model.settings import Settings, Upstream, Workload
from proxy.model.status import (
    IdentityStatus,
    ProxyStatus,
    RenewalStatus,
    State,
    UpstreamStatus,
    WorkloadStatus,
)
from proxy.net.admin import Answer, Handler, Route, json_answer, text_answer
from proxy.net.cluster import Cluster
from proxy.net.consul import ConsulError
from proxy.net.exposure import Exposure
from proxy.net.health import HealthChecker
from proxy.net.pulse import lag_gauge
from proxy.net.recent import Recent
from proxy.net.registrar import Registrar
from proxy.net.watcher import Watcher
from proxy.net.workers import Workers

Identities = Mapping[ServiceName, IdentityStatus | None]
Reloaded = Mapping[ServiceName, IdentityStatus | str]


class Report:
    """Reads the other parts when asked; holds nothing itself."""

    def __init__(
        self,
        settings: Settings,
        *,
        metrics: Metrics,
        watcher: Watcher,
        registrar: Registrar,
        checkers: Mapping[ServiceName, HealthChecker],
        workers: Workers,
        recent: Recent,
        clusters: Callable[[], Iterable[Cluster]],
        state: Callable[[], State],
        generation: Callable[[], int],
        identities: Callable[[], Identities],
        user_problems: Callable[[], Mapping[ServiceName, str]],
        reload: Callable[[], Awaitable[Reloaded]],
        renewal: Callable[[ServiceName], RenewalStatus] | None = None,
    ) -> None:
        self._settings, self._workers = settings, workers
        self._exposure = Exposure(metrics, workers)
        self._generation, self._clusters = generation, clusters
        self._watcher, self._registrar, self._checkers = watcher, registrar, checkers
        self._state, self._identities, self._reload = state, identities, reload
        self._renewal = renewal
        self._user_problems, self._recent = user_problems, recent
        self._started_at = rfc3339(datetime.now(UTC))
        self._started = monotonic()

    def routes(self) -> dict[str, Route]:
        get: dict[str, Callable[[], Answer]] = {
            "/live": lambda: text_answer("live"),
            "/ready": self._ready,
            "/status": lambda: json_answer(self.status()),
            "/config": self._config,
            "/endpoints": self._endpoints,
            "/clusters": lambda: json_answer([each.describe() for each in self._clusters()]),
        }
        return {
            **{
                # Who may call whom, and by which paths, is nothing for every user of the host.
                path: Route(method="GET", handler=_async(answer), is_private=path == "/config")
                for path, answer in get.items()
            },
            "/metrics": Route(method="GET", handler=self.scraped, accepting=self.scraped),
            "/stats": Route(method="GET", handler=self._stats, is_private=True),
            "/requests": Route(
                method="GET", handler=self._requests, is_private=True, below=self._requests
            ),
            "/ended": Route(method="GET", handler=self._ended, is_private=True, below=self._ended),
            "/reload": Route(method="POST", handler=self._reloaded),
            "/deregister": Route(method="POST", handler=self._deregister),
        }

    def status(self) -> ProxyStatus:
        settings, watcher = self._settings, self._watcher
        identities = self._identities()
        user_problems = self._user_problems()
        errors = [text for text in (watcher.error, self._registrar.error) if text]
        return ProxyStatus(
            host=settings.host,
            version=__version__,
            state=self._state(),
            release=settings.release,
            config=settings.config,
            generation=self._generation(),
            policy_source=watcher.policy_source,
            refused=watcher.refused,
            registry_error="; ".join(errors),
            is_announced=self._registrar.is_announced,
            started_at=self._started_at,
            workloads=tuple(
                WorkloadStatus(
                    service=workload.service,
                    version=workload.version,
                    protocol=workload.protocol,
                    is_healthy=self._checkers[workload.service].health.is_healthy,
                    health_detail=self._checkers[workload.service].health.detail,
                    identity=identities.get(workload.service),
                    renewal=self._renewal(workload.service) if self._renewal else None,
                    user_problem=user_problems.get(workload.service, ""),
                )
                for workload in settings.workloads
            ),
            upstreams=tuple(
                UpstreamStatus(
                    service=upstream.service,
                    caller=workload.service,
                    listen=_way_to(workload, upstream),
                    endpoints=watcher.views[upstream.service].endpoints,
                    source=watcher.views[upstream.service].source,
                )
                for workload in settings.workloads
                for upstream in workload.upstreams
            ),
            workers=self._workers.status,
            policy_keys=watcher.policy_keys,
        )

    def _ready(self) -> Answer:
        state = self._state()
        return text_answer(state, 200 if state == "ready" else 503)

    def _config(self) -> Answer:
        return json_answer(
            {
                "settings": self._settings,
                "policy": self._watcher.policy,
                "generation": self._generation(),
                "policy_source": self._watcher.policy_source,
                "refused": self._watcher.refused,
            }
        )

    def _endpoints(self) -> Answer:
        return json_answer(
            {
                name: {
                    "endpoints": view.endpoints,
                    "source": view.source,
                    "kept": view.kept,
                    "doubt": view.doubt,
                    "malformed": view.malformed,
                }
                for name, view in self._views()
            }
        )

    def _views(self) -> Iterator[tuple[str, ServiceView]]:
        yield from self._watcher.views.items()
        for view in self._watcher.elsewhere.values():
            yield view.subject, view

    async def scraped(self, accept: str = "") -> Answer:
        """``/metrics`` for who sent this ``Accept`` header; what the metrics port answers."""
        return await self._exposure.scraped(accept)

    async def _stats(self) -> Answer:
        """Everything that is counted, and the endpoints: who calls whom is not for everybody."""
        return json_answer(
            {  # a ``Stats``, which as one value would be encoded in one long go
                "host": self._settings.host,
                "at": time(),
                "uptime_s": monotonic() - self._started,
                "version": __version__,
                "generation": self._generation(),
                "families": await self._exposure.encoded(),
                "clusters": tuple(each.describe() for each in self._clusters()),
            }
        )

    async def _requests(self, request_id: str = "") -> Answer:
        """The newest, or those of one id, which is escaped as in a path."""
        wanted = decode(request_id.encode()).decode("latin-1")
        found = await self._workers.find(wanted, self._recent.find(wanted))
        return json_answer(SeenRequests(requests=found))

    async def _ended(self, segment: str = "-,all,-") -> Answer:
        """What ended since an earlier answer; of a service (``-``: any), ``all`` or ``bad``."""
        parts = segment.split(",")
        if len(parts) != 3 or parts[1] not in ("all", "bad"):
            return text_answer("ask /ended/SERVICE,all,CURSOR or /ended/SERVICE,bad,CURSOR", 400)
        service, which, cursor = ("" if part == "-" else part for part in parts)
        wanted = Wanted(service=service, is_bad_only=which == "bad", cursor=cursor)
        told = await self._workers.ended(wanted, self._recent.ended(wanted))
        following = f"{service or '-'},{which},{told.next}"
        return json_answer(msgspec.structs.replace(told, next=following))

    async def _reloaded(self) -> Answer:
        found = await self._reload()
        errors = {name: what for name, what in found.items() if isinstance(what, str)}
        # Some, but not all: a success for those, so that a recovery service by service can go on.
        status = 200 if not errors else 500 if len(errors) == len(found) else 207
        return json_answer({"identities": dict(self._identities()), "errors": errors}, status)

    async def _deregister(self) -> Answer:
        try:
            return json_answer({"deregistered": await self._registrar.withdraw()})
        except ConsulError as error:
            return json_answer({"error": str(error)}, 502)


class Gauges:
    """The control side's metrics."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        metrics.gauge(
            "mesh_build_info",
            "Always 1; version, release and configuration in the labels.",
            ("version", "release", "config"),
        ).labels(__version__, settings.release, settings.config).value = 1
        self._generation = metrics.gauge(
            "mesh_config_generation", "Generation of the policy in force; 0 before the first."
        ).labels()
        self._refused = metrics.gauge(
            "mesh_config_refused", "1 while the newest published policy is refused."
        ).labels()
        self._not_after = metrics.gauge(
            "mesh_certificate_not_after_seconds",
            "Unix time at which the leaf in force expires; 0 without one.",
            ("service",),
        )
        self._not_before = metrics.gauge(
            "mesh_certificate_not_before_seconds",
            "Unix time from which the leaf in force holds; 0 without one.",
            ("service",),
        )
        self._endpoints = metrics.gauge(
            "mesh_endpoints", "Endpoints in use for each upstream service.", ("service",)
        )
        self._kept = metrics.gauge(
            "mesh_endpoints_unconfirmed",
            "Endpoints in use that the registry no longer lists.",
            ("service",),
        )
        self._malformed = metrics.gauge(
            "mesh_endpoints_malformed",
            "Entries of the registry that make no sense and are skipped.",
            ("service",),
        )
        errors = metrics.counter(
            "mesh_registry_errors_total", "Failed calls to Consul by kind of failure.", ("kind",)
        )
        self._errors = {
            kind: errors.labels(kind) for kind in ("unavailable", "rejected", "garbage")
        }
        self.loop_lag = lag_gauge(metrics)

    def registry_error(self, error: ConsulError) -> None:
        self._errors[error.kind].value += 1

    def observe(self, watcher: Watcher, generation: int) -> None:
        self._generation.value = generation
        self._refused.value = 1 if watcher.refused else 0
        views = {(str(name),): view for name, view in watcher.views.items()}
        self._endpoints.show({name: len(view.endpoints) for name, view in views.items()})
        self._kept.show({name: view.kept for name, view in views.items()})
        self._malformed.show({name: view.malformed for name, view in views.items()})

    def certificates(self, identities: Identities) -> None:
        for name, identity in identities.items():
            moment = not_after(identity)
            self._not_after.labels(name).value = moment.timestamp() if moment else 0
            begin = datetime.fromisoformat(identity.not_before) if identity else None
            self._not_before.labels(name).value = begin.timestamp() if begin else 0


def _way_to(workload: Workload, upstream: Upstream) -> str:
    """The address that leads to it: its own, or the one that it shares; empty: a route alone."""
    at = upstream.listen or (workload.outbound if upstream.protocol != "tcp" else None)
    return f"{at.host}:{at.port}" if at else ""


def not_after(identity: IdentityStatus | None) -> datetime | None:
    return datetime.fromisoformat(identity.not_after) if identity else None


def rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _async(answer: Callable[[], Answer]) -> Handler:
    async def handler() -> Answer:
        return answer()

    handler_: Callable[[], Awaitable[Answer]] = handler
    return handler_
