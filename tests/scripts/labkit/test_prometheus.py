"""Which Prometheus is taken: only one that knows Consul."""

import pytest
from labkit import prometheus
from labkit.command import LabError

KNOWS = '#!/bin/sh\ngrep -q consul_sd_configs "$3"\n'
"""As promtool checks a configuration, where it was built with Consul."""
DOES_NOT = "#!/bin/sh\necho field consul_sd_configs not found >&2\nexit 1\n"


def programs(folder, promtool):
    folder.mkdir(parents=True)
    for name, text in (("prometheus", "#!/bin/sh\n"), ("promtool", promtool)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def a_package(monkeypatch, promtool):
    asked = []

    def unpacked(package, suite, top):
        asked.append((package, suite))
        programs(top / "usr" / "bin", promtool)
        return top

    monkeypatch.setattr(prometheus, "unpacked", unpacked)
    return asked


def path_with(folder):
    return {"PATH": f"{folder}"}


def test_one_on_the_path_that_knows_consul_comes_first(tmp_path, monkeypatch):
    asked = a_package(monkeypatch, KNOWS)
    present = programs(tmp_path / "bin", KNOWS)
    assert prometheus.fetch(tmp_path / "tools", path_with(present)) == present
    assert asked == []


def test_one_that_does_not_gives_way_to_an_older_package_which_is_fetched_once(
    tmp_path, monkeypatch
):
    asked = a_package(monkeypatch, KNOWS)
    present = programs(tmp_path / "bin", DOES_NOT)
    found = prometheus.fetch(tmp_path / "tools", path_with(present))
    assert sorted(path.name for path in found.iterdir()) == ["prometheus", "promtool"]
    assert prometheus.fetch(tmp_path / "tools", path_with(present)) == found
    assert asked == [("prometheus", "bullseye")]


def test_a_package_that_does_not_either_is_not_kept(tmp_path, monkeypatch):
    a_package(monkeypatch, DOES_NOT)
    with pytest.raises(LabError, match="does not know consul_sd_configs"):
        prometheus.fetch(tmp_path / "tools", {"PATH": ""})
    assert [path.name for path in (tmp_path / "tools").iterdir()] == ["prometheus.lock"]
