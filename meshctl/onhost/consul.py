"""A managed Consul agent: started or restarted, and waited for until it answers."""

import json
import time
from typing import Any

from meshctl.onhost.command import ask
from meshctl.onhost.fault import Fault
from meshctl.onhost.supervisor import supervisor

_POLL_S = 0.2


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Returns once the agent answers: not once it has a leader, which takes the others too."""
    keeper = supervisor(request["supervisor"])
    started = time.time()
    try:
        keeper.refresh()
        keeper.enable()
        if keeper.is_active():
            keeper.restart(90)
        else:
            keeper.start(90)
        deadline = time.monotonic() + request["ready_s"]
        # Any status: who has no token is refused, and before there is a leader everybody is.
        while ask(request["api"], "GET", "/v1/agent/self")[0] == 0:
            if keeper.is_failed():
                raise Fault("Consul ended while it was starting")
            if time.monotonic() > deadline:
                raise Fault(f"Consul did not answer within {request['ready_s']:g} s")
            time.sleep(_POLL_S)
    except Fault as fault:
        fault.output = (fault.output.strip() + "\n" + keeper.log(started)).strip()
        raise
    return {}


def wait_leader(request: dict[str, Any]) -> dict[str, Any]:
    """Until this agent knows a leader and enough servers to keep one."""
    deadline = time.monotonic() + request["ready_s"]
    while True:
        status, body = ask(request["api"], "GET", "/v1/status/leader")
        leader = body.decode("ascii", "replace").strip().strip('"') if status == 200 else ""
        if leader and _peers(request["api"]) >= request["servers"]:
            return {"leader": leader}
        if time.monotonic() > deadline:
            raise Fault(f"Consul has no leader after {request['ready_s']:g} s")
        time.sleep(_POLL_S)


def _peers(api: str) -> int:
    status, body = ask(api, "GET", "/v1/status/peers")
    try:
        return len(json.loads(body)) if status == 200 else 0
    except (ValueError, TypeError):
        return 0
