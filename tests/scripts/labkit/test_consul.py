import hashlib
import zipfile

import pytest
from labkit import consul
from labkit.command import LabError

SCRIPT = "#!/bin/sh\necho Consul v9.9.9\n"


def archive(path, name="consul", text=SCRIPT):
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(name, text)
    return {
        "PATH": "",
        consul.ARCHIVE: str(path),
        consul.CHECKSUM: hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_a_consul_on_the_path_comes_before_anything_else(tmp_path):
    present = tmp_path / "bin" / "consul"
    present.parent.mkdir()
    present.write_text(SCRIPT)
    present.chmod(0o755)
    env = archive(tmp_path / "consul.zip") | {"PATH": str(present.parent)}
    assert consul.fetch(tmp_path / "tools", env) == present
    assert not (tmp_path / "tools").exists()


def test_a_release_archive_with_the_right_sum_is_unpacked_once(tmp_path):
    env = archive(tmp_path / "consul.zip")
    binary = consul.fetch(tmp_path / "tools", env)
    made = binary.stat()
    assert binary.read_text() == SCRIPT
    assert consul.fetch(tmp_path / "tools", env).stat() == made
    assert sorted(p.name for p in binary.parent.parent.iterdir()) == sorted(
        [binary.parent.name, "consul.lock"]
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({consul.CHECKSUM: "0" * 64}, "SHA-256"),
        ({consul.CHECKSUM: ""}, consul.CHECKSUM),
        ({consul.ARCHIVE: "/nowhere.zip"}, "no file"),
    ],
)
def test_an_archive_that_cannot_be_trusted_is_refused(tmp_path, change, says):
    env = archive(tmp_path / "consul.zip") | change
    with pytest.raises(LabError, match=says):
        consul.fetch(tmp_path / "tools", env)
    assert [p.name for p in (tmp_path / "tools").iterdir()] == ["consul.lock"]


def test_an_archive_without_consul_is_refused(tmp_path):
    env = archive(tmp_path / "consul.zip", name="nomad")
    with pytest.raises(LabError, match="no release archive"):
        consul.fetch(tmp_path / "tools", env)


def test_a_program_that_only_has_the_name_is_refused_and_not_kept(tmp_path):
    env = archive(tmp_path / "consul.zip", text="#!/bin/sh\necho hello\n")
    with pytest.raises(LabError, match="does not answer like Consul"):
        consul.fetch(tmp_path / "tools", env)
    assert [p.name for p in (tmp_path / "tools").iterdir()] == ["consul.lock"]
