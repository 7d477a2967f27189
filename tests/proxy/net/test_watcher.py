"""Following the registry: what is in force stays whole and sound, whatever the registry says."""

import asyncio
import base64
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from proxy.core import discovery
from proxy.core.backoff import Backoff
from proxy.model.codec import encode, encode_readable
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Snapshot, Timeouts
from proxy.model.policy_keys import PolicyKeys, encode_key
from proxy.model.resilience import Failover
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Upstream, Workload
from proxy.model.signed import Kind, key_id, seal, statement
from proxy.model.snapshot import pack
from proxy.net import watcher as module
from proxy.net.consul import Consul as Client
from proxy.net.store import LastGood
from proxy.net.watcher import Watcher

TD = TrustDomain("mesh.example")
API, DB = ServiceName("api"), ServiceName("db")
SLOW = Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=60.0)))


def settings(url: str, *upstreams: str) -> Settings:
    def workload(name: str) -> Workload:
        return Workload(
            service=ServiceName(name),
            protocol="http",
            version="v1",
            app=Address(host="127.0.0.1", port=8080),
            health=HealthCheck(),
            allow=(),
            upstreams=tuple(
                Upstream(
                    service=ServiceName(up),
                    protocol="http",
                    listen=Address(host="127.0.0.1", port=9001 + i),
                )
                for i, up in enumerate(upstreams)
            ),
        )

    return Settings(
        host=HostName("h0"),
        trust_domain=TD,
        advertise="10.0.0.1",
        release="r1",
        admin=Address(host="127.0.0.1", port=15000),
        inbound=Address(host="0.0.0.0", port=15006),
        consul=Consul(url=url),
        state_dir="/nowhere",
        trust_bundle="/nowhere",
        workloads=(workload("web"), workload("web2")),
    )


def entry(host: str, status: str = "passing", **service: Any) -> dict[str, Any]:
    meta = {"mesh": "meshctl", "mesh-trust-domain": TD, "mesh-host": host, "mesh-version": "v1"}
    return {
        "Node": {"Node": "n", "Address": "192.0.2.1"},
        "Service": {
            "ID": f"mesh-api-{host}",
            "Service": "mesh-api",
            "Address": f"10.0.0.{host[1:]}",
            "Port": 15006,
            "Meta": meta,
            **service,
        },
        "Checks": [
            {"CheckID": "serfHealth", "Status": "passing"},
            {"CheckID": "x:proxy", "ServiceID": f"mesh-api-{host}", "Status": status},
        ],
    }


class Registry:
    """Health and KV with blocking queries; ``fail`` chooses what goes wrong."""

    def __init__(self, reply: Any) -> None:
        self.index = 10
        self.entries: dict[str, list[Any]] = {}
        self.snapshot: bytes | None = None
        self.fail: Callable[[str], bytes | None] = lambda path: None
        self.asked: list[tuple[str, int]] = []
        self._changed = asyncio.Event()
        self._reply = reply

    def put(self, service: str, *entries: Any) -> None:
        self.entries[f"mesh-{service}"] = list(entries)
        self.moved()

    def publish(self, value: bytes | Snapshot | None) -> None:
        self.snapshot = encode(value) if isinstance(value, Snapshot) else value
        self.moved()

    def moved(self, by: int = 1) -> None:
        self.index += by
        self._changed.set()
        self._changed = asyncio.Event()

    async def answer(self, head: str) -> bytes:
        path = head.split(" ", 2)[1]
        index = int(re.search(r"index=(\d+)", path)[1])  # type: ignore[index]
        datacenter = re.search(r"&dc=([^&]*)", path)
        self.asked.append((path.split("?")[0], index))
        if (failure := self.fail(path)) is not None:
            return failure
        if index >= self.index:
            await self._changed.wait()
        if path.startswith("/v1/kv/meshctl/snapshot?"):
            if self.snapshot is None:
                return bytes(self._reply(b"", status=404, index=self.index))
            pair = [{"Value": base64.b64encode(self.snapshot).decode()}]
            return bytes(self._reply(json.dumps(pair).encode(), index=self.index))
        name = path.removeprefix("/v1/health/service/").split("?")[0]
        if datacenter:
            name += f"?dc={datacenter[1]}"
        body = json.dumps(self.entries.get(name, [])).encode()
        return bytes(self._reply(body, index=self.index))


