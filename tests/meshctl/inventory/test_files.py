"""Whether the files that an inventory names are there."""

from pathlib import Path

from meshctl.inventory.files import missing_files
from meshctl.inventory.parse import parse

TEXT = """
version: 1
ssh: {key: ./id, host_keys: %s, known_hosts: ./known}
consul: {mode: managed, package: {archive: ./consul.zip, sha256: "%s"}}
hosts:
  - {name: a, address: 10.0.0.1, roles: [control, workload]}
  - {name: b, address: 10.0.0.2, ssh: {key: ./other}}
"""


def paths(folder: Path, policy: str = "strict") -> list[str]:
    text = TEXT % (policy, "0" * 64)
    return [found.path for found in missing_files(parse(text, folder / "inventory.yaml"))]


def test_each_missing_file_is_named_once(tmp_path: Path) -> None:
    assert paths(tmp_path) == [
        "consul.package.archive",
        "hosts[0].ssh.key",
        "hosts[0].ssh.known_hosts",
        "hosts[1].ssh.key",
    ]


def test_known_hosts_that_will_be_made_is_not_missing(tmp_path: Path) -> None:
    assert "hosts[0].ssh.known_hosts" not in paths(tmp_path, "accept-new")


def test_files_that_are_there_are_not_missing(tmp_path: Path) -> None:
    for name in ("id", "known", "other", "consul.zip"):
        (tmp_path / name).write_text("")
    assert paths(tmp_path) == []


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "consul.zip").mkdir()
    text = TEXT % ("strict", "0" * 64)
    first = missing_files(parse(text, tmp_path / "inventory.yaml"))[0]
    assert "is not a file that can be read" in first.message
