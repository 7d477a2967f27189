"""One host: its disk on top of the base image, and the life of its systemd.

The host's PID 1 runs under systemd-nspawn, and that under a small watcher that starts it again
when it ends with 133, which means that somebody inside asked for a reboot. The disk, the network
namespace and with it the address stay; the boot id, the processes and ``/run`` are new.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

from labkit import cgroups, mounts, network
from labkit.command import LabError, environment, run, tail
from labkit.image import USERS
from labkit.place import SSH_PORT, Host
from labkit.record import Process, write

BOOT_DEADLINE_S = 90
STOP_DEADLINE_S = 60
# systemd(1): what PID 1 does on these, counted from SIGRTMIN.
_POWEROFF = signal.SIGRTMIN + 4
_REBOOT = signal.SIGRTMIN + 5
_NSPAWN = Path("/run/systemd/nspawn")
# $1: the watcher's cgroups, $2: the machine's; the rest is the command.
_WATCHER = """
for cgroup in $1; do echo $$ >"$cgroup/cgroup.procs" || exit 1; done
machine=$2
shift 2
while :; do
  sh -c 'for c in $0; do echo $$ >"$c/cgroup.procs" || exit 1; done; exec "$@"' "$machine" "$@"
  code=$?
  [ "$code" -eq 133 ] || exit "$code"
done
"""


def prepare(host: Host, *, base: Path, public_key: str, python: bool) -> None:
    """Make and mount the host's disk, and give the host what is its own; once."""
    for directory in (host.upper, host.dir / "work", host.root):
        directory.mkdir(parents=True, exist_ok=True)
    if not mounts.below(host.root):
        layers = f"lowerdir={base},upperdir={host.upper},workdir={host.dir / 'work'}"
        run(["mount", "-t", "overlay", "overlay", "-o", layers, host.root])
    done = host.dir / "prepared"
    if done.exists():
        return
    root = host.root
    write(root / "etc/machine-id", uuid.uuid4().hex + "\n", 0o444)
    write(root / "etc/hostname", host.name + "\n", 0o644)
    write(
        root / "etc/hosts",
        f"127.0.0.1 localhost\n::1 localhost\n{host.address} {host.name}\n",
        0o644,
    )
    key = root / "etc/ssh/ssh_host_ed25519_key"
    key.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", key])
    _authorise(root, "root", public_key)
    for user in USERS:
        _authorise(root, user, public_key)
    if not python:
        for program in (root / "usr/bin").glob("python3*"):
            program.unlink()
    done.touch()


