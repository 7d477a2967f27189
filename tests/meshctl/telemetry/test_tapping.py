"""Live calls: asked by the program on the host, filtered here, in order, with what was missed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ports import free_ports

from meshctl.inventory.model import Inventory
from meshctl.inventory.parse import parse
from meshctl.layout import Layout
from meshctl.telemetry.tapping import Event, Filter, Gap, Held, Silent, tap
from meshctl.transport.connect import Connections
from proxy.core.metrics import Metrics
from proxy.http.head import parse_request
from proxy.model.names import HostName
from proxy.model.recent import SeenRequest, Wanted
from proxy.net.admin import Admin, Answer, Route, json_answer, text_answer
from proxy.net.dataplane_metrics import DataPlaneMetrics, Reporter
from proxy.net.recent import KEPT, MAX_ENDED

DEADLINE_S = 60


def seen(**changes: Any) -> SeenRequest:
    usual = {
        "id": "a", "side": "source", "host": "one", "ended_at": "2026-01-01T00:00:00.000Z",
        "caller": "web", "service": "api", "method": "GET", "path": "/users/1", "route": "",
        "endpoints": (), "tries": 1, "status": 200, "flag": "", "policy": "", "duration_ms": 1.0,
        "first_byte_ms": 0.0, "request_bytes": 0,
    }  # fmt: skip
    return SeenRequest(**{**usual, **changes})


@pytest.mark.parametrize(
    ("given", "request_", "is_shown"),
    [
        ({}, {}, True),
        ({}, {"side": "destination"}, False),
        ({}, {"side": "destination", "caller": "unknown"}, True),
        ({"side": "destination"}, {"side": "destination"}, True),
        ({"side": "destination"}, {}, False),
        ({"caller": "web"}, {}, True),
        ({"caller": "shop"}, {}, False),
        ({"method": "get"}, {}, True),
        ({"method": "POST"}, {}, False),
        ({"path": "/users/*"}, {}, True),
        ({"path": "/users/?"}, {}, False),
        ({"path": "/users"}, {}, False),
        ({"status": "200"}, {}, True),
        ({"status": "5xx"}, {"status": 503}, True),
        ({"status": "5xx"}, {"status": 404}, False),
        ({"status": "0"}, {"status": 0}, True),
        ({"flag": "UF"}, {"flag": "UF"}, True),
        ({"flag": "UF"}, {"flag": "UC"}, False),
    ],
)
def test_a_call_is_shown_or_not(
    given: dict[str, Any], request_: dict[str, Any], is_shown: bool
) -> None:
    wanted = Filter(service="api", workloads=frozenset({"web", "api"}), **given)
    assert wanted.test()(seen(**request_)) is is_shown


@pytest.mark.parametrize(
    ("given", "which"),
    [({}, "all"), ({"status": "404"}, "all"), ({"status": "5xx"}, "bad"), ({"flag": "UF"}, "bad"),
     ({"status": "0"}, "bad"), ({"flag": "DI"}, "all")],
)  # fmt: skip
def test_what_failed_is_asked_for_by_itself(given: dict[str, Any], which: str) -> None:
    assert Filter(service="api", **given).question == f"/ended/api,{which},-"


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """``one`` has a program to ask with, ``two`` has nothing."""
    ports = free_ports(6)
    hosts = "".join(
        f"""\
  - name: {name}
    transport: local
    root: {tmp_path}/{name}
    proxy: {{admin_port: {ports[3 * number]}, inbound_port: {ports[3 * number + 1]}}}
    services: [{{name: {service}, port: {ports[3 * number + 2]}}}]
