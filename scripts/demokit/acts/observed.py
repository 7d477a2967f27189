"""What the mesh tells of calls, to whoever asks and to a receiver of traces."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from demokit.load import Load, ask
from demokit.receiver import Receiver, Span
from demokit.scene import Scene
from demokit.stage import ActFailed, holds, quote, say

CLAIM = "Every call is seen: live figures, the one that failed, a trace across three services"

REQUEST_ID = "demo-failed"
TRIES = 20
TRACE_ID, CALLER_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
POLICY = """\
services:
  api:
    load_balancing: {algorithm: round_robin}
    tracing: {header: x-debug}   # besides: what a caller has sampled
telemetry:
  otlp: %s
"""


def show(scene: Scene) -> None:
    with Receiver() as receiver:
        policy = POLICY % receiver.url
        quote(policy)
        scene.put_in_force(policy)
        figures(scene)
        failed(scene)
        traced(scene, receiver)


def figures(scene: Scene) -> None:
    """While there is traffic, without anything that was installed or configured for it."""
    with traffic(scene.ports.web_to_api):
        scene.meshctl("top", "--once", "--interval", "1")
        scene.meshctl("edges", "--interval", "1")
        edges = scene.ask_meshctl("edges", "--since-start")["edges"]
    calls = {(edge["caller"], edge["service"]): edge for edge in edges}
    seen = [calls[pair] for pair in (("web", "api"), ("api", "users")) if pair in calls]
    holds(
        len(seen) == 2
        and all(_rate(edge) > 0 and edge["security"] == "mutual_tls" for edge in seen),
        "who calls whom, how often, and that it is secured",
    )


def _rate(edge: dict[str, Any]) -> float:
    return float((edge["signals"] or {}).get("per_s", 0.0))


def failed(scene: Scene) -> None:
    scene.services.breaks("api v2")
    try:
        answers = (
            ask(scene.ports.web_to_api, "/hello", headers={"x-request-id": f"{REQUEST_ID}-{n}"})
            for n in range(TRIES)
        )
        number = next((n for n, answer in enumerate(answers) if answer.status == 503), None)
    finally:
        scene.services.mends("api v2")
    if number is None:
        raise ActFailed("no request failed")
    where = f"request_id = {REQUEST_ID}-{number}"
    scene.meshctl("logs", "api", "--where", where)
    scene.wait_answers("api v2")


def traced(scene: Scene, receiver: Receiver) -> None:
    sampled = {"traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01"}
    ask(scene.ports.web_to_api, "/", headers=sampled)
    spans = receiver.trace(TRACE_ID, 4)
    for depth, span in enumerate(spans):
        say(f"{'  ' * depth}{span.service:6} {span.kind:6} {span.name}  {span.ms:.1f} ms")
    holds(
        _path(spans) == ["web CLIENT", "api SERVER", "api CLIENT", "users SERVER"],
        "one trace, each span the child of the one before: both sides of both calls",
    )


def _path(spans: list[Span]) -> list[str]:
    """From the first on, as long as each has one child."""
    children = {span.parent_id: span for span in spans}
    found: list[str] = []
    at = children.get(CALLER_ID)
    while at is not None and len(found) < len(spans):
        found.append(f"{at.service} {at.kind}")
        at = children.get(at.span_id)
    return found


@contextmanager
def traffic(port: int) -> Iterator[None]:
    """Requests that go on until the context ends."""
    loop = asyncio.new_event_loop()
    until = asyncio.Event()
    load = Load(port=port)
    thread = threading.Thread(target=lambda: loop.run_until_complete(load.run(0, until)))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(until.set)
        thread.join()
        loop.close()
