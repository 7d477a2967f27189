"""Lines of several hosts in one order, and untrusted ones read without harm."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshctl.telemetry.lines import Line, Reorder, from_journal, from_text, merged
from meshctl.telemetry.plain import plain
from proxy.model.names import HostName

ONE, TWO = HostName("one"), HostName("two")


def line(text: str, at: float | None, host: HostName = ONE) -> Line:
    return Line(host=host, kind="text", at=at, text=text, fields={})


def entry(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_both_kinds_and_text_are_told_apart() -> None:
    access = from_text(ONE, b'{"ts":"2026-11-23T17:00:00.250Z","log":"access","caller":"web"}')
    assert (access.kind, access.at) == ("access", 1795453200.25)
    own = from_text(ONE, b'{"ts":"2026-11-23T17:00:00.250+00:00","level":"info","msg":"hello"}')
    assert (own.kind, own.at) == ("proxy", 1795453200.25)
    for text in (b"GET / 200", b"{not json", b'{"other": 1}', b"{}", b"[1]", b'"x"', b"\xff\xfe"):
        assert from_text(ONE, text, 5.0).kind == "text"
        assert from_text(ONE, text, 5.0).at == 5.0


def test_an_entry_of_the_journal_has_the_time_of_its_line_before_its_own() -> None:
    said = '{"ts":"2026-11-23T17:00:00.250Z","log":"access"}'
    found = from_journal(ONE, entry(MESSAGE=said, __REALTIME_TIMESTAMP="1000000"))
    assert found is not None
    assert found.at == 1795453200.25
    started = from_journal(ONE, entry(MESSAGE="Started.", __REALTIME_TIMESTAMP="1500000"))
    assert started is not None
    assert (started.kind, started.at, started.text) == ("text", 1.5, "Started.")
    as_bytes = from_journal(ONE, entry(MESSAGE=[104, 105, 255, 1000, "x"]))
    assert as_bytes is not None
    assert as_bytes.text == "hi\\xff"


@pytest.mark.parametrize(
    "data", [b"", b"-- No entries --", b"{}", b"[]", b'{"MESSAGE": null}', b'{"MESSAGE": {}}']
)
def test_what_is_no_entry_is_left_out(data: bytes) -> None:
    assert from_journal(ONE, data) is None


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    assert plain(from_text(ONE, data).text).isprintable()
    found = from_journal(ONE, data)
    assert found is None or plain(found.text).isprintable()


@given(st.text(max_size=100))
def test_no_text_steers_a_terminal(text: str) -> None:
    assert plain(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[31mb", "a\\x1b[31mb"), ("a\nb", "a\\nb"), ("\u202eevil", "\\u202eevil"), ("é", "é")],
)
def test_what_would_steer_it_is_named(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_line_is_about_its_caller_and_its_service() -> None:
    access = from_text(ONE, b'{"log":"access","caller":"web","service":"api","path":"/db"}')
    assert [access.names(name) for name in ("web", "api", "db")] == [True, True, False]
    own = from_text(ONE, b'{"level":"info","msg":"x","service":"api"}')
    assert [own.names(name) for name in ("api", "web")] == [True, False]
    assert from_text(ONE, b"web api 200").names("api")
    assert not from_text(ONE, b"webapi 200").names("api")


SOURCES = st.lists(
    st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=8), min_size=1, max_size=4
)


@given(SOURCES)
def test_each_host_keeps_its_own_order_and_nothing_is_lost(
    sources: list[list[float | None]],
) -> None:
    made = [
        [line(f"{index}.{number}", at, HostName(f"h{index}")) for number, at in enumerate(times)]
        for index, times in enumerate(sources)
    ]
    together = list(merged(made))
    for index, own in enumerate(made):
        assert [each for each in together if each.host == f"h{index}"] == own
    assert len(together) == sum(map(len, made))


def test_lines_of_hosts_that_are_in_order_come_by_time() -> None:
    one = [line("a", 1.0), line("c", 3.0), line("late", 2.5)]
    two = [line("b", 2.0, TWO), line("d", 4.0, TWO)]
    assert [each.text for each in merged([one, two])] == ["a", "b", "c", "late", "d"]


def test_a_followed_line_waits_for_older_ones_of_other_hosts() -> None:
    order: Reorder[str] = Reorder(1.0)
    order.push("one", "second", 20.0, now=0.0)
    assert list(order.due(0.9)) == []
    order.push("two", "first", 10.0, now=0.9)
    assert list(order.due(1.0)) == ["first", "second"]
    # Too late for its place, but not lost.
    order.push("two", "late", 15.0, now=1.1)
    assert list(order.due(2.1)) == ["late"]
    assert len(order) == 0


def test_what_a_skewed_clock_sends_holds_up_nobody() -> None:
    order: Reorder[str] = Reorder(1.0)
    order.push("right", "right", 1000.0, now=0.0)
    out: list[str] = []
    for number in range(10):
        now = 0.3 * (number + 1)
        order.push("slow", f"slow {number}", float(number), now=now)
        out += order.due(now)
    assert "right" in out
    assert out[-1].startswith("slow")


def test_what_waits_is_bounded() -> None:
    order: Reorder[int] = Reorder(60.0, most=10)
    out: list[int] = []
    for number in range(100):
        order.push("one", number, float(number), now=0.0)
        out += order.due(0.0)
    assert len(order) == 10
    assert out == list(range(90))
    assert [*out, *order.rest()] == list(range(100))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 50), st.floats(0, 2)), max_size=40))
def test_a_followed_source_keeps_its_order_and_loses_nothing(
    pushes: list[tuple[str, float, float]],
) -> None:
    order: Reorder[tuple[str, int]] = Reorder(1.0)
    now, out = 0.0, []
    for number, (source, at, later) in enumerate(pushes):
        now += later
        order.push(source, (source, number), at, now)
        out += order.due(now)
    out += order.due(now + 10)
    for source in "ab":
        own = [each for each in out if each[0] == source]
        assert own == sorted(own)
    assert len(out) == len(pushes)
    assert len(order) == 0
