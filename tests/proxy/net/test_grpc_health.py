"""Health by gRPC, against grpcio's own health service."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from proxy.core import grpc_health
from proxy.model.settings import Address, HealthCheck
from proxy.net.health import probe

SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


class Application:
    def __init__(self, *, has_health: bool = True) -> None:
        self._server = grpc.server(ThreadPoolExecutor(2))
        self.health = health.HealthServicer()
        if has_health:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait(5)


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    made = Application()
    yield made
    await asyncio.to_thread(made.stop)


async def failure_of(port: int, service: str = "", **more: Any) -> str | None:
    check = HealthCheck(kind="grpc", grpc_service=service, timeout_s=5.0)
    return await probe(Address(host="127.0.0.1", port=port), check, **more)


@pytest.mark.parametrize("service", ["", "a", "orders.v1.Orders", "x" * 256])
def test_the_question_is_what_protobuf_makes_of_it(service: str) -> None:
    message = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    assert grpc_health.question(service) == b"\0" + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize("status", health_pb2.HealthCheckResponse.ServingStatus.values())
def test_the_answer_is_read_as_protobuf_means_it(status: int) -> None:
    message = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    body = b"\0" + len(message).to_bytes(4, "big") + message
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    said = grpc_health.failure(200, [b"grpc-status: 0"], body)
    assert said == (None if name == "SERVING" else f"gRPC health check answered {name}")


@pytest.mark.parametrize("protocol", ["grpc", "http2", "tcp"])
async def test_a_real_server_says_how_its_services_are(
    application: Application, protocol: str
) -> None:
    application.health.set("orders.v1.Orders", SERVING)
    port = application.port
    assert await failure_of(port, protocol=protocol) is None
    assert await failure_of(port, "orders.v1.Orders", protocol=protocol) is None
    application.health.set("orders.v1.Orders", NOT_SERVING)
    assert "NOT_SERVING" in (await failure_of(port, "orders.v1.Orders", protocol=protocol) or "")
    assert await failure_of(port, protocol=protocol) is None
    assert "NOT_FOUND" in (await failure_of(port, "nobody", protocol=protocol) or "")


async def test_a_server_without_a_health_service_is_not_well() -> None:
    without = Application(has_health=False)
    try:
        said = await failure_of(without.port)
    finally:
        await asyncio.to_thread(without.stop)
    assert said is not None
    assert "UNIMPLEMENTED" in said


async def test_an_application_of_http_1_1_is_not_well(scripted: Any, reply: Any) -> None:
    async def script(head: str, reader: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"", status=400))

    scripted.script = script
    said = await failure_of(scripted.port)
    assert said is not None
    assert "not HTTP/2" in said
