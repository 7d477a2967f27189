from pathlib import Path

from labkit import mounts


def test_mount_points_are_read_with_their_escapes():
    text = (
        "22 1 8:1 / / rw - ext4 /dev/vda rw\n"
        "30 22 0:5 / /a\\040b rw,nosuid shared:1 - overlay overlay rw,lowerdir=/x\n"
    )
    assert mounts.parse(text) == [Path("/"), Path("/a b")]


def test_only_mounts_below_the_directory_are_meant():
    assert Path("/proc") in mounts.below(Path("/proc"))
    assert Path("/") not in mounts.below(Path("/proc"))
    assert mounts.below(Path("/nowhere")) == []
