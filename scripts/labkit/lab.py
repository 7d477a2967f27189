"""The whole lab: bring it up, say what it is, act on its hosts, take it down.

``up`` makes what is missing and leaves what is there, so that it completes a lab that was
interrupted half way; ``down`` needs no record, only the lab's name.
"""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from labkit import cgroups, image, machine, mounts, network
from labkit.command import LabError, Unavailable, run, say
from labkit.place import MAX_HOSTS, SSH_PORT, Host, Lab
from labkit.record import HostRecord, Process, Record, locked, write

LOGIN = "admin"
_PARALLEL = 8


def require() -> None:
    """Refuse, in one sentence, a machine that can run no lab even with everything installed."""
    if os.uname().sysname != "Linux":
        raise Unavailable("needs Linux")
    if os.geteuid() != 0:
        raise Unavailable("needs root: namespaces, mounts and systemd-nspawn")
    cgroups.unified()
    missing = image.missing_tools()
    if missing and shutil.which("apt-get") is None:
        raise Unavailable(f"needs apt-get to install {' '.join(missing)}")
    if "overlay" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
        run(["modprobe", "overlay"], check=False)
        if "overlay" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
            raise Unavailable("needs a kernel with overlayfs")


def up(lab: Lab, count: int, without_python: frozenset[str]) -> None:
    """Bring up hosts 1 to ``count``; those that run are left alone."""
    if not 1 <= count <= MAX_HOSTS:
        raise LabError(f"a lab has 1 to {MAX_HOSTS} hosts, not {count}")
    hosts = [lab.host(index) for index in range(1, count + 1)]
    names = [host.name for host in hosts]
    if strangers := without_python - set(names):
        raise LabError(f"no host {', '.join(sorted(strangers))} among {', '.join(names)}")
    record = Record.load(lab.record)
    if more := set(record.hosts) - set(names):
        raise LabError(f"already up with {len(record.hosts)} hosts ({', '.join(sorted(more))} too)")
    for host in hosts:
        known = record.hosts.get(host.name)
        if known and known.python == (host.name in without_python):
            raise LabError(f"{host.name} is up {'with' if known.python else 'without'} python3")
    image.install_tools()
    base = image.ensure(lab.cache)
    public_key = _make_directory(lab)
    network.make_operator(lab)
    for host in hosts:
        network.connect(host)
        python = host.name not in without_python
        machine.prepare(host, base=base, public_key=public_key, python=python)
        known = record.hosts.setdefault(host.name, HostRecord(index=host.index, python=python))
        if known.watcher is None or not known.watcher.is_alive():
            known.watcher = machine.start(host)
        record.save(lab.record)
    _describe(lab, hosts)
    say(f"waiting for {', '.join(names)}")
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for host, said in zip(hosts, pool.map(lambda h: _ready(h, record), hosts), strict=True):
            say(f"{host.name} {host.address} {said}")


def down(lab: Lab) -> None:
    """End every process, take off every mount, delete every namespace and file; idempotent."""
    cgroups.leave(lab)
    cgroups.kill(lab)
    cgroups.remove(lab)
    for directory in (lab.dir / "hosts").glob("mesh*"):
        machine.forget(lab.host(int(directory.name.removeprefix("mesh"))))
    if shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
        network.delete(lab)
    image.remove(lab.dir)


def present(cache: Path) -> list[Lab]:
    """Every lab that has a directory, up or half way."""
    labs = cache / "labs"
    found = sorted(labs.iterdir()) if labs.is_dir() else []
    return [Lab(name=path.name, cache=cache) for path in found if path.is_dir()]


def remove_images(cache: Path) -> None:
    """Delete the base images; no lab may be up."""
    with locked(cache / "base.lock", what="the base image is being built"):
        for path in cache.glob("base-*"):
            image.remove(path)


def find(lab: Lab, name: str) -> tuple[Host, HostRecord]:
    """A host that ``up`` made; LabError that names those there are."""
    record = Record.load(lab.record)
    if name not in record.hosts:
        known = ", ".join(record.hosts) or "none; run `scripts/lab up 3`"
        raise LabError(f"no host {name!r} in lab {lab.name!r} (hosts: {known})")
    return lab.host(record.hosts[name].index), record.hosts[name]


