"""One outbound port for all HTTP upstreams, told apart by Host."""

from typing import Any

import pytest


@pytest.mark.parametrize("host", ["api", "api.mesh", "API.mesh:80", "api.mesh.test", "api:15001"])
async def test_the_host_selects_the_service(grid: Any, host: str) -> None:
    await grid.serve("api", "a1")
    await grid.serve("orders", "o1")
    grid.apply()
    client = await grid.connect_hosts()
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert (await client.response()).body == b"a1"
    client.send(b"GET / HTTP/1.1\r\nHost: orders.mesh\r\n\r\n")
    assert (await client.response()).body == b"o1"


async def test_it_is_usable_as_http_proxy(grid: Any) -> None:
    app = await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect_hosts()
    client.send(b"GET http://api.mesh/path?q=1 HTTP/1.1\r\nHost: elsewhere\r\n\r\n")
    assert (await client.response()).body == b"a1"
    assert app.requests[0].target == "/path?q=1"
    assert app.requests[0].all("host") == ["api.mesh"]


@pytest.mark.parametrize(
    "host", ["undeclared.mesh", "db.mesh", "example.com", "[::1]:80", "api.mesh.evil", ""]
)
async def test_any_other_host_is_refused_with_the_reason(grid: Any, host: str) -> None:
    await grid.serve("api", "a1")
    grid.apply()
    client = await grid.connect_hosts()
    client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    response = await client.response()
    assert (response.status, response.headers["x-mesh-flag"]) == (404, "NR")
    assert b"no upstream of web" in response.body or b"without Host" in response.body
