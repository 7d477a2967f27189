"""The admin port tells of single requests, of one id or the newest, for all workers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.net.admin import Admin, Answer, Route, text_answer


async def _handler() -> Answer:
    return text_answer("all")


async def _one(segment: str) -> Answer:
    return text_answer(f"one {segment}")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    admin = Admin(
        {
            "/requests": Route(method="GET", handler=_handler, below=_one),
            "/status": Route(method="GET", handler=_handler),
        }
    )
    yield await admin.start("127.0.0.1", 0)
    await admin.close()


async def asked(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body.decode().strip()


async def test_a_path_below_one_that_takes_them_is_answered_with_its_segment(port: int) -> None:
    assert await asked(port, "/requests") == (200, "all")
    assert await asked(port, "/requests/a%2Fb?x=1") == (200, "one a%2Fb")


@pytest.mark.parametrize("path", ["/requests/", "/requests/a/b", "/status/a", "/other/a", "/"])
async def test_no_other_path_is(port: int, path: str) -> None:
    assert (await asked(port, path))[0] == 404
