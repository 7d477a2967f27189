"""One case through one proxy, and what two of them made of the same bytes."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fuzz.backend import Backend
from fuzz.judge import first_by_h11, first_by_llhttp
from fuzz.ours import Address

_SAW = re.compile(rb"^x-saw: (\d+)\r$", re.MULTILINE)
_ANSWER = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) (?:(?!HTTP/1\.1 [2-5])[\s\S])*")
_MAX_S = 10.0

Boundaries = tuple[bytes, bytes, bytes, bytes]


class Outcome(StrEnum):
    BOTH_ACCEPT = "both accept"
    BOTH_REFUSE = "both refuse"
    OURS_REFUSES = "ours refuses"
    OURS_ALONE = "ours alone"
    DISAGREE = "DISAGREE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What a proxy made of a case: requests at the backend, answers at the client."""

    requests: tuple[Boundaries | None, ...]
    """Complete ones, in the order in which they began; None: the proxy itself said 404, having no
    route for something like ``OPTIONS *`` or ``http://host?query``."""
    partial: int
    """Begun and not completed."""
    is_closed: bool
    """The proxy ended the connection; otherwise it answered the sentinel or waits for more."""
    is_accepted: bool
    """A request of the case itself got through, or may still do so."""
    statuses: tuple[bytes, ...]
    faults: tuple[str, ...]


class _Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = bytearray()
        self.is_closed = False
        self.transport: Any = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._wake()

    def eof_received(self) -> bool:
        self.is_closed = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def changed(self, within_s: float) -> bool:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(within_s, self._wake)
        size, was_closed = len(self.received), self.is_closed
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return len(self.received) != size or self.is_closed != was_closed


async def connect(address: Address) -> _Client:
    host, port, context, name = address
    _, client = await asyncio.get_running_loop().create_connection(
        _Client, host, port, ssl=context, server_hostname=name
    )
    return client


async def _settle(client: _Client, backend: Backend, token: bytes, quiet_s: float) -> None:
    """Until the token is answered, the connection has ended, or nothing happens any more."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + _MAX_S
    while not client.is_closed and token not in client.received and loop.time() < ends:
        seen = backend.activity
        if not await client.changed(quiet_s) and backend.activity == seen:
            return


async def pass_through(
    address: Address, backend: Backend, wire: bytes, number: int, quiet_s: float
) -> Passage:
    """``wire`` is a case and its sentinel."""
    target = b"/sentinel/%d" % number
    token = b"x-target: %b\r\n" % target
    backend.begin()
    client = await connect(address)
    client.transport.write(wire)
    await _settle(client, backend, token, quiet_s)
    client.transport.abort()
    seen, faults = list(backend.seen), list(backend.faults)
    received = bytes(client.received)
    answered = [int(each) for each in _SAW.findall(received)]
    expected = [each.number for each in seen]
    if answered != expected[: len(answered)]:
        faults.append(f"answers {answered} to requests {expected}: {received[:500]!r}")
    sentinels = [each.number for each in seen if each.message.target == target]
    complete = [each.message.boundaries for each in seen if each.message.is_complete]
    requests: list[Boundaries | None] = list(complete)
    for place, answer in enumerate(_ANSWER.finditer(received)):
        if answer[1] == b"404" and _SAW.search(answer[0]) is None:
            requests.insert(place, None)
    is_closed = client.is_closed and token not in received
    others = [number for number in answered if number not in sentinels]
    return Passage(
        requests=tuple(requests),
        partial=len(seen) - len(complete),
        is_closed=is_closed,
        is_accepted=bool(others)
        or not is_closed
        or any(each is None or each[1] != target for each in requests),
        statuses=tuple(re.findall(rb"HTTP/1\.1 (\d\d\d)", received)),
        faults=tuple(faults),
    )


class Prober:
    """A connection kept beside the cases: what follows them on pooled connections is its own."""

    def __init__(self, address: Address, backend: Backend) -> None:
        self._address, self._backend = address, backend
        self._client: _Client | None = None

    async def probe(self, number: int, quiet_s: float) -> str:
        """A fault, or nothing."""
        if self._client is None or self._client.is_closed:
            self._client = await connect(self._address)
        client = self._client
        client.received.clear()
        self._backend.begin()
        target = b"/probe/%d" % number
        client.transport.write(b"GET %b HTTP/1.1\r\nHost: api\r\n\r\n" % target)
        token = b"x-target: %b\r\n" % target
        await _settle(client, self._backend, token, max(quiet_s, 1.0))
        received = bytes(client.received)
        if token not in received or received.count(b"HTTP/1.1 ") != 1:
            self._client = None
            client.transport.abort()
            return f"the next request got {received[:300]!r}"
        if self._backend.faults:
            return self._backend.faults[0]
        return ""

    def close(self) -> None:
        if self._client is not None:
            self._client.transport.abort()


def sentinel(number: int) -> bytes:
    """Sent behind the case's bytes on the same connection; asks for an answer of its own."""
    return b"GET /sentinel/%d HTTP/1.1\r\nHost: api\r\n\r\n" % number


def compare(wire: bytes, ours: Passage, envoy: Passage) -> tuple[Outcome, str]:
    """The outcome, and what is wrong; ``wire`` is all that was sent."""
    if ours.faults:
        return Outcome.DISAGREE, "; ".join(ours.faults)
    common = min(len(ours.requests), len(envoy.requests))
    pairs = zip(ours.requests[:common], envoy.requests[:common], strict=True)
    if any(None not in (mine, its) and mine != its for mine, its in pairs):
        return Outcome.DISAGREE, "different requests"
    if len(ours.requests) < len(envoy.requests) and not ours.is_closed:
        return Outcome.DISAGREE, "ours waits for more of what is complete to Envoy"
    if len(envoy.requests) < len(ours.requests) and not envoy.is_closed:
        return Outcome.DISAGREE, "Envoy waits for more of what is complete to ours"
    if ours.is_accepted and envoy.is_accepted:
        return Outcome.BOTH_ACCEPT, ""
    if not ours.is_accepted:
        return (Outcome.OURS_REFUSES if envoy.is_accepted else Outcome.BOTH_REFUSE), ""
    fault = _alone(wire, ours.requests)
    return (Outcome.DISAGREE if fault else Outcome.OURS_ALONE), fault


def _alone(wire: bytes, requests: Sequence[Boundaries | None]) -> str:
    """Whether two strict parsers, of which one at least accepts it, read the first as we did."""
    if not requests or requests[0] is None:
        return ""
    h11, _ = first_by_h11(wire)
    llhttp = first_by_llhttp(wire)
    method, _, _, body = requests[0]
    readings = [each for each in (h11, llhttp) if each is not None]
    if not readings:
        return "accepted by ours alone; Envoy, llhttp and h11 refuse"
    for each in readings:
        if (each.method, each.body) != (method, body):
            return f"accepted by ours alone, and read by others as {each.boundaries}"
    return ""
