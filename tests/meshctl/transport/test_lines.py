"""Lines out of bytes that arrive in any pieces, for a reader who may be slow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.transport.lines import AHEAD_BYTES, MAX_LINE_BYTES, Lines, LineTooLong


def made() -> tuple[Lines, list[str]]:
    said: list[str] = []
    return Lines(pause=lambda: said.append("pause"), resume=lambda: said.append("resume")), said


async def rest(lines: Lines) -> list[bytes]:
    return [line async for line in lines]


@given(st.lists(st.binary(max_size=9)), st.lists(st.integers(0, 40)))
async def test_pieces_do_not_matter(texts: list[bytes], cuts: list[int]) -> None:
    wanted = [text.replace(b"\n", b"") for text in texts]
    data = b"".join(line + b"\n" for line in wanted)
    lines, _ = made()
    for cut in cuts:
        lines.feed(data[:cut])
        data = data[cut:]
    lines.feed(data)
    lines.end()
    assert await rest(lines) == wanted


async def test_what_is_left_at_a_good_end_is_a_line() -> None:
    lines, _ = made()
    lines.feed(b"one\ntwo")
    lines.end()
    assert await rest(lines) == [b"one", b"two"]


async def test_a_failure_comes_after_the_lines_before_it_and_the_first_counts() -> None:
    lines, _ = made()
    lines.feed(b"one\nhal")
    lines.end(ValueError("first"))
    lines.end(KeyError("second"))
    lines.feed(b"f\n")
    assert await anext(lines) == b"one"
    for _ in range(2):
        with pytest.raises(ValueError, match="first"):
            await anext(lines)


async def test_a_line_without_an_end_is_refused() -> None:
    lines, _ = made()
    lines.feed(bytes(MAX_LINE_BYTES))
    with pytest.raises(LineTooLong):
        lines.feed(b"x")


async def test_the_source_waits_for_a_slow_reader() -> None:
    lines, said = made()
    lines.feed(bytes(AHEAD_BYTES // 2) + b"\n" + bytes(AHEAD_BYTES) + b"\n" + b"x\n")
    assert said == ["pause"]
    await anext(lines)
    assert said == ["pause"]
    await anext(lines)
    assert said == ["pause", "resume"]
