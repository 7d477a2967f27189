"""Brings the proxy to run a configuration, or back to the one that ran: one atomic operation.

It runs detached on the host, so that from the switch on nothing that happens to the operator's
side can leave a host between two configurations.
"""

import base64
import contextlib
import json
import time
from typing import Any

from meshctl.onhost import files
from meshctl.onhost.command import ask
from meshctl.onhost.fault import Fault
from meshctl.onhost.supervisor import Supervisor, supervisor

_POLL_S = 0.1
_ANNOUNCE_S = 10.0
"""For the first report to the registry; it waits at most 2.5 s for the applications' health."""


def bring_up(request: dict[str, Any]) -> dict[str, Any]:
    """Raises Fault, whose ``outcome`` says in what state the host was left."""
    keeper = supervisor(request["supervisor"])
    before = files.target_name(request["current"])
    wanted = request["config"]
    if before not in (request["expected"], wanted):
        raise Fault(
            f"current moved: the plan saw {request['expected'] or 'none'}, now it is"
            f" {before or 'none'}",
            code="moved",
        )
    _require_complete(f"{request['configs']}/{wanted}")
    started = time.time()
    if request["verb"] == "reload" and before == wanted:
        _reload(request, keeper)
        return {"since": started}
    undo = _Undo(request, keeper, before)
    try:
        _switch(request, keeper, before)
        _start(request, keeper)
        wait_ready(request, keeper, wanted)
    except Exception as error:
        fault = error if isinstance(error, Fault) else Fault(f"{type(error).__name__}: {error}")
        fault.output = (fault.output.strip() + "\n" + keeper.log(started)).strip()
        fault.outcome = undo.run()
        raise fault from error
    wait_announced(request["admin"])
    return {"since": started}


class _Undo:
    """What was there before, to go back to."""

    def __init__(self, request: dict[str, Any], keeper: Supervisor, before: str) -> None:
        self.request = request
        self.keeper = keeper
        self.before = before
        self.previous = files.target_name(request["previous"])
        self.was_active = keeper.is_active()
        self.was_enabled = keeper.is_enabled()
        unit = request["unit"]
        self.unit = files.content(unit["path"]) if unit else None

    def run(self) -> str:
        """``rolled-back``: it runs as before. ``stopped``: there was nothing to go back to.
        ``unchanged``: it is the configuration that ran before, left to the supervisor's restarts.
        ``broken``: going back failed too."""
        try:
            return self._run()
        except Exception:  # noqa: BLE001, RUF100 - whatever it is, the first fault is the one to tell
            return "broken"

    def _run(self) -> str:
        request, keeper = self.request, self.keeper
        if not self.before:
            keeper.stop(request["stop_s"])
            if not self.was_enabled:
                keeper.disable()
            files.remove(request["current"])
            self._restore_unit()
            return "stopped"
        is_switched = self.before != request["config"]
        if is_switched:
            files.link(request["current"], f"{request['configs']}/{self.before}")
            if self.previous:
                files.link(request["previous"], f"{request['configs']}/{self.previous}")
            else:
                files.remove(request["previous"])
        if not is_switched and not request["unit"]:
            return "unchanged"
        self._restore_unit()
        if not self.was_active:
            keeper.stop(request["stop_s"])
            return "rolled-back"
        keeper.restart(request["stop_s"] + request["ready_s"])
        wait_ready(request, keeper, self.before)
        return "rolled-back"

    def _restore_unit(self) -> None:
        unit = self.request["unit"]
        if unit:
            if self.unit is None:
                files.remove(unit["path"])
            else:
                files.write(unit["path"], self.unit, unit["mode"])
            self.keeper.refresh()


def _require_complete(directory: str) -> None:
    for path in (f"{directory}/proxy.json", f"{directory}/release/.complete"):
        if files.content(path) is None:
            raise Fault(f"{path} is missing", code="moved")


def _switch(request: dict[str, Any], keeper: Supervisor, before: str) -> None:
    unit = request["unit"]
    if unit:
        files.write(unit["path"], base64.b64decode(unit["content"]), unit["mode"])
    if request["uses_units"]:
        keeper.refresh()
    if before != request["config"]:
        if before:
            files.link(request["previous"], f"{request['configs']}/{before}")
        files.link(request["current"], f"{request['configs']}/{request['config']}")


def _start(request: dict[str, Any], keeper: Supervisor) -> None:
    keeper.enable()
    timeout_s = request["stop_s"] + request["ready_s"]
    if request["verb"] == "start":
        keeper.start(timeout_s)
    else:
        keeper.restart(timeout_s)


def _reload(request: dict[str, Any], keeper: Supervisor) -> None:
    for file in request["files"]:
        files.write(file["path"], base64.b64decode(file["content"]), file["mode"])
    # Over HTTP rather than by a signal: the answer comes once the new identities are in force.
    status, body = ask(request["admin"], "POST", "/reload", timeout_s=30)
    if not 200 <= status < 300:
        said = body.decode("utf-8", "replace")
        raise Fault(
            f"the proxy did not reload: status {status or 'none, it does not answer'}", output=said
        )


def wait_ready(request: dict[str, Any], keeper: Supervisor, config: str) -> None:
    """Until the proxy that answers runs ``config`` and is ready."""
    deadline = time.monotonic() + request["ready_s"]
    last = "nothing answers on its admin port"
    while time.monotonic() < deadline:
        status, body = ask(request["admin"], "GET", "/ready")
        running = _running_config(request["admin"]) if status == 200 else ""
        if running == config:
            return
        if status == 200:
            last = f"configuration {running or 'unknown'} answers on its admin port"
        elif status:
            last = body.decode("utf-8", "replace").strip()[:500] or f"status {status}"
        if keeper.is_failed():
            raise Fault("the proxy ended while it was starting")
        time.sleep(_POLL_S)
    raise Fault(f"the proxy was not ready within {request['ready_s']:g} s: {last}")


def wait_announced(admin: str) -> None:
    """Until other hosts can know of the workloads here; without Consul nobody waits for it."""
    deadline = time.monotonic() + _ANNOUNCE_S
    while time.monotonic() < deadline:
        status = _status(admin)
        if status.get("is_announced", True) or status.get("registry_error"):
            return
        time.sleep(_POLL_S)


def _running_config(admin: str) -> str:
    return str(_status(admin).get("config", ""))


def _status(admin: str) -> dict[str, Any]:
    _, body = ask(admin, "GET", "/status")
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    return {}
