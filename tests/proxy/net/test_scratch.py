"""Buffers shared by all connections, and lent to the one that still needs what is in them."""

from proxy.net.memory import resident_bytes
from proxy.net.scratch import SCRATCH_BYTES, Scratch, ScratchReader


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
