"""The API of access control, where what answers is not the Consul that was hoped for."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from meshctl.acl import Token
from meshctl.consul.access import AccessEdge, NotReady, Spent
from meshctl.errors import RemoteFailure

MANAGEMENT = Token("0b0b0b0b-0000-4000-8000-000000000000")


@pytest.fixture
async def edge_to() -> AsyncIterator[Callable[[int, str], Any]]:
    """An edge to a server that gives the same answer to everything."""
    runners: list[web.AppRunner] = []

    async def start(status: int, text: str) -> AccessEdge:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=status, text=text)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return AccessEdge(f"http://{host}:{port}", MANAGEMENT)

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "nonsense", '{"SecretID": "a\\r\\nX: 1", "AccessorID": "../x"}']
)
async def test_what_is_not_a_token_is_not_taken_for_one(edge_to: Any, text: str) -> None:
    async with await edge_to(200, text) as edge:
        for call in (edge.bootstrap, edge.own_accessor):
            with pytest.raises(RemoteFailure, match="not Consul"):
                await call()


@pytest.mark.parametrize("text", ["{}x", "[1]", '[{"ID": "../../x", "AccessorID": "x"}]'])
async def test_what_is_not_a_list_of_them_is_refused(edge_to: Any, text: str) -> None:
    async with await edge_to(200, text) as edge:
        for call in (edge.policies, edge.tokens):
            with pytest.raises(RemoteFailure, match="not Consul"):
                await call()


@pytest.mark.parametrize("status", [401, 500, 503])
async def test_access_control_that_is_not_there_yet_may_be_asked_again(
    edge_to: Any, status: int
) -> None:
    async with await edge_to(status, "ACL support disabled") as edge:
        for call in (edge.bootstrap, edge.own_accessor, edge.policies, edge.tokens):
            with pytest.raises(NotReady) as caught:
                await call()
            assert MANAGEMENT.secret not in str(caught.value) + caught.value.output


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (403, "Permission denied: ACL bootstrap no longer allowed (reset index: 27)"),
        (500, "Invalid bootstrap reset index (specified 13, reset index: 27)"),
    ],
)
async def test_a_second_management_token_has_its_price(
    edge_to: Any, status: int, text: str
) -> None:
    async with await edge_to(status, text) as edge:
        with pytest.raises(Spent) as caught:
            await edge.bootstrap()
    assert caught.value.reset_index == 27


async def test_a_management_token_that_consul_does_not_know_is_no_error(edge_to: Any) -> None:
    async with await edge_to(403, "ACL not found") as edge:
        assert await edge.own_accessor() is None
        with pytest.raises(RemoteFailure, match="denies the management"):
            await edge.policies()
