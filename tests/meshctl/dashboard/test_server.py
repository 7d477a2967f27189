"""Over real sockets: who gets in, with which headers, and what is there."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from browser import made

from meshctl.dashboard import feed
from meshctl.dashboard.guard import Guard
from meshctl.dashboard.past import Past
from meshctl.dashboard.server import serving
from meshctl.errors import MeshError, Refused

PATIENCE = aiohttp.ClientTimeout(total=30)


@pytest.fixture
async def guard() -> AsyncIterator[Guard]:
    past = Past()

    def ask(query: Mapping[str, str]) -> Any:
        if not query:
            raise MeshError("what?", hint="ask something")
        return {"asked": dict(query)}

    sources = (made.Live(past), *made.slow_ones())
    async with serving(sources, port=0, past=past, asks={"it": ask}) as found:
        yield found


def session(**options: Any) -> aiohttp.ClientSession:
    jar = aiohttp.CookieJar(unsafe=True)  # of an address, as browsers do
    return aiohttp.ClientSession(timeout=PATIENCE, cookie_jar=jar, **options)


async def test_without_token_or_cookie_nothing_is_told(guard: Guard) -> None:
    async with session() as client:
        for path in ("", "live", "page/main.js", "page/index.html", "ask/past", "nothing"):
            async with client.get(guard.address + path) as answer:
                assert answer.status == 403, path
                assert "shop" not in await answer.text()


@pytest.mark.parametrize("token", ["", "wrong", "%ff%fe", "é" * 40])
async def test_a_wrong_token_is_no_way_in(guard: Guard, token: str) -> None:
    async with session() as client, client.get(f"{guard.address}?token={token}") as answer:
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers


async def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(
    guard: Guard,
) -> None:
    async with session() as client:
        async with client.get(guard.url) as answer:
            assert answer.status == 200
            cookie = answer.headers["Set-Cookie"]
            assert guard.token not in cookie + await answer.text()
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
        async with client.get(guard.address) as answer:
            assert answer.status == 200
            assert "<title>meshctl dashboard</title>" in await answer.text()


async def test_every_answer_forbids_everything_but_the_page_itself(guard: Guard) -> None:
    async with session() as client:
        await client.get(guard.url)
        for path in ("", "page/main.js", "live", "ask/past", "nothing", "?token=wrong"):
            async with client.get(guard.address + path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy, path
                assert "unsafe" not in policy
                assert "http" not in policy
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "evil.test"),
        ("Host", "localhost"),
        ("Origin", "http://evil.test"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ],
)
async def test_other_sites_and_other_names_get_nothing_even_with_the_cookie(
    guard: Guard, name: str, value: str
) -> None:
    async with session() as client:
        await client.get(guard.url)
        async with client.get(f"{guard.address}ask/past", headers={name: value}) as answer:
            assert answer.status in (403, 421)
        async with client.get(f"{guard.address}ask/past") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_it_only_shows(guard: Guard, method: str) -> None:
    async with session() as client:
        await client.get(guard.url)
        async with client.request(method, guard.address) as answer:
            assert answer.status == 405


@pytest.mark.parametrize(
    "path", ["page/server.py", "page/..%2fserver.py", "page/%2e%2e/guard.py", "page/", "ask/no"]
)
async def test_only_the_pages_own_files_are_there(guard: Guard, path: str) -> None:
    async with session() as client:
        await client.get(guard.url)
        async with client.get(guard.address + path) as answer:
            assert answer.status == 404


async def test_a_question_is_answered_or_says_why_not(guard: Guard) -> None:
    async with session() as client:
        await client.get(guard.url)
        async with client.get(f"{guard.address}ask/it?a=1") as answer:
            assert await answer.json() == {"asked": {"a": "1"}}
        async with client.get(f"{guard.address}ask/it") as answer:
            assert answer.status == 400
            assert await answer.json() == {"error": {"message": "what?", "hint": "ask something"}}


async def test_views_come_one_after_the_other_over_one_answer(guard: Guard) -> None:
    async with session() as client:
        await client.get(guard.url)
        async with client.get(f"{guard.address}live") as answer, asyncio.timeout(30):
            assert answer.content_type == "text/event-stream"
            views = 0
            async for line in answer.content:
                views += line.startswith(b"event: view")
                if views == 3:
                    return


async def test_more_tabs_than_allowed_are_refused(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_TABS", 1)
    async with session() as client:
        await client.get(guard.url)
        async with client.get(f"{guard.address}live") as first:
            assert first.status == 200
            async with client.get(f"{guard.address}live") as second:
                assert second.status == 429


async def test_a_port_that_is_taken_is_refused_with_a_hint(guard: Guard) -> None:
    port = int(guard.address.rstrip("/").rpartition(":")[2])
    with pytest.raises(Refused, match="cannot be listened on") as caught:
        async with serving((), port=port, past=Past()):
            raise AssertionError
    assert "--port 0" in caught.value.hint
