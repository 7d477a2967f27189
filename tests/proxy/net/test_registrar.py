"""Keeping workloads in the registry."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.registration import Acknowledgement
from proxy.model.settings import Address, Consul, HealthCheck, Metrics, Settings, Workload
from proxy.net import registrar as module
from proxy.net.consul import Consul as Client
from proxy.net.consul import ConsulError
from proxy.net.registrar import Registrar, Standing


def workload(name: str) -> Workload:
    return Workload(
        service=ServiceName(name),
        protocol="http",
        version="v2",
        app=Address(host="127.0.0.1", port=8080),
        health=HealthCheck(),
        allow=(),
    )


def settings(url: str, *names: str) -> Settings:
    return Settings(
        host=HostName("h1"),
        trust_domain=TrustDomain("mesh.example"),
        advertise="10.0.0.1",
        release="r1",
        config="c1",
        admin=Address(host="127.0.0.1", port=15000),
        inbound=Address(host="0.0.0.0", port=15006),
        consul=Consul(url=url),
        state_dir="/nowhere",
        trust_bundle="/nowhere",
        workloads=tuple(map(workload, names)),
    )


@dataclass
class Said:
    """What the registrar is made to report; the same for every workload."""

    standing: Standing = field(
        default_factory=lambda: Standing(
            acknowledgement=Acknowledgement(generation=1, release="r1", config="c1", state="ready"),
            is_serving=True,
            is_app_healthy=True,
            app_detail="ok",
        )
    )

    def __call__(self, service: ServiceName) -> Standing:
        return self.standing

    def change(self, **changes: Any) -> None:
        self.standing = replace(self.standing, **changes)

    def acknowledge(self, **changes: Any) -> None:
        values = {name: getattr(self.standing.acknowledgement, name) for name in ACK} | changes
        self.change(acknowledgement=Acknowledgement(**values))


ACK = Acknowledgement.__struct_fields__


class Agent:
    """As much of a Consul agent as a registrar sees; ``fail`` chooses what goes wrong."""

    def __init__(self, reply: Any) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.checks: dict[str, tuple[str, str]] = {}
        self.updates: list[tuple[str, str, str]] = []
        self.registrations: list[str] = []
        self.unknown = (500, b'CheckID "x" does not have associated TTL')
        self.fail: Callable[[str], bytes | None] = lambda path: None
        self._reply = reply

    def wipe(self) -> None:
        self.services.clear()
        self.checks.clear()

    def __call__(self, head: str, body: bytes) -> bytes:
        _, path, _ = head.split(" ", 2)
        if (failure := self.fail(path)) is not None:
            return failure
        content = json.loads(body) if body else {}
        *_, last = path.split("/")
        if path.startswith("/v1/agent/check/update/"):
            check_id = last.replace("%3A", ":")
            if check_id not in self.checks:
                return self._reply(self.unknown[1], status=self.unknown[0])
            self.checks[check_id] = (content["Status"], content["Output"])
            self.updates.append((check_id, content["Status"], content["Output"]))
        elif path == "/v1/agent/service/register":
            self.services[content["ID"]] = content
            self.registrations.append(content["ID"])
            for check in content["Checks"]:
                self.checks.setdefault(check["CheckID"], (check["Status"], ""))
        elif path == "/v1/agent/services":
            listed = {
                key: {"ID": key, "Service": value["Name"], "Meta": value.get("Meta")}
                for key, value in self.services.items()
            }
            return self._reply(json.dumps(listed).encode())
        else:
            assert path.startswith("/v1/agent/service/deregister/")
            self.services.pop(last, None)
        return self._reply(b"")


@pytest.fixture
async def agent(scripted: Any, reply: Any) -> Agent:
    agent = Agent(reply)

    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(agent(head, scripted.bodies[-1]))

    scripted.script = script
    return agent


@pytest.fixture
async def start(scripted: Any) -> AsyncIterator[Any]:
    """``start("api", …)``: a running registrar and what it is made to say."""
    running = []

    def make(*names: str, url: str | None = None) -> tuple[Registrar, Said]:
        said = Said()
        client = Client(url or scripted.url)
        registrar = Registrar(settings(scripted.url, *names), client, said, rng=random.Random(1))
        running.append((asyncio.ensure_future(registrar.run()), client))
        return registrar, said

    yield make
    for task, client in running:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close()


async def test_a_workload_is_registered_with_everything_the_mesh_agrees_on(
    agent: Agent, start: Any
) -> None:
    registrar, _ = start("api")
    assert await registrar.flush(5)
    assert agent.services["mesh-api-h1"] == {
        "ID": "mesh-api-h1",
        "Name": "mesh-api",
        "Address": "10.0.0.1",
        "Port": 15006,
        "Meta": {
            "mesh": "meshctl",
            "mesh-trust-domain": "mesh.example",
            "mesh-host": "h1",
            "mesh-version": "v2",
            "mesh-protocol": "http",
            "mesh-weight": "1",
        },
        "Checks": [
            {
                "CheckID": "mesh-api-h1:proxy",
                "Name": "mesh proxy",
                "TTL": "10s",
                "Status": "passing",
                "DeregisterCriticalServiceAfter": "259200s",
            },
            {
                "CheckID": "mesh-api-h1:app",
                "Name": "application",
                "TTL": "60s",
                "Status": "passing",
            },
        ],
    }
    status, output = agent.checks["mesh-api-h1:proxy"]
    assert status == "passing"
    assert json.loads(output) == {
        "generation": 1, "release": "r1", "config": "c1", "state": "ready", "refused": ""
    }  # fmt: skip
    assert agent.checks["mesh-api-h1:app"] == ("passing", "ok")


@pytest.mark.parametrize(
    ("advertise", "expected"),
    [
        ("10.0.0.1", "10.0.0.1:15090"),
        ("fd00::1", "[fd00::1]:15090"),
        ("h.example", "h.example:15090"),
    ],
)
async def test_where_the_host_is_scraped_is_registered_with_each_of_its_services(
    agent: Agent, scripted: Any, advertise: str, expected: str
) -> None:
    placement = Metrics(listen=Address(host="0.0.0.0", port=15090), sources=("10.0.0.5/32",))
    plain = settings(scripted.url, "api", "web")
    own = msgspec.structs.replace(plain, metrics=placement, advertise=advertise)
    client = Client(scripted.url)
    registrar = Registrar(own, client, Said(), rng=random.Random(1))
    running = asyncio.ensure_future(registrar.run())
    assert await registrar.flush(5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.close()
    found = [service["Meta"]["mesh-metrics"] for service in agent.services.values()]
    assert found == [expected, expected]


async def test_zone_and_weight_are_registered(agent: Agent, scripted: Any) -> None:
    plain = settings(scripted.url, "api")
    (api,) = plain.workloads
    own = msgspec.structs.replace(
        plain, zone="eu-1", workloads=(msgspec.structs.replace(api, weight=7),)
    )
    client = Client(scripted.url)
    registrar = Registrar(own, client, Said(), rng=random.Random(1))
    running = asyncio.ensure_future(registrar.run())
    assert await registrar.flush(5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.close()
    meta = agent.services["mesh-api-h1"]["Meta"]
    assert (meta["mesh-zone"], meta["mesh-weight"]) == ("eu-1", "7")


async def test_checks_are_renewed_in_time_and_nothing_else_is_done(
    agent: Agent, start: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.03)
    registrar, _ = start("api")
    await registrar.flush(5)
    agent.updates.clear()
    await until(lambda: len(agent.updates) >= 6)
    assert {(check, status) for check, status, _ in agent.updates} == {
        ("mesh-api-h1:proxy", "passing"),
        ("mesh-api-h1:app", "passing"),
    }
    assert agent.registrations == ["mesh-api-h1"]


async def test_a_change_is_told_at_once_and_past_the_agents_delay(agent: Agent, start: Any) -> None:
    """An agent writes a changed output to the catalogue at once only if the status changes."""
    registrar, said = start("api")
    await registrar.flush(5)
    agent.updates.clear()
    said.acknowledge(generation=2)
    assert await registrar.flush(1)
    told = [
        (status, json.loads(output)["generation"])
        for check, status, output in agent.updates
        if check.endswith(":proxy")
    ]
    assert told == [("warning", 2), ("passing", 2)]


async def test_each_of_the_two_checks_says_which_is_ill(agent: Agent, start: Any) -> None:
    registrar, said = start("api")
    said.change(is_app_healthy=False, app_detail="GET / answered 500")
    await registrar.flush(5)
    assert agent.checks["mesh-api-h1:app"] == ("critical", "GET / answered 500")
    assert agent.checks["mesh-api-h1:proxy"][0] == "passing"
    said.change(is_serving=False)
    said.acknowledge(state="draining")
    agent.updates.clear()
    await registrar.flush(5)
    assert agent.checks["mesh-api-h1:proxy"][0] == "critical"
    assert json.loads(agent.checks["mesh-api-h1:proxy"][1])["state"] == "draining"
    assert [status for check, status, _ in agent.updates if "proxy" in check] == ["critical"]


@pytest.mark.parametrize("unknown", [(404, b"Unknown check ID"), (500, b"no associated TTL")])
async def test_what_the_agent_lost_is_registered_again(
    agent: Agent, start: Any, unknown: tuple[int, bytes]
) -> None:
    agent.unknown = unknown
    registrar, _ = start("api", "web")
    errors: list[ConsulError] = []
    registrar.on_error = errors.append
    await registrar.flush(5)
    agent.wipe()
    assert await registrar.flush(5)
    assert errors == []
    assert set(agent.services) == {"mesh-api-h1", "mesh-web-h1"}
    assert {status for status, _ in agent.checks.values()} == {"passing"}
    assert registrar.error == ""


async def test_what_this_host_no_longer_carries_is_removed_and_nothing_else(
    agent: Agent, start: Any
) -> None:
    ours = {"mesh": "meshctl", "mesh-trust-domain": "mesh.example", "mesh-host": "h1"}
    agent.services = {
        "mesh-old-h1": {"Name": "mesh-old", "Meta": ours},
        "mesh-old-h2": {"Name": "mesh-old", "Meta": {**ours, "mesh-host": "h2"}},
        "mesh-else-h1": {"Name": "x", "Meta": {**ours, "mesh-trust-domain": "other"}},
        "api": {"Name": "api", "Meta": None},
        "h1": {"Name": "api", "Meta": {"mesh-host": "h1", "mesh-trust-domain": "mesh.example"}},
    }
    registrar, _ = start("api")
    assert await registrar.flush(5)
    assert set(agent.services) == {"mesh-api-h1", "mesh-old-h2", "mesh-else-h1", "api", "h1"}


async def test_a_workload_the_agent_refuses_does_not_keep_the_others_out(
    agent: Agent, start: Any, reply: Any, until: Any
) -> None:
    agent.fail = lambda path: (
        reply(b"Permission denied", status=403) if "mesh-api-h1" in path else None
    )
    registrar, _ = start("api", "web")
    await until(lambda: registrar.error)
    assert "403: Permission denied" in registrar.error
    assert agent.checks["mesh-web-h1:proxy"][0] == "passing"
    agent.fail = lambda path: None
    assert await registrar.flush(5)
    assert registrar.error == ""


@pytest.mark.parametrize("kind", ["garbage", "500", "cut", "closed"])
async def test_a_sick_agent_is_asked_again_but_not_hammered(
    agent: Agent, start: Any, reply: Any, until: Any, kind: str, scripted: Any
) -> None:
    answers = {
        "garbage": b"\x00\x01\x02",
        "500": reply(b"boom", status=500),
        "cut": reply(b"x" * 10)[:-5],
        "closed": b"",
    }
    if kind in {"cut", "closed"}:
        working = scripted.script

        async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(answers[kind])
            writer.close()

        scripted.script = script
    else:
        agent.fail = lambda path: answers[kind]
    registrar, _ = start("api")
    errors: list[ConsulError] = []
    registrar.on_error = errors.append
    await until(lambda: len(errors) >= 3)
    assert registrar.error
    assert len(scripted.requests) <= 4 * len(errors)
    agent.fail = lambda path: None
    if kind in {"cut", "closed"}:
        scripted.script = working
    assert await registrar.flush(5)
    assert registrar.error == ""
    assert set(agent.services) == {"mesh-api-h1"}


async def test_an_agent_that_is_not_there_costs_little(start: Any, free_ports: Any) -> None:
    registrar, _ = start("api", url=f"http://127.0.0.1:{free_ports(1)[0]}")
    assert not await registrar.flush(0.2)
    assert "Connection refused" in registrar.error


async def test_withdrawing_removes_all_and_stays_withdrawn(
    agent: Agent, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.02)
    registrar, _ = start("api", "web")
    await registrar.flush(5)
    assert await registrar.withdraw() == ("mesh-api-h1", "mesh-web-h1")
    assert agent.services == {}
    await registrar.flush(5)
    await registrar.flush(5)
    assert agent.services == {}
    assert await registrar.withdraw() == ()


async def test_a_withdrawal_that_fails_says_so(agent: Agent, start: Any, reply: Any) -> None:
    registrar, _ = start("api")
    await registrar.flush(5)
    agent.fail = lambda path: reply(b"no", status=500) if "deregister" in path else None
    with pytest.raises(ConsulError, match="500"):
        await registrar.withdraw()


async def test_with_a_real_agent_the_catalogue_follows_at_once(
    shared_consul: Any, start: Any, until: Any
) -> None:
    registrar, said = start("api", url=shared_consul.url)
    assert await registrar.flush(10)

    async def catalogue(check: str, condition: Callable[[str, str], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition(
                *(await asyncio.to_thread(shared_consul.checks, "mesh-api"))[check]
            ):
                await asyncio.sleep(0.05)

    def acknowledges(generation: int, wanted: str = "passing") -> Callable[[str, str], bool]:
        return lambda status, output: status == wanted and f'"generation":{generation},' in output

    await catalogue("mesh-api-h1:proxy", acknowledges(1))
    for generation in (2, 3):
        said.acknowledge(generation=generation)
        registrar.poke()
        await catalogue("mesh-api-h1:proxy", acknowledges(generation))
    said.change(is_app_healthy=False, app_detail="down")
    registrar.poke()
    await catalogue(
        "mesh-api-h1:app", lambda status, output: (status, output) == ("critical", "down")
    )
    await asyncio.to_thread(shared_consul.call, "PUT", "/v1/agent/service/deregister/mesh-api-h1")
    assert await registrar.flush(5)
    await catalogue("mesh-api-h1:proxy", acknowledges(3))
    said.change(is_serving=False)
    said.acknowledge(state="draining")
    assert await registrar.flush(5)
    await catalogue("mesh-api-h1:proxy", acknowledges(3, "critical"))
    assert await registrar.withdraw() == ("mesh-api-h1",)
