"""Every process of a lab sits in a cgroup of the lab's, so that ``down`` can end them all.

``<root>/meshctl-lab/<lab>/<host>/{watch,machine}`` and ``<lab>/operator``; the kernel kills a
cgroup as a whole (``cgroup.kill``), whatever forked or changed its session, and never anything
else. Works where cgroup v2 is all there is, and where it stands beside v1 under ``unified``;
there the machine also needs a place of its own in the named hierarchy that systemd uses.
"""

import contextlib
import os
import time
from pathlib import Path

from labkit.command import LabError, Unavailable
from labkit.place import Host, Lab

_MOUNT = Path("/sys/fs/cgroup")
_TOP = "meshctl-lab"
_KILL_DEADLINE_S = 15


def unified() -> Path:
    """Where cgroup v2 is mounted."""
    for path in (_MOUNT, _MOUNT / "unified"):
        if (path / "cgroup.controllers").is_file():
            return path
    raise Unavailable("needs cgroup v2, alone or beside v1 (none under /sys/fs/cgroup)")


def hierarchies() -> list[Path]:
    """Where a machine's processes are put: v2, and systemd's own v1 hierarchy if there is one."""
    named = _MOUNT / "systemd"
    return [unified(), *([named] if (named / "cgroup.procs").is_file() else [])]


def prepare(host: Host, part: str) -> list[Path]:
    """Make the cgroups of one part of a host; what a process writes its id into."""
    made = []
    for hierarchy in hierarchies():
        leaf = hierarchy / _TOP / host.lab.name / host.name / part
        leaf.mkdir(parents=True, exist_ok=True)
        if hierarchy == unified():
            _pass_controllers_on(leaf.parent)
        made.append(leaf)
    return made


def join_operator(lab: Lab) -> None:
    """Put this very process where ``down`` will find it."""
    leaf = unified() / _TOP / lab.name / "operator"
    leaf.mkdir(parents=True, exist_ok=True)
    (leaf / "cgroup.procs").write_text(str(os.getpid()))


def leave(lab: Lab) -> None:
    """Take this process out, so that a ``down`` typed inside the lab does not kill itself."""
    own = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    if f"0::/{_TOP}/{lab.name}/" in own:
        (unified() / "cgroup.procs").write_text(str(os.getpid()))


def kill(lab: Lab, host: Host | None = None) -> None:
    """End every process of the host, or of the whole lab, and wait until none is left."""
    top = unified() / _TOP / lab.name / (host.name if host else "")
    if not top.is_dir():
        return
    (top / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + _KILL_DEADLINE_S
    while "populated 1" in (top / "cgroup.events").read_text(encoding="utf-8"):
        if time.monotonic() > deadline:
            raise LabError(f"processes in {top} survive being killed")
        time.sleep(0.02)


def remove(lab: Lab) -> None:
    """Delete the lab's cgroups, all empty by now."""
    for hierarchy in hierarchies():
        top = hierarchy / _TOP / lab.name
        for directory, _, _ in os.walk(top, topdown=False):
            _rmdir_soon(Path(directory))
        with contextlib.suppress(OSError):  # another lab's are still in it
            top.parent.rmdir()


def _rmdir_soon(directory: Path) -> None:
    """A killed process leaves its v1 cgroup a moment after its v2 one."""
    deadline = time.monotonic() + _KILL_DEADLINE_S
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _pass_controllers_on(leaf_parent: Path) -> None:
    """Let MemoryMax= and the like work inside, where v2 has controllers to give."""
    root = unified()
    chain = [leaf_parent, *(p for p in leaf_parent.parents if p == root or root in p.parents)]
    for directory in reversed(chain):
        for controller in (directory / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (directory / "cgroup.subtree_control").write_text(f"+{controller}")
