"""Brings a signer to run a release with its files, or back to what it ran; or takes it away.

Like ``service.bring_up``: from the first file on, whatever happens to the operator's side, the
host ends with the new signer that is ready or with the one that was there.
"""

import base64
import contextlib
import json
import os
import pwd
import time
from typing import Any

from meshctl.onhost import files
from meshctl.onhost.command import ask, attempt, run
from meshctl.onhost.fault import Fault
from meshctl.onhost.supervisor import Supervisor, supervisor

_POLL_S = 0.1


def run_signer(request: dict[str, Any]) -> dict[str, Any]:
    """Raises Fault, whose ``outcome`` says in what state the signer was left."""
    keeper = supervisor(request["supervisor"])
    before = files.target_name(request["link"])
    if before not in (request["expected"], os.path.basename(request["release"])):
        raise Fault(
            f"the signer moved: the plan saw {request['expected'] or 'none'}, now it is"
            f" {before or 'none'}",
            code="moved",
        )
    if files.content(f"{request['release']}/.complete") is None:
        raise Fault(f"{request['release']} is not complete", code="moved")
    started = time.time()
    undo = _Undo(request, keeper)
    try:
        for file in _files(request):
            _write(file)
        if before != os.path.basename(request["release"]):
            files.link(request["link"], request["release"])
        keeper.refresh()
        if request["verb"] == "reload":
            keeper.hang_up()
        else:
            keeper.enable()
            (keeper.start if request["verb"] == "start" else keeper.restart)(request["ready_s"])
        _wait(request["admin"], keeper, request["wanted"], request["ready_s"])
    except Exception as error:
        fault = error if isinstance(error, Fault) else Fault(f"{type(error).__name__}: {error}")
        fault.output = (fault.output.strip() + "\n" + keeper.log(started)).strip()
        fault.outcome = undo.run()
        raise fault from error
    return {"since": started}


class _Undo:
    """What was there before, to go back to."""

    def __init__(self, request: dict[str, Any], keeper: Supervisor) -> None:
        self.request = request
        self.keeper = keeper
        try:
            self.link = os.readlink(request["link"])
        except OSError:
            self.link = ""
        self.files = [(file, files.content(file["path"])) for file in _files(request)]
        self.was_active = keeper.is_active()
        self.was_enabled = keeper.is_enabled()

    def run(self) -> str:
        """``rolled-back``: it runs as before. ``stopped``: there was nothing to go back to.
        ``broken``: going back failed too."""
        try:
            return self._run()
        except Exception:  # noqa: BLE001, RUF100 - whatever it is, the first fault is the one to tell
            return "broken"

    def _run(self) -> str:
        request, keeper = self.request, self.keeper
        if not self.was_active:
            keeper.stop(request["stop_s"])
            if not self.was_enabled:
                keeper.disable()
        for file, content in self.files:
            if content is None:
                files.remove(file["path"])
            else:
                files.write(file["path"], content, file["mode"], file["owner"], file["group"])
        if self.link:
            files.link(request["link"], self.link)
        else:
            files.remove(request["link"])
        keeper.refresh()
        if not self.was_active:
            return "stopped"
        if request["verb"] == "reload":
            keeper.hang_up()
        else:
            keeper.restart(request["ready_s"])
        _wait(request["admin"], keeper, {}, request["ready_s"])
        return "rolled-back"


def tell(request: dict[str, Any]) -> dict[str, Any]:
    """Replaces one file of a signer that is installed; waits until one that runs has read it."""
    if not os.path.isdir(os.path.dirname(request["file"]["path"])):
        return {"is_there": False}
    _write(request["file"])
    return {"is_there": True, **reload(request)}


def reload(request: dict[str, Any]) -> dict[str, Any]:
    """Of one that runs; it says ``expected`` of itself afterwards."""
    keeper = supervisor(request["supervisor"])
    if not keeper.is_active():
        return {"is_running": False}
    started = time.time()
    try:
        keeper.hang_up()
        _wait(request["admin"], keeper, request["expected"], request["ready_s"])
    except Fault as fault:
        fault.output = (fault.output.strip() + "\n" + keeper.log(started)).strip()
        raise
    return {"is_running": True}


def remove_signer(request: dict[str, Any]) -> dict[str, Any]:
    """The key goes before its user does; a second time there is nothing to do."""
    keeper = supervisor(request["supervisor"])
    keeper.stop(request["stop_s"])
    keeper.disable()
    removed = [path for path in request["paths"] if files.remove(path)]
    keeper.refresh()
    user = request["user"]
    with contextlib.suppress(KeyError):
        pwd.getpwnam(user)
        run(["userdel", "--", user])
        attempt(["groupdel", "--", user])
    return {"removed": removed}


def _files(request: dict[str, Any]) -> list[dict[str, Any]]:
    return [*request["files"], *([request["unit"]] if request["unit"] else [])]


def _write(file: dict[str, Any]) -> None:
    content = base64.b64decode(file["content"])
    files.write(file["path"], content, file["mode"], file["owner"], file["group"])


def _wait(admin: str, keeper: Supervisor, wanted: dict[str, str], limit_s: float) -> None:
    """Until it is ready and says ``wanted`` of itself; ``serial`` is its certificate's."""
    deadline = time.monotonic() + limit_s
    last = "nothing answers on its admin port"
    while time.monotonic() < deadline:
        status, body = ask(admin, "GET", "/ready")
        if status == 200:
            said = _status(admin)
            wrong = sorted(key for key, value in wanted.items() if said.get(key) != value)
            if not wrong:
                return
            last = str(said.get("reload_error") or "") or f"it has another {wrong[0]} in force"
        elif status:
            last = body.decode("utf-8", "replace").strip()[:500] or f"status {status}"
        if keeper.is_failed():
            raise Fault("the signer ended")
        time.sleep(_POLL_S)
    raise Fault(f"the signer was not ready within {limit_s:g} s: {last}")


def _status(admin: str) -> dict[str, Any]:
    _, body = ask(admin, "GET", "/status")
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            ca = found.get("signer")
            return {**found, "serial": ca.get("serial") if isinstance(ca, dict) else None}
    return {}
