"""The judge of every count: clients outside the mesh that note what came back."""

import asyncio
import collections
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

REQUEST_DEADLINE_S = 10.0
CLIENTS = 8


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes

    @property
    def document(self) -> dict[str, object]:
        return dict(json.loads(self.body))


def ask(
    port: int,
    target: str = "/",
    *,
    method: str = "GET",
    host: str = "",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own. ``target`` may be a whole URL, as for a proxy."""
    sent = {**({"host": host} if host else {}), **(headers or {})}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_DEADLINE_S)
    try:
        connection.request(method, target, headers=sent)
        response = connection.getresponse()
        return Answer(
            status=response.status,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=response.read(),
        )
    finally:
        connection.close()


@dataclass(kw_only=True)
class Load:
    """Keep-alive clients; ``answers`` by who answered, ``failures`` by what came instead."""

    port: int
    path: str = "/"
    answers: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def total(self) -> int:
        return sum(self.answers.values()) + self.failed

    async def run(self, requests: int, until: asyncio.Event | None = None) -> None:
        """At least ``requests`` in all; goes on until ``until`` is set, if that is given."""
        left = requests

        async def client() -> None:
            nonlocal left
            streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
            while left > 0 or (until is not None and not until.is_set()):
                left -= 1
                try:
                    async with asyncio.timeout(REQUEST_DEADLINE_S):
                        streams = streams or await asyncio.open_connection("127.0.0.1", self.port)
                        await self._request(*streams)
                except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                    self.failures[str(error) or type(error).__name__] += 1
                    if streams:
                        streams[1].close()
                    streams = None
            if streams:
                streams[1].close()

        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"GET {self.path} HTTP/1.1\r\nhost: api\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
        body = await reader.readexactly(length)
        status = head.split(" ", 2)[1]
        if status == "200":
            document = json.loads(body)
            self.answers[f"{document['service']} {document['version']}"] += 1
        else:
            self.failures[f"{status}: {body.decode().strip()}"] += 1


def send(port: int, requests: int, path: str = "/") -> Load:
    """So many through ``CLIENTS`` at once."""
    load = Load(port=port, path=path)
    asyncio.run(load.run(requests))
    return load
