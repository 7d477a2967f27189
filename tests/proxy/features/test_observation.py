"""Calls looked at for a while, through two data planes."""

from typing import Any

from proxy.model.authorization import Intention
from proxy.model.observed import Observed, PlaintextCaller, SeenCall, together
from proxy.model.policy import ServicePolicy
from proxy.model.routing import Match, PathMatch
from proxy.net import observation


def kinds(plane: Any) -> set[tuple[str, ...]]:
    return {
        (each.caller, each.method, each.path, str(each.allowed), str(each.denied))
        for each in plane.observed().calls
    }


async def test_nothing_is_looked_at_until_somebody_asks(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect()
    assert (await client.get("/x")).status == 200
    plane = grid.planes["a1"]
    assert plane.observed() == Observed()
    plane.observe(60)
    assert plane.observed().left_s > 0
    for target in ("/x", "/users/1", "/users/2?secret=3"):
        assert (await client.get(target)).status == 200
    assert kinds(plane) == {("web", "GET", "/x", "1", "0"), ("web", "GET", "/users/*", "2", "0")}
    plane.observe(0)
    assert (await client.get("/x")).status == 200
    assert plane.observed() == Observed()


async def test_what_is_denied_is_seen_with_what_denied_it(grid: Any) -> None:
    await grid.serve("api", "a1")
    closed = Intention(name="closed", deny=("*",), match=Match(path=PathMatch(prefix="/admin")))
    grid.policy["api"] = ServicePolicy(intentions=(closed, Intention(name="all", allow=("*",))))
    grid.apply()
    plane = grid.planes["a1"]
    plane.observe(60)
    client = await grid.connect()
    assert (await client.get("/admin/7")).status == 403
    (found,) = plane.observed().calls
    assert (found.denied, found.policy, found.path) == (1, "api/closed", "/admin/*")


async def test_sessions_are_seen_by_caller(grid: Any) -> None:
    app = await grid.serve("db", "d1")

    async def greet(_: Any, writer: Any) -> None:
        writer.write(b"hello")

    app.script = greet
    grid.apply()
    grid.planes["d1"].observe(60)
    web = await grid.connect("db")
    assert await web.reader.readexactly(5) == b"hello"
    assert kinds(grid.planes["d1"]) == {("web", "", "", "1", "0")}


async def test_it_ends_by_itself_and_keeps_what_was_seen(grid: Any, monkeypatch: Any) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    plane, client = grid.planes["a1"], await grid.connect()
    plane.observe(60)
    assert (await client.get("/x")).status == 200
    now = observation.monotonic
    monkeypatch.setattr(observation, "monotonic", lambda: now() + 61)
    plane._tick()
    for _ in range(10):
        plane._tick()
    assert (await client.get("/y")).status == 200
    assert kinds(plane) == {("web", "GET", "/x", "1", "0")}
    assert plane.observed().left_s == 0


async def test_there_is_room_for_so_many_kinds(grid: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(observation, "MAX_KINDS", 3)
    await grid.serve("api", "a1")
    grid.apply()
    grid.planes["a1"].observe(60)
    client = await grid.connect()
    for target in "abcde":
        assert (await client.get(f"/{target}")).status == 200
    told = grid.planes["a1"].observed()
    assert (len(told.calls), told.left_out) == (3, 2)


def test_several_processes_have_seen_what_one_would_have() -> None:
    def call(path: str, allowed: int, **more: Any) -> SeenCall:
        return SeenCall(
            service="api", caller="web", method="GET", path=path, allowed=allowed, **more
        )

    def caller(count: int, first_at: float, last_at: float) -> PlaintextCaller:
        return PlaintextCaller(
            service="api", source="10.0.0.9", count=count, first_at=first_at, last_at=last_at
        )

    whole = together((
        Observed(calls=(call("/b", 1), call("/a", 2)), left_out=1, plaintext=(caller(2, 5, 6),)),
        Observed(calls=(call("/a", 3, denied=1, policy="api/x"),), left_s=4, left_out=2),
        Observed(plaintext=(caller(1, 1, 2),)),
    ))  # fmt: skip
    assert whole == Observed(
        calls=(call("/a", 5, denied=1, policy="api/x"), call("/b", 1)),
        left_out=3,
        left_s=4,
        plaintext=(caller(3, 1, 6),),
    )
