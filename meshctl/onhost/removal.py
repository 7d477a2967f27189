"""Takes everything of the mesh off a host and leaves it as it was; a second time does nothing."""

import contextlib
import json
import os
import pwd
from typing import Any

from meshctl.onhost import files, lock
from meshctl.onhost.command import ask, attempt, run
from meshctl.onhost.supervisor import Supervisor, supervisor


def uninstall(request: dict[str, Any]) -> dict[str, Any]:
    """Returns what was removed, in words."""
    done: list[str] = []
    if request["signer"]:
        _end(supervisor(request["signer"]), 60, "the signer", done)
    proxy = supervisor(request["proxy"])
    _end(proxy, request["stop_s"], "the proxy", done)
    headers = _token(request["token_file"])
    count = _deregister(request, headers)
    if count:
        done.append(f"{count} registration(s)")
    if request["snapshot_key"] and _forget_policy(request, headers):
        done.append("the published policy")
    if request["consul"]:
        keeper = supervisor(request["consul"])
        if keeper.is_active() and request["leaves_cluster"]:
            # So that the servers that stay do not count on it.
            leave = _agent_token(request["consul_config"])
            ask(request["api"], "PUT", "/v1/agent/leave", headers=leave, timeout_s=20)
        _end(keeper, 60, "Consul", done)
    is_unit_removed = [files.remove(path) for path in request["units"]]
    if request["uses_units"]:
        proxy.refresh()
        if any(is_unit_removed):
            done.append("units")
    for path in request["paths"]:
        if files.remove(path):
            done.append(path)
    for user in request["users"]:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(user)
            run(["userdel", "--", user])
            attempt(["groupdel", "--", user])
            done.append(f"user {user}")
    lock.release(request["lock"], request["owner"])
    files.remove(request["lock"] + ".running")
    for folder in request["folders_if_empty"]:
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return {"done": done}


def _end(keeper: Supervisor, stop_s: float, name: str, done: list[str]) -> None:
    if keeper.is_active():
        done.append(name)
    keeper.stop(stop_s)
    keeper.disable()


def _token(path: "str | None") -> dict[str, str]:
    if not path:
        return {}
    token = files.content(path) or b""
    return {"X-Consul-Token": token.decode("utf-8", "replace").strip()}


def _agent_token(path: str) -> dict[str, str]:
    """The agent's own: the proxy's must not be able to take the host out of the cluster."""
    with contextlib.suppress(ValueError, AttributeError, KeyError):
        config = json.loads(files.content(path) or b"{}")
        return {"X-Consul-Token": config["acl"]["tokens"]["agent"]}
    return {}


def _forget_policy(request: dict[str, Any], headers: dict[str, str]) -> bool:
    """Only ours: the same Consul may serve another mesh by now."""
    path = f"/v1/kv/{request['snapshot_key']}"
    status, body = ask(request["api"], "GET", f"{path}?raw", headers=headers)
    with contextlib.suppress(ValueError, AttributeError):
        if status == 200 and json.loads(body).get("trust_domain") == request["trust_domain"]:
            past = f"/v1/kv/{request['history_prefix']}?recurse"
            ask(request["api"], "DELETE", past, headers=headers)
            return ask(request["api"], "DELETE", path, headers=headers)[0] == 200
    return False


def _deregister(request: dict[str, Any], headers: dict[str, str]) -> int:
    """What the proxy did not take back itself: it stays registered over a restart."""
    status, body = ask(request["api"], "GET", "/v1/agent/services", headers=headers)
    if status != 200:
        return 0
    count = 0
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        for name, service in json.loads(body).items():
            meta = service.get("Meta") or {}
            if all(meta.get(key) == value for key, value in request["meta"].items()):
                path = f"/v1/agent/service/deregister/{name}"
                ask(request["api"], "PUT", path, headers=headers)
                count += 1
    return count
