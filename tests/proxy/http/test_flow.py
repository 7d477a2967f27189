"""Credit: nobody sends more than was granted, and nobody waits for ever."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.fields import ProtocolError
from proxy.http.flow import Receiver, Sender
from proxy.http.frames import (
    CREDIT,
    DATA,
    DATA_END,
    HEADER_BYTES,
    MAX_DATA,
    PIECE_BYTES,
    TRAILERS_END,
    WINDOW_BYTES,
    credit_of,
    unpack_header,
)


class Output:
    def __init__(self) -> None:
        self.out = b""
        self.is_write_paused = False
        self.granting: list[Receiver] = []
        self.is_crowded = False

    def write(self, data: bytes) -> None:
        self.out += data

    def write_frame(self, header: bytes, payload: bytes) -> None:
        self.write(header + payload)

    def write_parts(self, parts: list[Any]) -> None:
        self.out += b"".join(parts)

    def grant_later(self, receiver: Receiver) -> None:
        self.granting.append(receiver)

    def has_few(self) -> bool:
        return not self.is_crowded

    def read_ended(self) -> None:
        """All that was read has been passed on."""
        granting, self.granting = self.granting, []
        for receiver in granting:
            receiver.grant()

    def frames(self) -> list[tuple[int, bytes]]:
        found, at = [], 0
        while at < len(self.out):
            length, _number, kind = unpack_header(self.out, at)
            at += HEADER_BYTES + length
            found.append((kind, self.out[at - length : at]))
        self.out = b""
        return found


def test_a_body_of_a_window_goes_out_in_pieces_and_the_rest_waits() -> None:
    output = Output()
    sender = Sender(output, 1)
    body = bytes(range(256)) * (WINDOW_BYTES // 256)
    sender.send(body, True, [])
    sent = output.frames()
    assert {kind for kind, _ in sent} == {DATA}
    assert max(len(data) + HEADER_BYTES for _, data in sent) == MAX_DATA
    gone = b"".join(data for _, data in sent)
    assert len(gone) == WINDOW_BYTES - PIECE_BYTES * len(sent)
    assert sender.is_full
    assert not sender.is_empty
    sender.more(WINDOW_BYTES)
    ((kind, rest),) = output.frames()
    assert (kind, gone + rest) == (DATA_END, body)
    assert sender.is_empty


def test_an_end_needs_no_credit() -> None:
    output = Output()
    sender = Sender(output, 1)
    while sender.is_empty:
        sender.send(b"x" * MAX_DATA, False, [])
    sender.more(WINDOW_BYTES)
    output.frames()
    sender.send(b"", True, [b"a: b"])
    assert output.frames() == [(TRAILERS_END, b"a: b\r\n")]


def test_what_waits_goes_out_in_order() -> None:
    output = Output()
    sender = Sender(output, 1)
    sender.send(b"a" * WINDOW_BYTES, False, [])
    sender.send(b"b" * WINDOW_BYTES, False, [])
    sender.send(b"c", False, [])
    sender.send(b"", True, [b"t: 1"])
    found = output.frames()
    while not sender.is_empty:
        sender.more(WINDOW_BYTES if not found else sum(PIECE_BYTES + len(d) for _, d in found[-1:]))
        found += output.frames()
    kinds = [kind for kind, _ in found]
    assert kinds == [DATA] * (len(kinds) - 1) + [TRAILERS_END]
    body = b"".join(data for kind, data in found if kind == DATA)
    assert body == b"a" * WINDOW_BYTES + b"b" * WINDOW_BYTES + b"c"


@pytest.mark.parametrize("size", [0, 1, WINDOW_BYTES, WINDOW_BYTES + 1, 0xFFFFFFFF])
def test_credit_for_what_was_not_sent_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        Sender(Output(), 1).more(size)


def test_more_than_the_window_is_refused_even_at_the_end() -> None:
    for is_end in (False, True):
        receiver = Receiver(Output(), 1)
        receiver.pause()
        for _ in range(WINDOW_BYTES // (MAX_DATA + PIECE_BYTES)):
            receiver.count(MAX_DATA, False)
        with pytest.raises(ProtocolError):
            receiver.count(MAX_DATA, is_end)


def test_a_window_of_single_bytes_is_a_few_thousand_pieces() -> None:
    """Each costs some 40 bytes to keep, and the peer chooses how many there are."""
    receiver = Receiver(Output(), 1)
    receiver.pause()
    pieces = 0
    with suppress(ProtocolError):
        for _ in range(WINDOW_BYTES):
            receiver.count(1, False)
            pieces += 1
    assert pieces * 40 < WINDOW_BYTES


def test_what_came_in_one_read_is_granted_at_once() -> None:
    output = Output()
    receiver = Receiver(output, 1)
    for _ in range(3):
        receiver.count(MAX_DATA, False)
    assert output.frames() == []
    output.read_ended()
    ((kind, payload),) = output.frames()
    assert (kind, credit_of(payload)) == (CREDIT, 3 * (MAX_DATA + PIECE_BYTES))
    output.read_ended()
    assert output.frames() == []


@pytest.mark.parametrize("how", ["paused", "ended"])
def test_nothing_is_granted_for_a_reader_that_paused_or_is_done(how: str) -> None:
    output = Output()
    receiver = Receiver(output, 1)
    receiver.count(MAX_DATA, False)
    if how == "paused":
        receiver.pause()
    else:
        receiver.count(1, True)
    output.read_ended()
    assert output.frames() == []
    if how == "paused":
        receiver.resume()
        ((_, payload),) = output.frames()
        assert credit_of(payload) == MAX_DATA + PIECE_BYTES


def test_a_frame_of_much_is_whole_records() -> None:
    """Each part is one TLS record, or several whole ones."""
    record = 16 * 1024
    found: list[Any] = []
    output = Output()
    output.write_parts = found.extend  # type: ignore[method-assign]
    Sender(output, 1).send(bytes(3 * (MAX_DATA - HEADER_BYTES)), False, [])
    assert [len(part) for part in found] == [record, 3 * record] * 3


def test_a_piece_of_nothing_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Receiver(Output(), 1).count(0, False)
    Receiver(Output(), 1).count(0, True)


@pytest.mark.parametrize("is_crowded", [False, True])
def test_who_goes_on_carrying_much_gets_a_second_window_if_there_are_few(is_crowded: bool) -> None:
    output = Output()
    output.is_crowded = is_crowded
    receiver = Receiver(output, 1)
    size = 2 * (MAX_DATA + PIECE_BYTES)
    granted = []
    for _ in range(4):
        for _ in range(2):
            receiver.count(MAX_DATA, False)
        output.read_ended()
        granted += [credit_of(payload) for _, payload in output.frames()]
    assert granted == [size, size + (0 if is_crowded else WINDOW_BYTES), size, size]
    receiver.pause()
    with suppress(ProtocolError):
        held = 0
        while True:
            receiver.count(MAX_DATA, False)
            held += MAX_DATA
    assert held < (1 if is_crowded else 2) * WINDOW_BYTES


@given(
    sizes=st.lists(st.integers(1, 2 * WINDOW_BYTES), min_size=1, max_size=12),
    script=st.lists(st.sampled_from(["pause", "resume", "deliver", "read"]), max_size=80),
    is_with_trailers=st.booleans(),
    is_crowded=st.booleans(),
)
def test_all_arrives_and_a_paused_reader_gets_at_most_its_windows(
    sizes: list[int], script: list[str], is_with_trailers: bool, is_crowded: bool
) -> None:
    """Whatever the order of pieces, pauses and deliveries."""
    there, back = Output(), Output()
    back.is_crowded = is_crowded
    windows = 1 if is_crowded else 2
    sender, receiver = Sender(there, 1), Receiver(back, 1)
    trailers = [b"a: b"] if is_with_trailers else []
    for index, size in enumerate(sizes):
        is_last = index == len(sizes) - 1
        sender.send(bytes([index]) * size, is_last, trailers if is_last else [])
    way: list[tuple[int, bytes]] = []
    got = b""
    since_pause = 0
    is_paused = has_ended = False

    def step(what: Any) -> None:
        nonlocal got, since_pause, is_paused, has_ended
        if what == "pause":
            is_paused = True
            since_pause = 0
            receiver.pause()
        elif what == "resume":
            is_paused = False
            receiver.resume()
        elif what == "read":
            back.read_ended()
        else:
            way.extend(there.frames())
            if way:
                kind, data = way.pop(0)
                assert not has_ended
                has_ended = kind != DATA
                if kind != TRAILERS_END:
                    receiver.count(len(data), has_ended)
                    got += data
                    since_pause += len(data)
                    assert not is_paused or since_pause <= windows * WINDOW_BYTES
        for kind, payload in back.frames():
            assert kind == CREDIT
            if not has_ended:
                sender.more(credit_of(payload))

    for each in script:
        step(each)
    step("resume")
    steps = 0
    while not has_ended:
        step("deliver")
        step("read")
        steps += 1
        assert steps < 1000, "each waits for the other"
    assert got == b"".join(bytes([index]) * size for index, size in enumerate(sizes))
    assert sender.is_empty
