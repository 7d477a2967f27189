"""What holds for every test."""

import sys

import pytest

_OF_A_PROXY = 64 * 1024 * 1024


@pytest.fixture(autouse=True)
def a_data_plane_is_charged_with_what_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the process of the tests, which is larger in the end than a proxy may be by itself."""
    dataplane = sys.modules.get("proxy.net.dataplane")
    if dataplane is not None:
        measure = dataplane.resident_bytes
        before = measure()
        monkeypatch.setattr(
            dataplane, "resident_bytes", lambda: max(0, measure() - before) + _OF_A_PROXY
        )
