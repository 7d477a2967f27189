from pathlib import Path

import pytest
from labkit.command import LabError
from labkit.place import Lab, cache_home


def test_the_default_lab_has_the_documented_addresses():
    lab = Lab(name="lab", cache=Path("/c"))
    assert lab.gateway == "10.77.0.1"
    assert [lab.host(index).address for index in (1, 2)] == ["10.77.0.11", "10.77.0.12"]
    assert lab.operator == "lab-ops"


def test_two_labs_share_neither_names_nor_addresses_nor_files():
    one, two = (Lab(name=name, cache=Path("/c")) for name in ("lab", "other"))
    assert one.network != two.network
    assert one.dir != two.dir
    assert one.host(1).namespace != two.host(1).namespace


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a b", "1a", "a" * 21, "a--b"])
def test_a_name_that_would_break_a_path_or_a_namespace_is_refused(name):
    with pytest.raises(LabError, match="no lab name"):
        Lab(name=name, cache=Path("/c"))


def test_a_relative_cache_directory_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_home() == Path.home() / ".cache" / "meshctl"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_home() == Path("/elsewhere/meshctl")
