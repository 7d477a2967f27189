"""The small operations of a deploy: users and directories, files, leaves and leftovers removed."""

import base64
import os
import pwd
import shutil
from typing import Any

from meshctl.onhost import files
from meshctl.onhost.command import run
from meshctl.onhost.fault import Fault

_NO_SHELL = "/usr/sbin/nologin"


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    for user in request["users"]:
        create_user(user)
    for made in request["directories"]:
        files.directory(made["path"], made["mode"], made["owner"], made.get("group", ""))
    return {}


def create_user(name: str) -> None:
    try:
        pwd.getpwnam(name)
    except KeyError:
        if shutil.which("useradd") is None:
            raise Fault(f"user {name} is missing and there is no useradd to create it") from None
        run(
            ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir",
             "/nonexistent", "--shell", _NO_SHELL, name]
        )  # fmt: skip


def write(request: dict[str, Any]) -> dict[str, Any]:
    for file in request["files"]:
        files.write(
            file["path"],
            base64.b64decode(file["content"]),
            file["mode"],
            file["owner"],
            file["group"],
        )
    if request["link"]:
        path, target = request["link"]
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        files.link(path, target)
    return {}


def prune(request: dict[str, Any]) -> dict[str, Any]:
    """Removes names below the given folders, but never what runs or ran before."""
    kept = {files.target_name(request["current"]), files.target_name(request["previous"])} - {""}
    kept |= {files.target_name(f"{request['configs']}/{config}/release") for config in kept}
    kept.add(files.target_name(request.get("signer", "")))
    removed = 0
    for folder, names in request["names"].items():
        for name in names:
            if name in kept or not name or "/" in name or name in (".", ".."):
                continue
            removed += files.remove(f"{folder}/{name}")
    return {"removed": removed}


def remove_leaf(request: dict[str, Any]) -> dict[str, Any]:
    return {"removed": files.remove(request["path"])}