"""
        for number, (name, service) in enumerate((("one", "api"), ("two", "db")))
    )
    python = Path(Layout(f"{tmp_path}/one").python)
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = f'version: 1\nconsul: {{mode: embedded, address: "http://127.0.0.1:1"}}\nhosts:\n{hosts}'
    return parse(text, tmp_path / "inventory.yaml")


class Proxy:
    """The ring of a proxy behind a real admin port."""

    def __init__(self) -> None:
        self._families = DataPlaneMetrics(Metrics())
        self.recent = self._families.recent
        self.recent.host = HostName("one")
        self.asked = asyncio.Event()
        self._clock = 0.0

    def end(self, request_id: str, status: int = 200, service: str = "api") -> None:
        head = parse_request(f"GET / HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}".encode())
        exchange: Any = SimpleNamespace(
            head=head, target=None, rule=None, tried=(), tries=1, status=status, flag="", policy="",
            started=0.0, headed=0.0, body_bytes=0, response_bytes=0, detail="", grpc=None,
            span=None, queue_s=0.0, connect_s=0.0, waits_since=0.0,
        )  # fmt: skip
        self._clock += 0.01
        reporter = Reporter(self._families, "source", "web", "spiffe://web", service)
        reporter.answered(exchange, self._clock)

    async def answer(self, segment: str) -> Answer:
        service, which, cursor = segment.split(",")
        told = self.recent.ended(
            Wanted(
                service=service, is_bad_only=which == "bad", cursor=cursor if cursor != "-" else ""
            )
        )
        self.asked.set()
        body = {
            "host": "one", "requests": told.requests, "missed": told.missed,
            "next": f"{service},{which},{told.next}",
        }  # fmt: skip
        return json_answer(body)


@pytest.fixture
async def proxy(inventory: Inventory) -> AsyncIterator[Proxy]:
    made = Proxy()

    async def alone() -> Answer:
        return text_answer("ask below", 400)

    admin = Admin({"/ended": Route(method="GET", handler=alone, below=made.answer)})
    await admin.start("127.0.0.1", inventory.hosts[0].proxy.admin_port)
    yield made
    await admin.close()


async def collected(
    inventory: Inventory, proxy: Proxy, ended: Any, *, hosts: int = 1, most: int = 100,
    per_s: float = 1e4, for_s: float = DEADLINE_S, **given: Any,
) -> list[Event]:  # fmt: skip
    """``ended`` is called once the proxy was asked for the first time."""
    connections = Connections(inventory.hosts, known_hosts=inventory.source.parent / "known_hosts")
    wanted = Filter(service="api", workloads=frozenset({"web"}), **given)

    async def play() -> None:
        await proxy.asked.wait()
        ended()

    playing = asyncio.create_task(play())
    events: list[Event] = []
    try:
        async with (
            asyncio.timeout(DEADLINE_S),
            aclosing(
                tap(
                    inventory.hosts[:hosts], connections, wanted,
                    for_s=for_s, most=most, per_s=per_s,
                )
            ) as told,
        ):  # fmt: skip
            events += [event async for event in told]
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        await connections.close()
    return events


def ids(events: list[Event]) -> list[str]:
    return [event.id for event in events if isinstance(event, SeenRequest)]


async def test_calls_are_told_in_order_until_there_were_enough(
    inventory: Inventory, proxy: Proxy
) -> None:
    proxy.end("before")

    def ended() -> None:
        proxy.end("other", service="db")
        for number in range(8):
            proxy.end(f"r{number}")

    events = await collected(inventory, proxy, ended, most=5)
    assert ids(events) == ["r0", "r1", "r2", "r3", "r4"]


async def test_what_the_proxy_could_not_keep_is_told_as_a_gap(
    inventory: Inventory, proxy: Proxy
) -> None:
    def ended() -> None:
        for number in range(KEPT + 10):
            proxy.end(f"r{number}")

    events = await collected(inventory, proxy, ended, most=MAX_ENDED)
    (gap,) = [event for event in events if isinstance(event, Gap)]
    assert (gap.host, gap.missed) == ("one", KEPT + 10 - MAX_ENDED)


async def test_a_flood_of_good_calls_hides_no_failed_one(
    inventory: Inventory, proxy: Proxy
) -> None:
    def ended() -> None:
        proxy.end("failed", status=503)
        for number in range(KEPT + 10):
            proxy.end(f"r{number}")

    events = await collected(inventory, proxy, ended, most=1, status="5xx")
    assert ids(events) == ["failed"]
    assert not [event for event in events if isinstance(event, Gap)]


async def test_more_than_may_be_shown_in_a_second_is_counted(
    inventory: Inventory, proxy: Proxy
) -> None:
    def ended() -> None:
        for number in range(100):
            proxy.end(f"r{number}")

    # Long enough for one to be shown, and for the others to be held back.
    events = await collected(inventory, proxy, ended, per_s=1.0, for_s=5.0)
    held = sum(event.count for event in events if isinstance(event, Held))
    assert len(ids(events)) + held == 100
    assert held > 50


async def test_a_host_that_cannot_be_asked_is_named_once_and_holds_up_nobody(
    inventory: Inventory, proxy: Proxy
) -> None:
    def ended() -> None:
        for number in range(3):
            proxy.end(f"r{number}")

    events = await collected(inventory, proxy, ended, hosts=2, for_s=6.0)
    assert ids(events) == ["r0", "r1", "r2"]
    assert [event.host for event in events if isinstance(event, Silent)] == ["two"]