def host_key(host: Host) -> str:
    """The host's public key: type and base64."""
    text = (host.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text(encoding="utf-8")
    return " ".join(text.split()[:2])


def start(host: Host) -> Process:
    """Power on; answers as soon as the watcher runs."""
    # An invocation killed before it wrote its record leaves a machine nobody knows of.
    cgroups.kill(host.lab, host)
    watch, machine = (cgroups.prepare(host, part) for part in ("watch", "machine"))
    command = [
        "systemd-nspawn",
        "--quiet",
        f"--directory={host.root}",
        f"--machine={host.namespace}",
        f"--hostname={host.name}",
        f"--network-namespace-path=/run/netns/{host.namespace}",
        "--capability=CAP_NET_ADMIN",
        "--boot",
        # No systemd need run on this machine: nothing to register with, no unit to make.
        "--register=no",
        "--keep-unit",
        "--console=pipe",
        "--settings=no",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
    ]
    with host.console.open("ab") as console:
        child = subprocess.Popen(
            ["sh", "-c", _WATCHER, "watcher", _words(watch), _words(machine), *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=environment(),
        )
    watcher = Process.of(child.pid)
    if watcher is None:
        raise LabError(f"{host.name} did not start: {tail(host.console)}")
    return watcher


def pid_one(watcher: Process) -> Process | None:
    """The host's systemd as this machine sees it; None while it is down or on its way."""
    for nspawn in watcher.children():
        for child in nspawn.children():
            try:
                status = Path(f"/proc/{child.pid}/status").read_text(encoding="utf-8")
            except OSError:
                continue
            ids = [line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")]
            if ids and len(ids[0]) > 1 and ids[0][-1] == "1":
                return child
    return None


def reboot(host: Host, watcher: Process) -> None:
    """An orderly reboot, as ``systemctl reboot`` does; answers when a new PID 1 runs."""
    old = pid_one(watcher)
    if old is None:
        raise LabError(f"{host.name} is not running")
    old.send(_REBOOT)
    deadline = time.monotonic() + STOP_DEADLINE_S
    while (new := pid_one(watcher)) is None or new == old:
        if not watcher.is_alive():
            raise LabError(f"{host.name} did not come back: {tail(host.console)}")
        if time.monotonic() > deadline:
            raise LabError(f"{host.name} did not reboot within {STOP_DEADLINE_S} s")
        time.sleep(0.05)


def stop(host: Host, watcher: Process, *, hard: bool) -> None:
    """Power off: orderly, or as if the plug was pulled."""
    leader = pid_one(watcher)
    if leader is not None and not hard:
        leader.send(_POWEROFF)
        deadline = time.monotonic() + STOP_DEADLINE_S
        while watcher.is_alive():
            if time.monotonic() > deadline:
                cgroups.kill(host.lab, host)
                raise LabError(f"{host.name} did not stop within {STOP_DEADLINE_S} s; killed it")
            time.sleep(0.05)
    cgroups.kill(host.lab, host)


def ssh(host: Host, user: str, *options: str) -> list[str]:
    """The words of a login on the host; the command is to be appended."""
    settings = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={host.lab.known_hosts}",
        "GlobalKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "ConnectTimeout=3",
        "LogLevel=ERROR",
        *options,
    ]
    words = [*network.inside(host.lab.operator), "ssh", "-F", "none"]
    for setting in settings:
        words += ["-o", setting]
    return [*words, "-i", str(host.lab.key), "-p", str(SSH_PORT), "-l", user, host.address]


def condition(host: Host, *, wait_s: float = 0) -> str:
    """What ``systemctl is-system-running`` says over SSH; empty when nobody answers."""
    question = "systemctl is-system-running" + (" --wait" if wait_s else "")
    login = ssh(host, "root", "ConnectTimeout=2")
    try:
        return run([*login, question], timeout_s=wait_s + 10, check=False).stdout.strip()
    except LabError:
        return ""


def wait_until_ready(host: Host, watcher: Process) -> str:
    """``running`` or ``degraded``; LabError with the console's last words after the deadline."""
    deadline = time.monotonic() + BOOT_DEADLINE_S
    while (left := deadline - time.monotonic()) > 0:
        said = condition(host, wait_s=left)
        if said in ("running", "degraded"):
            return said
        if not watcher.is_alive():
            break
        time.sleep(0.2)
    raise LabError(f"{host.name} does not answer over SSH:\n{tail(host.console)}")


def forget(host: Host) -> None:
    """Delete what a killed nspawn leaves outside the lab's directory; before the disk goes."""
    shutil.rmtree(_NSPAWN / "propagate" / host.namespace, ignore_errors=True)
    if mounts.below(host.root):
        root = host.root.stat()
        (_NSPAWN / "locks" / f"inode-{root.st_dev}:{root.st_ino}").unlink(missing_ok=True)


def _words(paths: list[Path]) -> str:
    return " ".join(str(path) for path in paths)


def _authorise(root: Path, user: str, public_key: str) -> None:
    entry = next(
        line.split(":")
        for line in (root / "etc/passwd").read_text(encoding="utf-8").splitlines()
        if line.startswith(f"{user}:")
    )
    uid, gid, home = int(entry[2]), int(entry[3]), root / entry[5].lstrip("/")
    directory = home / ".ssh"
    directory.mkdir(mode=0o700, exist_ok=True)
    write(directory / "authorized_keys", public_key, 0o600)
    for path in (directory, directory / "authorized_keys"):
        os.chown(path, uid, gid)
