"""The key/value state as tables; its behaviour over HTTP is in tests/contract."""

import pytest

from meshctl.registry import kv
from meshctl.registry.kv import KeyValues, Operation, Verb


def store(*keys: str) -> KeyValues:
    """Each key written at an index of its own, from 11 on."""
    made = KeyValues()
    for index, key in enumerate(keys, start=11):
        made.put(key, b"old", index=index)
    return made


@pytest.mark.parametrize(
    ("cas", "wrote"), [(None, True), (11, True), (0, False), (10, False), (12, False)]
)
def test_put_with_cas_writes_only_at_the_entrys_index(cas: int | None, wrote: bool) -> None:
    made = store("a")
    assert made.put("a", b"new", cas=cas, index=20) is wrote
    entry = made.get("a")
    assert entry is not None
    assert entry.value == (b"new" if wrote else b"old")
    assert entry.modify_index == (20 if wrote else 11)
    assert entry.create_index == 11


@pytest.mark.parametrize(("cas", "wrote"), [(None, True), (0, True), (1, False), (11, False)])
def test_put_with_cas_creates_only_at_0(cas: int | None, wrote: bool) -> None:
    made = KeyValues()
    assert made.put("a", b"new", cas=cas, index=20) is wrote
    assert (made.get("a") is not None) is wrote


@pytest.mark.parametrize(
    ("cas", "said", "is_gone"),
    [(None, True, True), (11, True, True), (0, False, False), (10, False, False)],
)
def test_delete_with_cas(cas: int | None, said: bool, is_gone: bool) -> None:
    made = store("a")
    assert made.delete("a", cas=cas, index=20) is said
    assert (made.get("a") is None) is is_gone


def test_a_write_that_changes_nothing_keeps_every_index() -> None:
    made = store("a")
    made.put("a", b"old", index=20)
    made.delete("missing", index=21)
    made.delete("a", cas=5, index=22)
    assert (made.table_index, made.index_of("a"), made.touched("a")) == (11, 11, 11)


def test_a_missing_key_reports_the_table_and_was_touched_by_its_deletion_only() -> None:
    made = store("a", "b")
    assert (made.index_of("missing"), made.touched("missing")) == (12, 0)
    made.delete("a", index=20)
    assert (made.index_of("a"), made.touched("a")) == (20, 20)
    made.put("b", b"new", index=30)
    assert (made.index_of("a"), made.touched("a")) == (30, 20)


def test_the_index_of_a_prefix_counts_its_deletions_and_nothing_else() -> None:
    made = store("a/1", "a/2", "b")
    assert (made.index_under("a/"), made.touched_under("a/")) == (12, 12)
    made.delete("a/1", index=20)
    made.put("b", b"new", index=21)
    assert (made.index_under("a/"), made.touched_under("a/")) == (20, 20)
    assert (made.index_under("c/"), made.touched_under("c/")) == (21, 0)


def test_the_index_of_a_prefix_stays_up_when_tombstones_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kv, "MAX_TOMBSTONES", 2)
    made = store("a", "b", "c", "d")
    for index, key in enumerate("abcd", start=20):
        before = made.index_under(key)
        made.delete(key, index=index)
        assert made.index_under(key) >= before
    assert made.index_under("a") == 21
    assert made.index_under("d") == 23


def test_keys_are_cut_after_the_separator() -> None:
    made = store("x/a", "x/b/c", "x/b/d", "x", "y")
    assert made.keys("x", "") == ("x", "x/a", "x/b/c", "x/b/d")
    assert made.keys("x/", "/") == ("x/a", "x/b/")
    assert made.keys("z", "/") == ()


def test_a_transaction_sees_its_own_writes() -> None:
    made = KeyValues()
    results, failures = made.transact(
        (
            Operation(verb=Verb.SET, key="a", value=b"1"),
            Operation(verb=Verb.GET, key="a"),
            Operation(verb=Verb.DELETE, key="a"),
            Operation(verb=Verb.CHECK_NOT_EXISTS, key="a"),
            Operation(verb=Verb.CAS, key="a", value=b"2", index=0),
        ),
        index=20,
    )
    assert failures == ()
    assert [(r.entry.value, r.with_value) for r in results] == [
        (b"1", False),
        (b"1", True),
        (b"2", False),
    ]
    entry = made.get("a")
    assert entry is not None
    assert entry.value == b"2"


def test_a_failed_transaction_leaves_no_trace() -> None:
    made = store("a", "b")
    before = (tuple(made.entries()), made.table_index, made.touched("a"))
    results, failures = made.transact(
        (
            Operation(verb=Verb.SET, key="c", value=b"1"),
            Operation(verb=Verb.DELETE_TREE, key=""),
            Operation(verb=Verb.GET, key="a"),
        ),
        index=20,
    )
    assert results == ()
    assert [failure.operation for failure in failures] == [2]
    assert (tuple(made.entries()), made.table_index, made.touched("a")) == before
