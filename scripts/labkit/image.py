"""The base image: a Debian 12 with systemd and sshd, built once and shared by every host.

The directory's name carries the hash of the recipe below, so that a changed recipe builds a new
image and never alters one in use. It is built beside and renamed into place: what has the final
name is whole.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from pathlib import Path

from labkit import sources
from labkit.command import Unavailable, run, say
from labkit.mounts import unmount_below
from labkit.record import locked

SUITE = "bookworm"
# python3-venv and pip are left out on purpose: many real hosts lack them, so a deploy must not
# need them.
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "sudo", "openssh-server", "python3"),
    *("nftables", "iproute2", "ca-certificates", "nginx-light", "curl", "procps"),
    "libfaketime",
)
USERS = ("admin", "nosudo")
TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ip": "iproute2",
    "bridge": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
_BUILD_DEADLINE_S = 1200
_APT = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300")

# An offset clock reaches what people and services run, never sshd or systemd themselves, which
# do not survive it. All of it lives under /run, so that a reboot sets the clock right.
_FILES: dict[str, tuple[int, str]] = {
    "etc/ssh/sshd_config.d/lab.conf": (
        0o644,
        "Include /run/lab-clock/sshd.conf\nMaxStartups 200\nMaxSessions 100\nUseDNS no\n",
    ),
    "etc/sudoers.d/lab": (
        0o440,
        "admin ALL=(ALL:ALL) NOPASSWD:ALL\n"
        "Defaults env_file=/run/lab-clock/environment\n"
        'Defaults env_keep += "LD_PRELOAD FAKETIME FAKETIME_*"\n',
    ),
    "etc/systemd/journald.conf.d/lab.conf": (
        0o644,
        "[Journal]\nStorage=persistent\nSystemMaxUse=64M\n",
    ),
    "etc/resolv.conf": (0o644, ""),
    "etc/machine-id": (0o444, ""),
}
_DISABLED = ("nginx.service",)
_MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service")


def digest() -> str:
    """The recipe's hash; changes when anything that shapes the image does."""
    recipe = [SUITE, sorted(PACKAGES), USERS, _FILES, _DISABLED, _MASKED, platform.machine()]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def missing_tools() -> list[str]:
    """Debian packages this machine still needs, without duplicates."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return sorted({pkg for tool, pkg in TOOLS.items() if shutil.which(tool, path=path) is None})


def install_tools() -> None:
    """Install what ``missing_tools`` names; nothing when it names nothing."""
    missing = missing_tools()
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"needs root and apt-get to install {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    run([*_APT, "update"], timeout_s=300, env=env)
    run(
        [*_APT, "install", "-y", "--no-install-recommends", *missing],
        timeout_s=600,
        env=env,
    )


def ensure(cache: Path) -> Path:
    """The image's directory, built first when this recipe never was."""
    base = cache / f"base-{digest()}"
    if base.is_dir():
        return base
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "base.lock", what="the base image is being built") as lock:
        if not base.is_dir():
            _build(base, lock)
    return base


def remove(path: Path) -> None:
    """Delete a tree of ours, after taking off whatever is mounted in it."""
    unmount_below(path)
    if path.exists():
        shutil.rmtree(path)


def _build(base: Path, lock: int) -> None:
    archive = sources.main_archive()
    started = time.monotonic()
    for left in base.parent.glob("base-*.building"):
        remove(left)
    building = base.with_name(base.name + ".building")
    log = base.parent / "build.log"
    log.unlink(missing_ok=True)
    say(f"building the base image, once (a minute or two; {log})")
    building.mkdir(mode=0o755)
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--keyring={archive.keyring}",
        f"--include={','.join(PACKAGES)}",
        SUITE,
        str(building),
        archive.uri,
    ]
    env = sources.proxy_environment()
    run(command, timeout_s=_BUILD_DEADLINE_S, log=log, env=env, holding=lock)
    _customise(building, log)
    building.rename(base)
    _remove_unused(base)
    say(f"base image ready in {time.monotonic() - started:.0f} s")


def _remove_unused(base: Path) -> None:
    """Delete images of earlier recipes that no host stands on."""
    in_use = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    for other in base.parent.glob("base-*"):
        if other.is_dir() and other != base and f"lowerdir={other}," not in in_use:
            remove(other)


def _customise(root: Path, log: Path) -> None:
    for user in USERS:
        run(["chroot", root, "useradd", "-m", "-s", "/bin/bash", user], log=log)
    for name, (mode, text) in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    run(["systemctl", f"--root={root}", "disable", *_DISABLED], log=log)
    run(["systemctl", f"--root={root}", "mask", *_MASKED], log=log)
    # Else every journal of every host would be flushed to a directory that is not there.
    (root / "var/log/journal").mkdir(exist_ok=True)
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