@pytest.fixture
async def registry(scripted: Any, reply: Any) -> Registry:
    registry = Registry(reply)

    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(await registry.answer(head))

    scripted.script = script
    return registry


@pytest.fixture
async def start(scripted: Any) -> AsyncIterator[Any]:
    """``start("api", …)``: a running watcher; ``changes`` counts its calls."""
    running: list[asyncio.Task[None]] = []

    def make(
        *upstreams: str, last_good: LastGood | None = None, url: str = "", policy_keys: str = ""
    ) -> Watcher:
        changes: list[int] = []
        client = Client(url or scripted.url)
        watcher = Watcher(
            structs.replace(settings(scripted.url, *upstreams), policy_keys=policy_keys),
            client,
            lambda: changes.append(1),
            last_good=last_good,
            rng=random.Random(1),
        )
        watcher.changes = changes  # type: ignore[attr-defined]
        running.extend(asyncio.ensure_future(work) for _, work in watcher.tasks())
        return watcher

    yield make
    for task in running:
        task.cancel()
    ended = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


def hosts(watcher: Watcher, service: ServiceName = API) -> list[str]:
    return [endpoint.host for endpoint in watcher.catalogue.endpoints[service]]


async def test_endpoints_follow_the_registry(registry: Registry, start: Any, until: Any) -> None:
    registry.put("api", entry("h2"), entry("h1"))
    watcher = start("api", "db")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    assert watcher.catalogue.endpoints[API][0] == Endpoint(
        service=API, host=HostName("h1"), address="10.0.0.1", port=15006, version="v1"
    )
    assert hosts(watcher) == ["h1", "h2"]
    assert hosts(watcher, DB) == []
    registry.put("api", entry("h2"), entry("h1", "critical"), entry("h3", "warning"))
    await until(lambda: hosts(watcher) == ["h2", "h3"])
    registry.put("api", entry("h2", "critical"))
    await until(lambda: hosts(watcher) == [])
    assert watcher.error == ""


async def test_each_service_is_asked_for_once_however_many_call_it(
    registry: Registry, start: Any
) -> None:
    watcher = start("api")  # both workloads declare it
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    assert sorted(path for path, index in registry.asked if index == 0) == [
        "/v1/health/service/mesh-api",
        "/v1/kv/meshctl/snapshot",
    ]


async def test_the_full_list_is_asked_for_and_filtered_here(
    registry: Registry, start: Any, scripted: Any
) -> None:
    """With ``passing`` a registry that lost everything looks like one where all are ill."""
    watcher = start("api")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    assert not any("passing" in head for head in scripted.requests)


async def test_what_is_not_of_this_mesh_is_ignored_and_nonsense_is_counted(
    registry: Registry, start: Any
) -> None:
    good = entry("h1")
    registry.put(
        "api",
        good,
        entry("h2", Meta=None),
        entry("h2", Meta={**good["Service"]["Meta"], "mesh-trust-domain": "other"}),
        entry("h2", Meta={**good["Service"]["Meta"], "mesh-host": "../x"}),
        entry("h2", Port=0),
        entry("h2", Port=70000),
        entry("h2", Address="10.0.0.1\r\nx"),
        {"Node": 7},
        entry("h9", Address=""),
    )
    watcher = start("api")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    assert [(e.host, e.address) for e in watcher.catalogue.endpoints[API]] == [
        ("h1", "10.0.0.1"),
        ("h9", "192.0.2.1"),
    ]
    assert watcher.views[API].malformed == 5


