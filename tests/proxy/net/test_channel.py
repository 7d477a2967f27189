"""Messages between the processes of a proxy: whole whatever the pieces, and nothing else."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.metrics import Metrics
from proxy.model.endpoint import Catalogue, Endpoint
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy, ServicePolicy, Timeouts
from proxy.net import channel as module
from proxy.net.channel import (
    Applied,
    Apply,
    Ask,
    Channel,
    Drain,
    Listening,
    Reloaded,
    Stop,
    Told,
    frame,
    to_main,
    to_worker,
)

API = ServiceName("api")


def told() -> Told:
    metrics = Metrics()
    metrics.counter("c_total", "C.", ("l",)).labels("x").value += 3
    metrics.histogram("h", "H.").labels().observe(2.5)
    return Told(number=7, connections=5, tally=metrics.tally())


TO_WORKER = (
    Apply(
        revision=1,
        policy=Policy(services={API: ServicePolicy(timeouts=Timeouts(request_s=3.0))}),
        catalogue=Catalogue(
            endpoints={
                API: (Endpoint(service=API, host=HostName("h"), address="10.0.0.1", port=1),)
            }
        ),
    ),
    Apply(revision=2, policy=None, catalogue=Catalogue()),
    Ask(number=2),
    Drain(number=3, deadline_s=1.5),
    Stop(),
)
TO_MAIN = (Applied(revision=4), Listening(), told(), Reloaded(number=5, found={API: "no key"}))


class End:
    def __init__(self, decoder: Any) -> None:
        self.messages: list[Any] = []
        self.is_lost = False
        self.channel: Channel[Any] = Channel(decoder, self.messages.append, self._end)

    def _end(self) -> None:
        assert not self.is_lost
        self.is_lost = True


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
@pytest.mark.parametrize(("decoder", "messages"), [(to_worker, TO_WORKER), (to_main, TO_MAIN)])
def test_messages_arrive_whole_whatever_the_pieces(
    size: int, decoder: Any, messages: tuple[Any, ...]
) -> None:
    data = b"".join(frame(message) for message in messages)
    end = End(decoder)
    for start in range(0, len(data), size):
        end.channel.data_received(data[start : start + size])
    assert end.messages == list(messages)


@pytest.fixture
async def pair() -> Any:
    """An end of ours, and the other as a plain socket."""
    ours, theirs = socket.socketpair()
    end = End(to_main)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: end.channel, sock=ours)
    with theirs:
        theirs.setblocking(False)
        yield end, theirs
        end.channel.abort()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "data",
    [
        frame(Stop()),  # the wrong way round
        b"\x00\x00\x00\x01\xc1",  # no MessagePack
        (module.MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"),
    ],
)
async def test_what_makes_no_sense_ends_the_channel(
    pair: Any, until: Callable[..., Any], data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    end, theirs = pair
    theirs.send(data)
    await until(lambda: end.is_lost)
    assert end.messages == []
    assert "the channel between the processes of the proxy fails" in caplog.text


async def test_an_error_in_what_a_message_asks_for_ends_the_channel(
    pair: Any, until: Callable[..., Any]
) -> None:
    end, theirs = pair

    def fail(message: Any) -> None:
        raise KeyError("a bug")

    end.channel._received = fail
    theirs.send(frame(Listening()))
    await until(lambda: end.is_lost)


async def test_the_end_of_the_other_process_is_told_and_sending_to_it_is_harmless(
    pair: Any, until: Callable[..., Any]
) -> None:
    end, theirs = pair
    end.channel.send(Ask(number=1))
    theirs.close()
    await until(lambda: end.is_lost)
    end.channel.send(Ask(number=2))
    end.channel.close()


def test_a_message_above_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 10)
    with pytest.raises(ValueError, match="above 10"):
        frame(told())
