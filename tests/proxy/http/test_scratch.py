"""Buffers shared by all connections, and lent to the one that still needs what is in them."""

import asyncio
import random
import socket
from typing import Any

import pytest

from proxy.http.scratch import BULK_BYTES, SCRATCH_BYTES, BulkReader, Scratch, ScratchReader, plain
from proxy.net.memory import resident_bytes


class _Protocol:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(f"lost {exc}")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


def test_what_is_lent_is_not_written_into_again() -> None:
    scratch = Scratch()
    scratch.view[:4] = b"mine"
    lent = scratch.lend()
    scratch.view[:4] = b"next"
    assert bytes(lent[:4]) == b"mine"
    assert scratch.get_buffer(-1) is scratch.view
    assert len(scratch.view) == SCRATCH_BYTES


def test_what_comes_back_is_lent_again() -> None:
    scratch = Scratch()
    first = scratch.lend()
    scratch.take_back(first)
    scratch.lend()
    assert scratch.view is first


def test_only_a_few_are_kept() -> None:
    scratch = Scratch()
    lent = [scratch.lend() for _ in range(5)]
    for each in lent:
        scratch.take_back(each)
    after = [scratch.lend() for _ in range(4)][1:]
    assert sum(any(each is old for old in lent) for each in after) == 2


def test_a_reader_hands_on_what_was_read_and_every_other_call() -> None:
    scratch, protocol = Scratch(), _Protocol()
    read: list[bytes] = []
    reader = ScratchReader(scratch, protocol, lambda view: read.append(bytes(view)))
    memoryview(reader.get_buffer(-1))[:5] = b"bytes"
    reader.buffer_updated(3)
    reader.pause_writing()
    reader.resume_writing()
    assert reader.eof_received()
    reader.connection_lost(None)
    assert read == [b"byt"]
    assert protocol.calls == ["pause", "resume", "eof", "lost None"]


def test_a_scratch_takes_no_memory_before_it_is_used() -> None:
    before = resident_bytes()
    unused = [Scratch() for _ in range(100)]
    assert resident_bytes() - before < 10 * SCRATCH_BYTES
    for each in unused:
        each.view[:] = bytes(SCRATCH_BYTES)
    assert resident_bytes() - before > 50 * SCRATCH_BYTES


class _Bulky(asyncio.Protocol):
    """Reads in bulk from the first large read on, as both kinds of connections do."""

    def __init__(self, *, does_pause: bool) -> None:
        self._does_pause = does_pause
        self.got = bytearray()
        self.kinds: list[type] = []
        self.largest = 0
        self.is_paused = False
        self.came_while_paused = 0
        self.is_lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes | memoryview) -> None:
        self.got += data
        self.kinds.append(data.__class__)
        self.largest = max(self.largest, len(data))
        self.came_while_paused += self.is_paused
        if self._does_pause:
            self.is_paused = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.go_on)
        if len(data) > BULK_BYTES and data.__class__ is bytes:
            BulkReader(plain, self._transport, self, self.data_received)

    def go_on(self) -> None:
        self.is_paused = False
        self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost.set()


@pytest.mark.parametrize("does_pause", [False, True])
async def test_much_is_read_in_bulk_until_it_is_little_again(does_pause: bool) -> None:
    near, far = socket.socketpair()
    for each in (near, far):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * SCRATCH_BYTES)
        each.setblocking(False)
    loop = asyncio.get_running_loop()
    bulky = _Bulky(does_pause=does_pause)
    await loop.create_connection(lambda: bulky, sock=near)
    sent = random.Random(5).randbytes(8 * SCRATCH_BYTES)
    await loop.sock_sendall(far, sent)
    for number in range(100):
        sent += bytes([number])
        await loop.sock_sendall(far, sent[-1:])
        while len(bulky.got) < len(sent):
            await asyncio.sleep(0.001)
    far.close()
    await bulky.is_lost.wait()
    assert bulky.got == sent
    assert bulky.came_while_paused == 0
    assert bulky.largest > BULK_BYTES
    assert bulky.kinds[0] is bytes
    assert memoryview in bulky.kinds
    assert bulky.kinds[-1] is bytes
