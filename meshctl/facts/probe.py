"""Runs on a host, from a string: looks at what a plan depends on, in one go, changing nothing.

Standard library only, fed to the host's own interpreter over standard input; what enters is one
JSON request, what leaves is one JSON document that ``meshctl.facts.model`` decodes. Whatever
cannot be read is reported as absent: the decision what that means is taken on the operator's side.
"""

import base64
import contextlib
import fcntl
import grp
import hashlib
import http.client
import json
import os
import platform
import pwd
import shutil
import ssl
import stat
import subprocess
import sys
import time
from typing import Any

_HASHED_LIMIT = 1024 * 1024
"""Units and configurations are smaller; the binary of Consul is addressed by its hash."""
_ANSWER_LIMIT = 4 * 1024 * 1024
_HTTP_TIMEOUT_S = 2.0
_COMMAND_TIMEOUT_S = 20.0


def sha256_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_in(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def link_name(path: str) -> str:
    """The last part of a symbolic link's target, which is a digest; empty: no link."""
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return ""


def output_of(argv: list[str]) -> str:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def get(url: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body of one GET on loopback; status 0: nobody answered."""
    _, _, authority = url.partition("://")
    connection = http.client.HTTPConnection(authority, timeout=_HTTP_TIMEOUT_S)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(_ANSWER_LIMIT)
    except (OSError, http.client.HTTPException, ValueError):
        return 0, b""
    finally:
        connection.close()


def wheels(directory: str) -> dict[str, Any]:
    found = {}
    for name in names_in(directory):
        path = f"{directory}/{name}"
        if name.endswith(".whl"):
            with contextlib.suppress(OSError):
                found[name] = {"size": os.path.getsize(path), "sha256": sha256_of(path)}
    return found


def configs(directory: str) -> dict[str, Any]:
    found = {}
    for name in names_in(directory):
        path = f"{directory}/{name}"
        files = {}
        for entry in names_in(path):
            if os.path.isfile(f"{path}/{entry}") and not os.path.islink(f"{path}/{entry}"):
                with contextlib.suppress(OSError):
                    files[entry] = sha256_of(f"{path}/{entry}")
        found[name] = {"files": files, "release": link_name(f"{path}/release")}
    return found


def small_file(path: str) -> str:
    """Its content in base64; empty: there is none."""
    try:
        with open(path, "rb") as file:
            return base64.b64encode(file.read(64 * 1024)).decode()
    except OSError:
        return ""


def paths(wanted: list[str]) -> dict[str, Any]:
    """Kind, mode, owner and content hash of each path that exists; links are not followed."""
    found = {}
    for path in wanted:
        try:
            status = os.lstat(path)
            is_file = stat.S_ISREG(status.st_mode) and status.st_size <= _HASHED_LIMIT
            found[path] = {
                "mode": stat.S_IMODE(status.st_mode),
                "owner": user_name(status.st_uid),
                "group": group_name(status.st_gid),
                "sha256": sha256_of(path) if is_file else "",
            }
        except OSError:
            continue
    return found


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def users(wanted: list[str]) -> dict[str, int]:
    found = {}
    for name in wanted:
        with contextlib.suppress(KeyError):
            found[name] = pwd.getpwnam(name).pw_uid
    return found


def disks(wanted: list[str]) -> dict[str, int]:
    """Free bytes where each path is, or will be: at its nearest ancestor that exists."""
    found = {}
    for path in wanted:
        at = path
        while not os.path.isdir(at) and at != "/":
            at = os.path.dirname(at)
        with contextlib.suppress(OSError):
            found[path] = shutil.disk_usage(at).free
    return found


def listeners(ports: list[int]) -> list[dict[str, Any]]:
    """Who listens on the wanted ports. From /proc, because ss(8) is not on every host."""
    inodes: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as lines:
                rows = [line.split() for line in lines][1:]
        except OSError:
            continue
        for row in rows:
            port = int(row[1].rpartition(":")[2], 16)
            if row[3] == "0A" and port in ports:  # 0A: TCP_LISTEN
                inodes[row[9]] = port
    if not inodes:
        return []
    holders: dict[int, tuple[int, str, str]] = dict.fromkeys(inodes.values(), (0, "", ""))
    for pid in filter(str.isdigit, names_in("/proc")):
        for descriptor in names_in(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in inodes:
                holders[inodes[target[8:-1]]] = (int(pid), *process(pid))
    return [
        {"port": port, "pid": pid, "process": name, "group": group}
        for port, (pid, name, group) in sorted(holders.items())
    ]


def process(pid: str) -> tuple[str, str]:
    """Command name and control group (which names the systemd unit) of a process."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read().strip()
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return name, file.read().strip().rpartition("\n")[2].rpartition(":")[2]
    except OSError:
        return "", ""


_UNIT_PROPERTIES = {
    "LoadState": "load",
    "ActiveState": "active",
    "SubState": "sub",
    "UnitFileState": "enabled",
    "ActiveEnterTimestamp": "since",
}


def systemd() -> dict[str, Any] | None:
    if not os.path.isdir("/run/systemd/system"):
        return None
    version = output_of(["systemctl", "--version"]).split()
    digits = version[1].split(".")[0] if len(version) > 1 else ""
    number = int(digits) if digits.isdigit() else 0
    return {"version": number, "state": output_of(["systemctl", "is-system-running"]).strip()}


def units(wanted: list[str]) -> dict[str, Any]:
    if not wanted:
        return {}
    keys = [*_UNIT_PROPERTIES, "Id", "NeedDaemonReload", "MainPID"]
    text = output_of(["systemctl", "show", "-p", ",".join(keys), "--", *wanted])
    found = {}
    for block in text.strip().split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        if "Id" in values:
            found[values["Id"]] = {
                **{ours: values.get(theirs, "") for theirs, ours in _UNIT_PROPERTIES.items()},
                "needs_reload": values.get("NeedDaemonReload") == "yes",
                "pid": int(values.get("MainPID") or 0),
            }
    return found


def supervised(pid_files: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """The same of processes that have no systemd. Alive means: the process that the file names
    has our marker among its arguments, for an id may be given to another one."""
    found = {}
    for name, (path, marker) in pid_files.items():
        pid = 0
        with contextlib.suppress(OSError, ValueError):
            with open(path, encoding="ascii") as file:
                number = int(file.read())
            with open(f"/proc/{number}/cmdline", "rb") as file:
                if marker.encode() in file.read().split(b"\0"):
                    pid = number
        found[name] = {
            "load": "loaded",
            "active": "active" if pid else "inactive",
            "sub": "",
            "enabled": "enabled",
            "since": "",
            "needs_reload": False,
            "pid": pid,
        }
    return found


def identities(state: str, python: str) -> list[dict[str, Any]]:
    """What ``proxy.keys show`` says, and the fingerprints of each chain's certificates."""
    directory = f"{state}/identities"
    services = names_in(directory)
    if not services:
        return []
    shown = {}
    with contextlib.suppress(ValueError, TypeError, KeyError):
        text = output_of([python, "-m", "proxy.keys", "show", "--state-dir", state])
        shown = {item["service"]: item for item in json.loads(text)}
    unread = {"identity": None, "error": "the installed release could not read it"}
    return [
        {
            "service": name,
            **shown.get(name, unread),
            "chain": chain(f"{directory}/{name}/current/chain.pem"),
        }
        for name in services
    ]


def chain(path: str) -> list[str]:
    end = "-----END CERTIFICATE-----"
    try:
        with open(path, encoding="ascii") as file:
            blocks = [block + end for block in file.read().split(end)[:-1]]
        return [
            hashlib.sha256(ssl.PEM_cert_to_DER_cert(block.strip())).hexdigest() for block in blocks
        ]
    except (OSError, ValueError):
        return []


def consul(url: str, token_file: str | None, key: str) -> dict[str, Any]:
    headers = {}
    if token_file:
        with contextlib.suppress(OSError), open(token_file, encoding="utf-8") as file:
            headers["X-Consul-Token"] = file.read().strip()
    status, leader = get(url, "/v1/status/leader", headers)
    # From any server, its own state: an election must not look like a policy that is not there.
    code, body = get(url, f"/v1/kv/{key}?raw&stale", headers) if status == 200 else (0, b"")
    return {
        "is_answering": status != 0,
        "leader": leader.decode("ascii", "replace").strip().strip('"') if status == 200 else "",
        "is_snapshot_known": code in (200, 404),
        "snapshot": base64.b64encode(body if code == 200 else b"").decode(),
        "is_denied": code == 403,
    }


def signer(wanted: "dict[str, Any] | None") -> dict[str, Any]:
    """What of a signer is here: its release, what its keys say, what it says itself."""
    if wanted is None or not any(os.path.lexists(path) for path in wanted["traces"]):
        return {}
    link = wanted["link"]
    keys = ""
    if os.path.exists(f"{link}/bin/python"):
        program = [f"{link}/bin/python", "-I", "-m", "meshctl.signer.keys", "show"]
        keys = output_of([*program, "--state-dir", wanted["state"]])
    status, body = get(f"http://{wanted['admin']}", "/status", {})
    return {
        "release": link_name(link),
        "is_there": True,
        "keys": base64.b64encode(keys.encode()).decode(),
        "status": base64.b64encode(body if status == 200 else b"").decode(),
    }


def deploy_lock(path: str) -> dict[str, Any] | None:
    """Who holds the host's deploy lock, and whether one of its operations still runs."""
    try:
        with open(path, encoding="utf-8") as file:
            held = json.loads(file.read() or "{}")
    except (OSError, ValueError):
        return None
    is_busy = False
    with contextlib.suppress(OSError), open(path + ".running", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            is_busy = True
    return {
        "owner": str(held.get("owner", "")),
        "until": float(held.get("until", 0)),
        "is_busy": is_busy,
    }


def answer(request: dict[str, Any]) -> dict[str, Any]:
    started = time.time()
    prefix, state = request["prefix"], request["state"]
    has_units = request["supervisor"] == "systemd"
    releases = {
        name: os.path.exists(f"{prefix}/releases/{name}/.complete")
        for name in names_in(f"{prefix}/releases")
    }
    # Before the first start there is no current release, but there may be one installed.
    complete = [
        f"{prefix}/releases/{name}" for name, is_complete in releases.items() if is_complete
    ]
    runs = f"{prefix}/current/release"
    python = f"{runs if os.path.exists(runs) or not complete else complete[0]}/bin/python"
    status, body = (
        get(f"http://{request['admin']}", "/status", {}) if request["admin"] else (0, b"")
    )
    found = {
        "python": {
            "executable": sys.executable,
            "version": list(sys.version_info[:3]),
            "implementation": sys.implementation.name,
        },
        "found": platform.python_version(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "os": os_name(),
        "systemd": systemd() if has_units else None,
        "is_root": os.geteuid() == 0,
        "disks": disks(request["disks"]),
        "listeners": listeners(request["ports"]),
        "users": users(request["users"]),
        "wheels": wheels(f"{prefix}/wheels"),
        "releases": releases,
        "configs": configs(f"{prefix}/configs"),
        "consul_binaries": names_in(f"{prefix}/consul"),
        "current": link_name(f"{prefix}/current"),
        "previous": link_name(f"{prefix}/previous"),
        "policy_keys": small_file(f"{prefix}/current/policy-keys.json"),
        "paths": paths(request["paths"]),
        "units": units(request["units"]) if has_units else supervised(request["pid_files"]),
        "identities": identities(state, python),
        "proxy": base64.b64encode(body if status == 200 else b"").decode(),
        "signer": signer(request.get("signer")),
        "consul": consul(request["consul"], request["token_file"], request["snapshot_key"]),
        "lock": deploy_lock(request["lock"]),
    }
    # The middle of the two is compared with the middle of the round trip.
    return {**found, "started": started, "ended": time.time()}


def os_name() -> str:
    try:
        values = platform.freedesktop_os_release()
    except OSError:
        return platform.system()
    return values.get("PRETTY_NAME") or values.get("ID", "")


def main(request: str) -> None:
    print(json.dumps(answer(json.loads(request))))