@pytest.mark.parametrize(
    ("meta", "zone", "weight", "malformed"),
    [
        ({}, "", 1, 0),
        ({"mesh-zone": "eu-1", "mesh-weight": "0"}, "eu-1", 0, 0),
        ({"mesh-zone": "", "mesh-weight": "1000"}, "", 1000, 0),
        ({"mesh-zone": "EU 1"}, "", 1, 1),
        ({"mesh-weight": "1001"}, "", 1, 1),
        ({"mesh-weight": "-1", "mesh-zone": "eu-1"}, "eu-1", 1, 1),
        ({"mesh-weight": "+5"}, "", 1, 1),
        ({"mesh-weight": "1_0"}, "", 1, 1),
        ({"mesh-weight": "²"}, "", 1, 1),
        ({"mesh-weight": ""}, "", 1, 1),
        ({"mesh-weight": "1" * 5000, "mesh-zone": "x" * 51}, "", 1, 1),
    ],
)
async def test_zone_and_weight_are_read_strictly_and_cost_no_endpoint(
    registry: Registry, start: Any, meta: dict[str, str], zone: str, weight: int, malformed: int
) -> None:
    usual = entry("h1")["Service"]["Meta"]
    registry.put("api", entry("h1", Meta={**usual, **meta}), entry("h2"))
    watcher = start("api")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    first, second = watcher.catalogue.endpoints[API]
    assert (first.host, first.zone, first.weight) == ("h1", zone, weight)
    assert (second.zone, second.weight) == ("", 1)
    assert watcher.views[API].malformed == malformed


async def test_an_emptied_registry_evicts_nobody(
    registry: Registry, start: Any, until: Any
) -> None:
    registry.put("api", entry("h1"), entry("h2"))
    watcher = start("api")
    await until(lambda: len(hosts(watcher)) == 2)
    registry.put("api")
    await until(lambda: watcher.error)
    assert hosts(watcher) == ["h1", "h2"]
    assert "api: nothing is registered any more" in watcher.error
    registry.put("api", entry("h1"), entry("h2"))
    await until(lambda: not watcher.error)


async def test_an_index_that_goes_back_evicts_nobody_who_is_not_called_ill(
    registry: Registry, start: Any, until: Any
) -> None:
    registry.put("api", entry("h1"), entry("h2"), entry("h3"))
    watcher = start("api")
    await until(lambda: len(hosts(watcher)) == 3)
    registry.index = 2
    registry.put("api", entry("h2", "critical"), entry("h4"))
    await until(lambda: hosts(watcher) == ["h1", "h3", "h4"])
    assert "lost its history" in watcher.error


async def test_unconfirmed_endpoints_leave_when_their_time_is_up(
    registry: Registry, start: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "KEEP_EMPTY_S", 0.2)
    registry.put("api", entry("h1"))
    watcher = start("api")
    await until(lambda: hosts(watcher))
    registry.put("api")
    await until(lambda: watcher.error)
    await asyncio.sleep(0.2)
    registry.moved()
    await until(lambda: hosts(watcher) == [])
    assert watcher.error == ""


async def test_an_index_of_zero_is_no_busy_loop(
    scripted: Any, reply: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 3.0)
    asked = []

    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        asked.append(head)
        writer.write(reply(b"[]", index=0))

    scripted.script = script
    watcher = start("api")
    await asyncio.sleep(0.6)
    health = [head for head in asked if "mesh-api" in head]
    assert "index=0" in health[0]
    assert all("index=1&" in head for head in health[1:])
    assert len(health) <= 3 + 0.6 * module.QUERIES_PER_S + 1
    assert hosts(watcher) == []


