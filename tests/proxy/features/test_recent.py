"""What both proxies remember of a request that was really made."""

from typing import Any

from proxy.model.authorization import Intention
from proxy.model.policy import Route, ServicePolicy
from proxy.model.routing import Match, PathMatch, Rewrite


async def test_both_sides_remember_a_request_under_its_id(grid: Any) -> None:
    await grid.serve("api", "a1")
    route = Route(name="old", match=Match(path=PathMatch(prefix="/x")), rewrite=Rewrite(path="/y"))
    grid.policy["api"] = ServicePolicy(routes=(route,))
    grid.apply()
    assert (await (await grid.connect()).get("/x?q=1", "X-Request-Id: r-1\r\n")).status == 200
    (near,) = grid.planes["near"].recent.find("r-1")
    (far,) = grid.planes["a1"].recent.find("r-1")
    assert (near.side, near.host, near.route, near.path) == ("source", "near", "old", "/y")
    assert (near.endpoints, near.tries, near.status) == (("api on a1",), 1, 200)
    assert (far.side, far.host, far.caller, far.path) == ("destination", "a1", "web", "/y")


async def test_a_denial_is_remembered_with_its_policy_at_both_sides(grid: Any) -> None:
    await grid.serve("api", "a1")
    grid.policy["api"] = ServicePolicy(intentions=(Intention(name="no", deny=("web",)),))
    grid.apply()
    assert (await (await grid.connect()).get("/", "X-Request-Id: r-2\r\n")).status == 403
    for host in ("near", "a1"):
        (seen,) = grid.planes[host].recent.find("r-2")
        assert (seen.status, seen.flag, seen.policy) == (403, "UAEX", "api/no")


async def test_an_id_that_the_proxy_gave_is_found_as_well(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.apply()
    await (await grid.connect()).get()
    (given,) = app.requests[-1].all("x-request-id")
    assert grid.planes["near"].recent.find(given)
    assert grid.planes["a1"].recent.find(given)


async def test_no_endpoint_was_tried_where_none_is_known(grid: Any) -> None:
    grid.apply()
    assert (await (await grid.connect()).get("/", "X-Request-Id: r-3\r\n")).status == 503
    (seen,) = grid.planes["near"].recent.find("r-3")
    assert (seen.endpoints, seen.tries, seen.flag) == ((), 0, "UH")
