"""Which mounts lie below a directory, and taking them off."""

import re
from pathlib import Path

from labkit.command import run

_ESCAPE = re.compile(r"\\([0-7]{3})")


def parse(mountinfo: str) -> list[Path]:
    """Mount points of a ``mountinfo`` text, in the order they were made (proc(5))."""
    points = []
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            plain = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
            points.append(Path(plain))
    return points


def below(directory: Path) -> list[Path]:
    """Mounts at or under ``directory``, the last made first."""
    top = directory.resolve()
    points = parse(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    return [point for point in reversed(points) if point == top or top in point.parents]


def unmount_below(directory: Path) -> None:
    """Leave nothing mounted there. Lazily: the processes that held it are dead or dying."""
    for point in below(directory):
        run(["umount", "--lazy", point])