@pytest.mark.parametrize("kind", ["garbage", "500", "cut", "not json", "hang up"])
async def test_a_sick_registry_leaves_everything_in_force_and_is_not_hammered(
    registry: Registry,
    start: Any,
    until: Any,
    reply: Any,
    scripted: Any,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    real_next = Backoff.next_s

    def noted(self: Backoff, rng: random.Random) -> float:
        waits.append(real_next(self, rng))
        return 0.1

    monkeypatch.setattr(Backoff, "next_s", noted)
    registry.put("api", entry("h1"))
    registry.publish(Snapshot(generation=4, trust_domain=TD, policy=SLOW))
    watcher = start("api")
    await until(lambda: hosts(watcher) and watcher.generation == 4)
    errors: list[Any] = []
    watcher.on_error = errors.append
    answers = {
        "garbage": b"\x00\x01\x02",
        "500": reply(b"rpc error: No cluster leader", status=500),
        "cut": reply(b"[" + b" " * 99)[:-50],
        "not json": reply(b"<html>", index=99),
        "hang up": b"",
    }
    working = scripted.script

    async def broken(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[kind])
        writer.close()

    scripted.script = broken
    before = len(scripted.requests)
    started_s = time.monotonic()
    registry.moved()
    await until(lambda: len(errors) >= 6)
    assert time.monotonic() - started_s >= 0.2  # two watches, three failures each
    assert len(waits) >= 5
    assert watcher.error
    assert len(scripted.requests) - before <= len(errors) + 2
    assert hosts(watcher) == ["h1"]
    assert watcher.policy == SLOW
    scripted.script = working
    registry.put("api", entry("h2"))
    await until(lambda: hosts(watcher) == ["h2"] and not watcher.error, deadline_s=10)


async def test_after_a_failure_a_registry_with_less_history_is_not_waited_for(
    registry: Registry, start: Any, until: Any, scripted: Any
) -> None:
    """A restarted registry must not hold a query with the old, higher index for a minute."""
    registry.put("api", entry("h1"))
    watcher = start("api")
    await until(lambda: hosts(watcher))
    await scripted.stop()
    await until(lambda: watcher.error)
    registry.index = 3
    registry.entries["mesh-api"] = [entry("h1"), entry("h2")]
    await scripted.start(scripted_port(scripted, watcher))
    await until(lambda: hosts(watcher) == ["h1", "h2"], deadline_s=10)


def scripted_port(scripted: Any, watcher: Watcher) -> int:
    return int(watcher._consul.url.rsplit(":", 1)[1])


async def test_a_published_policy_is_taken_and_a_bad_one_refused(
    registry: Registry, start: Any, until: Any
) -> None:
    watcher = start("api")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    assert (watcher.generation, watcher.policy, watcher.policy_source) == (0, Policy(), "none")
    registry.publish(Snapshot(generation=4, trust_domain=TD, policy=SLOW))
    await until(lambda: watcher.generation == 4)
    assert watcher.policy_source == "consul"
    for bad, reason in (
        (b"{", "cannot be read"),
        (Snapshot(generation=3, trust_domain=TD, policy=Policy()), "older than 4"),
        (Snapshot(generation=5, trust_domain=TrustDomain("x"), policy=Policy()), "trust domain"),
    ):
        registry.publish(bad)
        await until(lambda reason=reason: reason in watcher.refused)
        assert (watcher.generation, watcher.policy) == (4, SLOW)
    registry.publish(Snapshot(generation=5, trust_domain=TD, policy=Policy()))
    await until(lambda: watcher.generation == 5)
    assert watcher.refused == ""
    registry.publish(None)
    await asyncio.sleep(0.05)
    assert watcher.generation == 5


def kept() -> LastGood:
    endpoint = Endpoint(service=API, host=HostName("h7"), address="10.0.0.7", port=15006)
    gone = Endpoint(service=DB, host=HostName("h8"), address="10.0.0.8", port=15006)
    return LastGood(
        trust_domain=TD,
        snapshot=Snapshot(generation=9, trust_domain=TD, policy=SLOW),
        catalogue=Catalogue(endpoints={API: (endpoint,), DB: (gone,)}),
    )


async def test_without_a_registry_the_disk_is_in_force(start: Any, free_ports: Any) -> None:
    watcher = start("api", last_good=kept(), url=f"http://127.0.0.1:{free_ports(1)[0]}")
    assert watcher.is_warm
    await asyncio.sleep(0.05)
    assert (watcher.generation, watcher.policy_source, watcher.policy) == (9, "disk", SLOW)
    assert hosts(watcher) == ["h7"]
    assert watcher.views[API].source == "disk"
    assert DB not in watcher.catalogue.endpoints
    assert watcher.last_good.snapshot == kept().snapshot


async def test_an_upstream_that_the_disk_does_not_know_makes_it_cold(start: Any) -> None:
    assert not start("api", "db2", last_good=kept()).is_warm
    assert not start("api").is_warm


async def test_an_older_policy_than_the_one_on_disk_is_refused(
    registry: Registry, start: Any, until: Any
) -> None:
    registry.publish(Snapshot(generation=2, trust_domain=TD, policy=Policy()))
    watcher = start("api", last_good=kept())
    await until(lambda: watcher.refused)
    assert (watcher.generation, watcher.policy_source) == (9, "disk")


async def test_nothing_new_is_no_change(registry: Registry, start: Any, until: Any) -> None:
    registry.put("api", entry("h1"))
    watcher = start("api")
    await until(lambda: hosts(watcher))
    before = len(watcher.changes)
    for _ in range(5):
        asked = len(registry.asked)
        registry.moved()
        await until(lambda asked=asked: len(registry.asked) >= asked + 2)
    assert len(watcher.changes) == before


def failing_over(*datacenters: str, generation: int = 1) -> Snapshot:
    steps = tuple(Failover(datacenter=name) for name in datacenters)
    policy = Policy(services={API: ServicePolicy(failover=steps)} if steps else {})
    return Snapshot(generation=generation, trust_domain=TD, policy=policy)


def far(watcher: Watcher, datacenter: str = "dc2") -> list[str]:
    found = watcher.catalogue.elsewhere.get(datacenter, {}).get(API, ())
    return [endpoint.host for endpoint in found]


def watches() -> set[str]:
    return {name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("watch ")}


async def test_a_failover_is_watched_in_its_datacenter_for_as_long_as_the_policy_has_it(
    registry: Registry, start: Any, until: Any
) -> None:
    registry.put("api", entry("h1"))
    registry.put("api?dc=dc2", entry("h2"))
    watcher = start("api", "db")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    assert watcher.catalogue.elsewhere == {}
    near = {"watch the policy", "watch api", "watch db"}
    assert watches() == near

    registry.publish(failing_over("dc2"))
    await until(lambda: far(watcher) == ["h2"])
    assert watches() == {*near, "watch api in dc2"}
    assert hosts(watcher) == ["h1"]
    registry.put("api?dc=dc2", entry("h2"), entry("h3"))
    await until(lambda: far(watcher) == ["h2", "h3"])

    registry.put("api?dc=dc3", entry("h4"))
    registry.publish(failing_over("dc3", generation=2))
    await until(lambda: far(watcher, "dc3") == ["h4"])
    assert set(watcher.catalogue.elsewhere) == {"dc3"}
    await until(lambda: watches() == {*near, "watch api in dc3"})

    registry.publish(failing_over(generation=3))
    await until(lambda: watcher.generation == 3 and watches() == near)
    assert watcher.catalogue.elsewhere == {}
    assert hosts(watcher) == ["h1"]


async def test_a_datacenter_that_there_is_not_is_told_and_takes_nothing_else_down(
    registry: Registry, start: Any, until: Any, reply: Any
) -> None:
    registry.put("api", entry("h1"))
    registry.put("api?dc=dc2", entry("h2"))
    registry.fail = lambda path: (
        reply(b"No path to datacenter", status=500) if "dc=nowhere" in path else None
    )
    registry.publish(failing_over("nowhere", "dc2"))
    watcher = start("api")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    await until(lambda: far(watcher) == ["h2"] and "datacenter nowhere" in watcher.error)
    assert "answered 500: No path to datacenter" in watcher.error
    assert (hosts(watcher), far(watcher, "nowhere")) == (["h1"], [])
    registry.put("api", entry("h1"), entry("h3"))
    await until(lambda: hosts(watcher) == ["h1", "h3"])
    registry.publish(failing_over("dc2", generation=2))
    await until(lambda: watcher.generation == 2)
    assert watcher.error == ""


async def test_an_emptied_datacenter_evicts_nobody_there(
    registry: Registry, start: Any, until: Any
) -> None:
    registry.put("api?dc=dc2", entry("h2"))
    registry.publish(failing_over("dc2"))
    watcher = start("api")
    await until(lambda: far(watcher) == ["h2"])
    registry.put("api?dc=dc2")
    await until(lambda: watcher.error)
    assert "api in dc2: nothing is registered any more" in watcher.error
    assert far(watcher) == ["h2"]


async def test_what_was_elsewhere_is_on_disk_too(start: Any, free_ports: Any) -> None:
    endpoint = Endpoint(service=API, host=HostName("h2"), address="10.0.0.2", port=15006)
    disk = msgspec.structs.replace(
        kept(),
        snapshot=failing_over("dc2", "dc3"),
        catalogue=Catalogue(
            endpoints=kept().catalogue.endpoints,
            elsewhere={"dc2": {API: (endpoint,)}, "dc3": {API: ()}, "dc4": {API: (endpoint,)}},
        ),
    )
    watcher = start("api", last_good=disk, url=f"http://127.0.0.1:{free_ports(1)[0]}")
    assert watcher.is_warm
    assert watcher.last_good.catalogue.elsewhere == {"dc2": {API: (endpoint,)}, "dc3": {API: ()}}


async def test_a_failover_that_the_disk_does_not_know_makes_it_cold(
    registry: Registry, start: Any
) -> None:
    registry.put("api?dc=dc2", entry("h2"))
    watcher = start("api", last_good=msgspec.structs.replace(kept(), snapshot=failing_over("dc2")))
    assert not watcher.is_warm
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    assert far(watcher) == ["h2"]
    assert watcher.is_warm


async def test_only_the_policy_of_the_services_in_reach_is_kept(
    registry: Registry, start: Any, until: Any
) -> None:
    slow = SLOW.defaults
    services = {ServiceName(name): slow for name in ("api", "web", "far-away")}
    watcher = start("api")
    policy = Policy(services=services)
    registry.publish(Snapshot(generation=1, trust_domain=TD, policy=policy))
    await until(lambda: watcher.generation == 1)
    assert set(watcher.policy.services) == {"api", "web"}


async def test_a_large_policy_leaves_others_their_turn(
    registry: Registry, start: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = start("api")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    services = {ServiceName(f"s{number}"): SLOW.defaults for number in range(1000)}
    turns: list[int] = [0]
    seen: list[int] = []
    real, loop = module.judging, asyncio.get_running_loop()

    def counted(*arguments: Any) -> Any:
        work = real(*arguments)
        while True:
            seen.append(len(turns))
            loop.call_soon(turns.append, 1)
            try:
                next(work)
            except StopIteration as done:
                return done.value
            yield

    monkeypatch.setattr(module, "judging", counted)
    monkeypatch.setattr(module, "JUDGED_AT_ONCE_S", 0.0)
    registry.publish(Snapshot(generation=1, trust_domain=TD, policy=Policy(services=services)))
    await until(lambda: watcher.generation == 1)
    assert len(seen) > 5
    assert seen == sorted(set(seen))


async def test_a_service_may_be_named_like_anything_that_is_watched(
    registry: Registry, start: Any, until: Any
) -> None:
    watcher = start("policy", "watcher")
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    registry.publish(Snapshot(generation=1, trust_domain=TD, policy=SLOW))
    await until(lambda: watcher.generation == 1)


async def test_a_watch_that_dies_ends_the_watcher_and_all_of_its_watches(
    registry: Registry, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module.entries, "read", broken)
    watcher = Watcher(
        settings(scripted.url, "api", "db"),
        Client(scripted.url),
        lambda: None,
        last_good=None,
        rng=random.Random(1),
    )
    with pytest.raises(RuntimeError, match=r"^watch (api|db) died$"):
        await asyncio.wait_for(watcher.run(), 5)
    assert watches() == set()


async def test_a_real_consul_wiped_and_restarted_loses_nothing(
    consul: Any, start: Any, until: Any
) -> None:
    def put(path: str, body: Any) -> None:
        consul.call("PUT", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def register(host: str) -> None:
        service = entry(host)["Service"]
        body = {k: v for k, v in service.items() if k != "Service"} | {"Name": "mesh-api"}
        check = {"CheckID": f"{host}:proxy", "TTL": "60s", "Status": "passing"}
        put("/v1/agent/service/register", body | {"Checks": [check]})

    def settle() -> None:
        for number in range(20):  # so that the index after the wipe is lower
            put(f"/v1/kv/filler/{number}", b"x")
        register("h1")
        register("h2")
        put(
            "/v1/kv/meshctl/snapshot",
            encode(Snapshot(generation=3, trust_domain=TD, policy=SLOW)),
        )

    await asyncio.to_thread(settle)
    watcher = start("api", url=consul.url)
    await until(lambda: hosts(watcher) == ["h1", "h2"] and watcher.generation == 3)
    await asyncio.to_thread(put, "/v1/agent/check/update/h2:proxy", {"Status": "critical"})
    await until(lambda: hosts(watcher) == ["h1"])
    await asyncio.to_thread(put, "/v1/agent/check/update/h2:proxy", {"Status": "passing"})
    await until(lambda: hosts(watcher) == ["h1", "h2"])

    await asyncio.to_thread(consul.stop, wipe=True)
    await until(lambda: watcher.error)
    assert hosts(watcher) == ["h1", "h2"]
    consul.start()
    await consul.ready()
    await until(lambda: "nothing is registered any more" in watcher.error, deadline_s=30)
    assert (hosts(watcher), watcher.generation) == (["h1", "h2"], 3)

    await asyncio.to_thread(register, "h1")
    await asyncio.to_thread(register, "h3")
    await until(lambda: "h3" in hosts(watcher), deadline_s=20)
    assert hosts(watcher) == ["h1", "h2", "h3"]
    assert watcher.policy == SLOW


async def test_each_policy_that_cuts_is_counted_once_and_the_one_on_disk_not_at_all(
    registry: Registry, start: Any, until: Any
) -> None:
    def cutting(generation: int, is_cutting: bool) -> Snapshot:
        policy = Policy(defaults=ServicePolicy(timeouts=Timeouts(request_s=float(generation))))
        return Snapshot(
            generation=generation, trust_domain=TD, policy=policy, cut_denied=is_cutting
        )

    disk = msgspec.structs.replace(kept(), snapshot=cutting(9, True))
    registry.publish(cutting(9, True))
    watcher = start("api", last_good=disk)
    await until(lambda: watcher.policy_source == "consul")
    assert (watcher.generation, watcher.cuts) == (9, 0)
    for generation, is_cutting, cuts in ((10, True, 1), (11, False, 1), (12, True, 2)):
        registry.publish(cutting(generation, is_cutting))
        await until(lambda generation=generation: watcher.generation == generation)
        assert watcher.cuts == cuts
    registry.moved()
    await until(lambda: len(registry.asked) > 6)
    assert watcher.cuts == 2


ONE, TWO = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def write_keys(file: Path, *keys: Ed25519PrivateKey) -> None:
    texts = tuple(encode_key(public(key)) for key in keys)
    file.write_bytes(encode_readable(PolicyKeys(trust_domain=TD, keys=texts)))


def signed(generation: int, policy: Policy = SLOW, key: Ed25519PrivateKey = ONE) -> bytes:
    data = pack(Snapshot(generation=generation, trust_domain=TD, policy=policy))
    return seal(Kind.POLICY, key_id(public(key)), key.sign(statement(Kind.POLICY, data)), data)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "policy-keys.json"
    write_keys(file, ONE)
    return file


async def test_policy_that_has_to_be_signed_is_unknown_until_one_that_is_arrives(
    registry: Registry, start: Any, until: Any, keys: Path
) -> None:
    watcher = start("api", policy_keys=str(keys))
    await asyncio.wait_for(watcher.first_answers.wait(), 5)
    assert (watcher.policy, watcher.generation) == (None, 0)
    registry.publish(Snapshot(generation=4, trust_domain=TD, policy=Policy()))
    await until(lambda: "not signed" in watcher.refused)
    assert watcher.policy is None
    registry.publish(signed(5))
    await until(lambda: watcher.generation == 5)
    assert (watcher.policy, watcher.refused, watcher.policy_source) == (SLOW, "", "consul")


async def test_no_registry_can_take_a_verified_policy_back(
    registry: Registry, start: Any, until: Any, keys: Path
) -> None:
    watcher = start("api", policy_keys=str(keys))
    registry.publish(signed(5))
    await until(lambda: watcher.generation == 5)
    for published, reason in (
        (signed(4, Policy()), "older than 5"),
        (signed(6, Policy(), TWO), "signed with the key"),
        (signed(6, Policy()) + b"x", "signature is wrong"),
        (Snapshot(generation=6, trust_domain=TD, policy=Policy()), "not signed"),
    ):
        registry.publish(published)
        await until(lambda reason=reason: reason in watcher.refused)
        assert (watcher.generation, watcher.policy) == (5, SLOW)
    registry.publish(signed(2))  # the same, after a wipe
    await until(lambda: not watcher.refused)
    assert watcher.generation == 5
    registry.publish(signed(4, Policy()))
    await until(lambda: "older than 5" in watcher.refused)


async def test_the_policy_on_disk_is_in_force_and_the_least_that_is_taken(
    registry: Registry, start: Any, until: Any, keys: Path
) -> None:
    registry.publish(signed(8, Policy()))
    watcher = start("api", last_good=kept(), policy_keys=str(keys))
    await until(lambda: "older than 9" in watcher.refused)
    assert (watcher.generation, watcher.policy) == (9, SLOW)


async def test_new_keys_are_in_force_with_the_reload_also_for_what_was_refused(
    registry: Registry, start: Any, until: Any, keys: Path
) -> None:
    watcher = start("api", policy_keys=str(keys))
    registry.publish(signed(5, key=TWO))
    await until(lambda: key_id(public(TWO)) in watcher.refused)
    write_keys(keys, ONE, TWO)
    watcher.reload_keys()
    assert watcher.policy_keys == tuple(sorted((key_id(public(ONE)), key_id(public(TWO)))))
    await until(lambda: watcher.generation == 5)
    assert watcher.refused == ""


@pytest.mark.parametrize("content", [None, b"", b"{}"])
async def test_keys_that_cannot_be_read_leave_the_ones_in_force(
    registry: Registry, start: Any, until: Any, keys: Path, content: bytes | None
) -> None:
    watcher = start("api", policy_keys=str(keys))
    if content is None:
        keys.unlink()
    else:
        keys.write_bytes(content)
    watcher.reload_keys()
    registry.publish(signed(5))
    await until(lambda: watcher.generation == 5)


async def test_without_any_key_nothing_is_believed_and_a_reload_mends_it(
    registry: Registry, start: Any, until: Any, keys: Path
) -> None:
    keys.unlink()
    registry.publish(signed(5))
    watcher = start("api", policy_keys=str(keys))
    await until(lambda: "no policy keys" in watcher.refused)
    assert (watcher.policy, watcher.policy_keys) == (None, ())
    write_keys(keys, ONE)
    watcher.reload_keys()
    await until(lambda: watcher.generation == 5)
