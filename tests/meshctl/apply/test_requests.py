"""All hosts are asked what they remember of a request, by the program that is there."""

import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshctl.apply.requests import remembered
from meshctl.inventory.model import Inventory
from meshctl.inventory.parse import parse
from meshctl.layout import Layout
from meshctl.transport.connect import Connections
from proxy.model.names import HostName
from proxy.model.recent import SeenRequest, SeenRequests
from proxy.net.admin import Admin, Answer, Route, json_answer


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """``one`` has a program to ask with, ``two`` has nothing, ``three`` carries nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hosts = "".join(
        f"""\
  - name: {name}
    transport: local
    root: {tmp_path}/{name}
    proxy: {{admin_port: {port + number}, inbound_port: {port + 10 + number}}}
    services: [{services}]
"""
        for number, (name, services) in enumerate(
            (
                ("one", f"{{name: api, port: {port + 20}}}"),
                ("two", f"{{name: db, port: {port + 21}}}"),
                ("three", ""),
            )
        )
    )  # fmt: skip
    python = Path(Layout(f"{tmp_path}/one").python)
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = f'version: 1\nconsul: {{mode: embedded, address: "http://127.0.0.1:1"}}\nhosts:\n{hosts}'
    return parse(text, tmp_path / "inventory.yaml")


@pytest.fixture
async def asked(inventory: Inventory) -> AsyncIterator[list[str]]:
    """The segments that the admin port of ``one`` was asked for."""
    segments: list[str] = []

    async def below(segment: str) -> Answer:
        segments.append(segment)
        seen = SeenRequest(
            id="a/b", side="destination", host=HostName("one"), ended_at="", caller="web",
            service="api", method="GET", path="/", route="", endpoints=(), tries=1, status=200,
            flag="", policy="", duration_ms=1.0, first_byte_ms=0.0, request_bytes=0,
        )  # fmt: skip
        return json_answer(SeenRequests(requests=(seen,)))

    async def newest() -> Answer:
        return json_answer({"nothing": "of use"})

    admin = Admin({"/requests": Route(method="GET", handler=newest, below=below)})
    await admin.start("127.0.0.1", inventory.hosts[0].proxy.admin_port)
    yield segments
    await admin.close()


async def test_what_is_remembered_is_told_and_who_cannot_tell_is_named(
    inventory: Inventory, asked: list[str], tmp_path: Path
) -> None:
    connections = Connections(inventory.hosts, known_hosts=tmp_path / "known_hosts")
    try:
        found = await remembered(inventory, "a/b c", connections, parallel=2)
        assert asked == ["a%2Fb%20c"]
        assert [(each.id, each.host) for each in found.requests] == [("a/b", "one")]
        assert list(found.failures) == ["two"]
        # What is no answer of the kind is a failure, and no empty answer.
        assert list((await remembered(inventory, "", connections, parallel=2)).failures) == [
            "one",
            "two",
        ]
    finally:
        await connections.close()
