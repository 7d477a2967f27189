"""The data file: what a restart keeps, and what it makes of a bad file."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from meshctl.errors import StateCorrupt
from meshctl.registry import persistence
from meshctl.registry.catalogue import Status
from meshctl.registry.definitions import parse_service
from meshctl.registry.state import Node, State

BODY = b"""{"ID": "web-1", "Name": "web", "Port": 80, "Address": "10.0.0.1", "Tags": ["a"],
  "Meta": {"k": "v"}, "Checks": [{"CheckID": "c", "TTL": "10s", "Status": "passing",
  "DeregisterCriticalServiceAfter": "1h"}, {"CheckID": "d", "TTL": "10s"}]}"""


def filled() -> State:
    state = State()
    state.put("a", b"\x00\xff", flags=3, cas=None)
    state.put("b", b"1", flags=0, cas=None)
    state.delete("b")
    state.register(parse_service(BODY), replaces_checks=False, now=0.0)
    state.update_check("c", Status.PASSING, "fine", now=1.0)
    return state


def restored(state: State, *, now: float = 1000.0) -> State:
    data = persistence.dump(state)
    return persistence.restore(data, Node(), check_update_interval_s=300.0, now=now)


def test_keys_come_back_with_their_indexes() -> None:
    before = filled()
    after = restored(before)
    assert after.kv.get("a") == before.kv.get("a")
    assert after.kv.get("b") is None


def test_services_and_checks_come_back_and_get_a_whole_ttl() -> None:
    before = filled()
    after = restored(before)
    assert after.catalogue.services["web-1"] == before.catalogue.services["web-1"]
    check = after.catalogue.checks["c"]
    assert (check.status, check.output, check.expires_at) == (Status.PASSING, "fine", 1010.0)
    original = before.catalogue.checks["c"].definition
    # The initial status has done its work and is not kept.
    assert check.definition == replace(original, status=check.definition.status)
    assert after.catalogue.checks["d"].critical_since == 1000.0


def test_no_query_sees_an_index_go_back() -> None:
    before = filled()
    after = restored(before)
    assert after.index > before.index
    for name in ("web", "never"):
        assert after.catalogue.index_of(name) > before.catalogue.index_of(name)
        now = after.catalogue.instances_index_of(name)
        assert now > before.catalogue.instances_index_of(name)
    for key in ("a", "b", "c"):
        assert after.kv.index_of(key) >= before.kv.index_of(key)
    assert after.kv.index_under("b") >= before.kv.index_under("b")
    after.put("b", b"2", flags=0, cas=0)
    assert after.kv.index_of("b") > before.index


def test_the_file_is_the_owners_alone_and_leaves_no_scratch_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    persistence.write(path, b"{}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registry.json"
    persistence.write(path, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        persistence.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_is_an_empty_registry(tmp_path: Path) -> None:
    path = tmp_path / "missing.json"
    state = persistence.read(path, Node(), check_update_interval_s=1.0, now=0.0)
    assert tuple(state.kv.entries()) == ()


@pytest.mark.parametrize("cut", [b"", b"{", b"[]", b'{"version": 2}', b"\xff\xfe"])
def test_a_bad_file_is_refused_with_what_to_do(tmp_path: Path, cut: bytes) -> None:
    path = tmp_path / "registry.json"
    path.write_bytes(cut)
    with pytest.raises(StateCorrupt) as caught:
        persistence.read(path, Node(), check_update_interval_s=1.0, now=0.0)
    assert str(path) in str(caught.value)
    assert "remove" in caught.value.hint


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    path.write_bytes(persistence.dump(filled())[:-20])
    with pytest.raises(StateCorrupt):
        persistence.read(path, Node(), check_update_interval_s=1.0, now=0.0)