def running(lab: Lab, name: str) -> tuple[Host, Process]:
    """A host that is powered on, and its watcher."""
    host, known = find(lab, name)
    if known.watcher is None or not known.watcher.is_alive():
        raise LabError(f"{name} is stopped; run `scripts/lab start {name}`")
    return host, known.watcher


def start(lab: Lab, name: str) -> str:
    """Power on a stopped host and wait until it answers (unless it is cut off)."""
    host, known = find(lab, name)
    if known.watcher is None or not known.watcher.is_alive():
        if not mounts.below(host.root):
            raise LabError(f"{name} has lost its disk; run `scripts/lab down` and up again")
        record = Record.load(lab.record)
        record.hosts[name].watcher = machine.start(host)
        record.save(lab.record)
    return _ready(host, Record.load(lab.record))


def reboot(lab: Lab, name: str) -> str:
    """Reboot through the host's own systemd and wait until it answers again."""
    host, watcher = running(lab, name)
    machine.reboot(host, watcher)
    return _ready(host, Record.load(lab.record))


def set_clock(lab: Lab, name: str, offset_s: int) -> None:
    """What commands over SSH, sudo and services started from now on take for the time.

    The kernel has one real-time clock for all hosts, so it is libfaketime that lies to programs
    that use the C library. Gone after a reboot.
    """
    host, _ = running(lab, name)
    fake = f"FAKETIME={offset_s:+d}"
    script = f"""set -e
old=$(systemctl show-environment | grep -o '^\\(FAKETIME[A-Z_]*\\|LD_PRELOAD\\)' || true)
[ -z "$old" ] || systemctl unset-environment $old
rm -rf /run/lab-clock
if [ {offset_s} -ne 0 ]; then
  library=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1)
  skip=FAKETIME_SKIP_CMDS=systemd-run,systemctl,systemd-journal,systemd-journald,journalctl
  set -- LD_PRELOAD=$library {fake} FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1 $skip
  mkdir -m 755 /run/lab-clock
  printf '%s\\n' "$@" >/run/lab-clock/environment
  echo "SetEnv $*" >/run/lab-clock/sshd.conf
  systemctl set-environment "$@"
fi
kill -HUP "$(systemctl show -p MainPID --value ssh.service)"
"""
    run(["env", "-i", *machine.ssh(host, "root"), script])


def status(lab: Lab) -> list[dict[str, Any]]:
    """Each host with its power, its connection and what its systemd says."""
    record = Record.load(lab.record)

    def ask(name: str) -> dict[str, Any]:
        known = record.hosts[name]
        host = lab.host(known.index)
        is_on = known.watcher is not None and known.watcher.is_alive()
        is_cut = network.is_cut(host)
        return {
            "name": name,
            "address": host.address,
            "power": "on" if is_on else "off",
            "network": "cut" if is_cut else "connected",
            "system": (machine.condition(host) or "no answer") if is_on and not is_cut else "",
            "python": known.python,
            "root": str(host.root),
        }

    with ThreadPoolExecutor(_PARALLEL) as pool:
        return list(pool.map(ask, record.hosts))


def _ready(host: Host, record: Record) -> str:
    watcher = record.hosts[host.name].watcher
    if watcher is None:
        raise LabError(f"{host.name} is stopped")
    if network.is_cut(host):
        return "cut off"
    return machine.wait_until_ready(host, watcher)


def _make_directory(lab: Lab) -> str:
    """The lab's directory and its key pair; answers the public key."""
    lab.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    public = lab.key.with_suffix(".pub")
    if not public.exists():
        lab.key.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", lab.name, "-f", lab.key])
    return public.read_text(encoding="utf-8")


def _describe(lab: Lab, hosts: list[Host]) -> None:
    """``lab.json`` and ``known_hosts``: all that somebody needs who wants to log in."""
    keys = {host.name: machine.host_key(host) for host in hosts}
    write(
        lab.known_hosts,
        "".join(f"{host.address} {keys[host.name]}\n" for host in hosts),
    )
    described = {
        "name": lab.name,
        "namespace": lab.operator,
        "gateway": lab.gateway,
        "key": str(lab.key),
        "known_hosts": str(lab.known_hosts),
        "hosts": [
            {
                "name": host.name,
                "address": host.address,
                "ssh_port": SSH_PORT,
                "user": LOGIN,
                "key": str(lab.key),
                "host_key": keys[host.name],
            }
            for host in hosts
        ],
    }
    write(lab.description, json.dumps(described, indent=1) + "\n")
