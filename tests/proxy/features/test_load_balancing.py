"""Load balancing through real proxies; what each algorithm does in detail is simulated."""

import asyncio
from typing import Any

import pytest

from proxy.model.policy import Balancing, ServicePolicy
from proxy.model.routing import HashOn

ALGORITHMS = ("peak_ewma", "least_request", "round_robin", "random")


def slow(delay_s: float, body: bytes = b"slow") -> Any:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(delay_s)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    return script


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_endpoint_gets_a_share(grid: Any, algorithm: Any) -> None:
    for host in ("a1", "a2", "a3"):
        await grid.serve("api", host)
    grid.policy["api"] = ServicePolicy(balancing=Balancing(algorithm=algorithm))
    grid.apply()
    if algorithm == "round_robin":
        client = await grid.connect()
        assert set((await grid.count(client, 90)).values()) == {30}
        return
    for host, app in grid.apps.items():
        app.script = slow(0.01, host.encode())
    clients = [await grid.connect() for _ in range(6)]
    seen = await asyncio.gather(*(grid.count(client, 15) for client in clients))
    assert set().union(*seen) == {"a1", "a2", "a3"}


async def test_peak_ewma_turns_away_from_a_slow_endpoint(grid: Any) -> None:
    for host in ("a1", "a2"):
        await grid.serve("api", host)
    app = await grid.serve("api", "slow")
    app.script = slow(0.2)
    grid.apply()
    clients = [await grid.connect() for _ in range(4)]
    seen = await asyncio.gather(*(grid.count(client, 25) for client in clients))
    assert 1 <= sum(each.get("slow", 0) for each in seen) <= 12


async def test_least_request_turns_away_from_a_busy_endpoint(grid: Any) -> None:
    await grid.serve("api", "a1")
    app = await grid.serve("api", "slow")
    app.script = slow(0.3)
    grid.policy["api"] = ServicePolicy(balancing=Balancing(algorithm="least_request"))
    grid.apply()
    clients = [await grid.connect() for _ in range(6)]
    seen = await asyncio.gather(*(grid.count(client, 10) for client in clients))
    assert 1 <= sum(each.get("slow", 0) for each in seen) <= 20


@pytest.mark.parametrize("algorithm", ["ring_hash", "maglev"])
@pytest.mark.parametrize("on", ["header", "cookie", "source"])
async def test_hashing_keeps_equal_requests_together(grid: Any, algorithm: Any, on: str) -> None:
    for host in ("a1", "a2", "a3"):
        await grid.serve("api", host)
    hash_on = {
        "header": HashOn(header="x-user"),
        "cookie": HashOn(cookie="sid"),
        "source": HashOn(source=True),
    }[on]
    grid.policy["api"] = ServicePolicy(balancing=Balancing(algorithm=algorithm, hash_on=hash_on))
    grid.apply()
    client = await grid.connect()
    winners = set()
    for user in range(20):
        header = {"header": f"X-User: u{user}\r\n", "cookie": f"Cookie: b=1; sid=u{user}\r\n"}
        seen = await grid.count(client, 3, headers=header.get(on, ""))
        assert len(seen) == 1
        winners |= seen.keys()
    assert len(winners) == (1 if on == "source" else 3)


async def test_a_client_without_the_cookie_is_given_one_that_keeps_it_where_it_is(
    grid: Any,
) -> None:
    for host in ("a1", "a2", "a3"):
        await grid.serve("api", host)
    grid.policy["api"] = ServicePolicy(
        balancing=Balancing(algorithm="ring_hash", hash_on=HashOn(cookie="sid", ttl_s=60))
    )
    grid.apply()
    client = await grid.connect()
    for _ in range(5):
        first = await client.get()
        cookie = first.headers["set-cookie"]
        assert "Max-Age=60" in cookie
        again = await client.get(headers=f"Cookie: {cookie.partition(';')[0]}\r\n")
        assert again.body == first.body
        assert "set-cookie" not in again.headers


async def test_weights_divide_the_requests(grid: Any) -> None:
    await grid.serve("api", "a1", weight=1)
    await grid.serve("api", "a3", weight=3)
    await grid.serve("api", "none", weight=0)
    grid.policy["api"] = ServicePolicy(balancing=Balancing(algorithm="round_robin"))
    grid.apply()
    assert await grid.count(await grid.connect(), 40) == {"a1": 10, "a3": 30}


async def test_a_new_endpoint_starts_slowly(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(
        balancing=Balancing(algorithm="round_robin", slow_start_s=60)
    )
    grid.apply()
    client = await grid.connect()
    await grid.count(client, 5)
    await grid.serve("api", "new")
    grid.apply()
    seen = await grid.count(client, 110)
    assert 1 <= seen["new"] <= 20


async def test_the_own_zone_is_preferred_and_spills_over(cold_grid: Any) -> None:
    grid = cold_grid
    grid.zone = "z1"
    await grid.start()
    for host, zone in (("near1", "z1"), ("near2", "z1"), ("far1", "z2"), ("far2", "z2")):
        await grid.serve("api", host, zone=zone)
    grid.defaults = ServicePolicy(balancing=Balancing(algorithm="round_robin"))
    grid.apply()
    client = await grid.connect()
    assert set(await grid.count(client, 60)) == {"near1", "near2"}
    near1 = next(p for p in grid.cluster("api").pools if p.endpoint.host == "near1")
    near1.is_failing = True
    grid.cluster("api").refresh()
    seen = await grid.count(client, 200)
    assert "near1" not in seen
    # 1 of 2 at home times 1.4: 70 % stay.
    assert 100 <= seen["near2"] <= 180


async def test_zone_ignore_uses_all(cold_grid: Any) -> None:
    grid = cold_grid
    grid.zone = "z1"
    await grid.start()
    await grid.serve("api", "near1", zone="z1")
    await grid.serve("api", "far1", zone="z2")
    grid.defaults = ServicePolicy(balancing=Balancing(algorithm="round_robin", zone="ignore"))
    grid.apply()
    assert await grid.count(await grid.connect(), 20) == {"near1": 10, "far1": 10}


async def test_what_was_learned_survives_a_new_table(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect()
    await grid.count(client, 3)
    (before,) = grid.cluster("api").pools
    await grid.serve("api", "a2")
    grid.apply()
    assert before in grid.cluster("api").pools
    assert before.is_measured
