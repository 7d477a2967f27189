"""Active health checks by gRPC, through the mesh."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from msgspec import structs

from proxy.core import grpc_health
from proxy.model.policy import Balancing, ServicePolicy
from proxy.model.resilience import ActiveHealth, OutlierDetection

NAME = "orders.v1.Orders"
CHECK = ActiveHealth(
    kind="grpc", grpc_service=NAME, interval_s=0.05, unhealthy_after=2, healthy_after=2
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n"
MESSAGE = b"7\r\n\0\0\0\0\x02\x08%c\r\n0\r\n"


async def until(condition: Any, deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.005)


def checked() -> ServicePolicy:
    return ServicePolicy(
        balancing=Balancing(algorithm="round_robin"),
        outlier_detection=OutlierDetection(consecutive_failures=0),
        health_check=CHECK,
    )


async def asked(grid: Any, answer: bytes) -> Any:
    """The pool of the only endpoint of orders, which answers its check so."""
    app = await grid.serve("orders", "o1")
    app.answer = lambda _: answer
    grid.policy["orders"] = checked()
    grid.apply()
    (pool,) = grid.cluster("orders").pools
    return app, pool


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (HEAD + MESSAGE % 2 + b"grpc-status: 0\r\n\r\n", "NOT_SERVING"),
        (HEAD + MESSAGE % 1 + b"grpc-status: 14\r\ngrpc-message: no%20disk\r\n\r\n", "no disk"),
        (HEAD + MESSAGE % 1 + b"\r\n", "without a grpc-status"),
        (HEAD + b"0\r\ngrpc-status: 0\r\n\r\n", "without a message"),
        (HEAD + b"2000\r\n" + bytes(8192) + b"\r\n", "longer than 4096 bytes"),
        (b"HTTP/1.1 200 OK\r\ngrpc-status: 12\r\nContent-Length: 0\r\n\r\n", "UNIMPLEMENTED"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "HTTP 404"),
        (b"nonsense\r\n\r\n", "status 502"),
    ],
    ids=["word", "status", "no-status", "no-message", "endless", "head-only", "http", "no-answer"],
)  # fmt: skip
async def test_an_endpoint_that_does_not_say_serving_is_failing_and_says_why(
    grid: Any, answer: bytes, why: str
) -> None:
    _, pool = await asked(grid, answer)
    await until(lambda: pool.is_failing)
    assert why in pool.why


@pytest.mark.parametrize("begins", [b"", HEAD + b"7\r\n\0"], ids=["silent", "stuck"])
async def test_an_endpoint_that_does_not_end_its_answer_is_failing(
    grid: Any, begins: bytes
) -> None:
    app, pool = await asked(grid, b"")

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(begins)
        await asyncio.Event().wait()

    app.script = script
    grid.policy["orders"] = structs.replace(
        checked(), health_check=structs.replace(CHECK, timeout_s=0.05, unhealthy_after=1)
    )
    grid.apply()
    await until(lambda: pool.is_failing)
    assert "UT" in pool.why


async def test_an_endpoint_that_says_serving_is_back(grid: Any) -> None:
    app, pool = await asked(grid, HEAD + MESSAGE % 2 + b"grpc-status: 0\r\n\r\n")
    await until(lambda: pool.is_failing)
    app.answer = lambda _: HEAD + MESSAGE % 1 + b"grpc-status: 0\r\n\r\n"
    await until(lambda: not pool.is_failing)
    request = app.requests[0]
    assert request.target == "/grpc.health.v1.Health/Check"
    assert request.all("content-type") == ["application/grpc"]
    assert request.all("te") == ["trailers"]
    assert request.body == grpc_health.question(NAME)


class Application:
    """grpcio's own server and health service."""

    def __init__(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(2))
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def says(self, status: Any) -> None:
        self.health.set(NAME, status)

    def stop(self) -> None:
        self._server.stop(0).wait(5)


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    made = Application()
    yield made
    await asyncio.to_thread(made.stop)


async def test_a_real_grpc_server_is_asked_through_both_proxies(
    grid: Any, application: Application
) -> None:
    application.says(health_pb2.HealthCheckResponse.NOT_SERVING)
    await grid.serve("orders", "o1", protocol="grpc", port=application.port)
    grid.policy["orders"] = checked()
    grid.apply()
    (pool,) = grid.cluster("orders").pools
    await until(lambda: pool.is_failing)
    assert "NOT_SERVING" in pool.why
    application.says(health_pb2.HealthCheckResponse.SERVING)
    await until(lambda: not pool.is_failing)
