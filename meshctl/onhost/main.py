"""The entry on a host: one operation under the host's deploy lock, its answer as one JSON line.

The operation runs in a session of its own, because the connection, or the meshctl that started
it, may go away in the middle: what was begun is ended or undone all the same.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from meshctl.onhost import consul, lock, removal, service, signer, upkeep
from meshctl.onhost.fault import Fault

OPERATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "lock": lambda _: {},
    "prepare": upkeep.prepare,
    "write": upkeep.write,
    "prune": upkeep.prune,
    "remove-leaf": upkeep.remove_leaf,
    "bring-up": service.bring_up,
    "start-consul": consul.start,
    "wait-leader": consul.wait_leader,
    "run-signer": signer.run_signer,
    "tell-signer": signer.tell,
    "reload-signer": signer.reload,
    "remove-signer": signer.remove_signer,
    "uninstall": removal.uninstall,
}
_LOCK_WAIT_S = 30.0


def main(request: dict[str, Any]) -> None:
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _detached(request, writer)
    os.close(writer)
    with open(reader, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    sys.stdout.buffer.write(text)
    sys.stdout.flush()


def _detached(request: dict[str, Any], writer: int) -> None:
    """Never returns. Lets go of the connection's streams, so that its end is not held up."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        # A handler, not SIG_IGN: that would be inherited by what is started here.
        signal.signal(number, lambda *_: None)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    answer = perform(request)
    try:
        os.write(writer, json.dumps(answer).encode() + b"\n")
    except OSError:
        pass  # nobody waits for it any more
    finally:
        os._exit(0)


def perform(request: dict[str, Any]) -> dict[str, Any]:
    os.umask(0o022)
    path, owner = request["lock"], request["owner"]
    try:
        with lock.held(path, owner, _LOCK_WAIT_S):
            if request["operation"] == "unlock":
                lock.release(path, owner)
                return {"ok": True, "result": {}}
            return {"ok": True, "result": OPERATIONS[request["operation"]](request)}
    except Fault as fault:
        return _refusal(str(fault), fault.output, fault.code, fault.outcome)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _refusal(f"{error.strerror or error}{where}", "", "failed", "")
    except Exception as error:  # noqa: BLE001, RUF100 - the operator gets to see it
        return _refusal(f"{type(error).__name__}: {error}", traceback.format_exc(), "failed", "")


def _refusal(error: str, output: str, code: str, outcome: str) -> dict[str, Any]:
    return {
        "ok": False,
        "error": error,
        "output": output[-16384:],
        "code": code,
        "outcome": outcome,
    }
