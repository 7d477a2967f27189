"""What the benchmark does to the registry that our proxies watch, as any client of it would."""

import http.client
import json
import time
from collections.abc import Mapping

from benchkit.processes import Failed, Process

_ASK_S = 30.0
_READY_S = 20.0
_PAUSE_S = 0.05


def wait_ready(port: int, process: Process) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        process.check()
        try:
            ask(port, "GET", "/v1/status/leader")
        except (OSError, http.client.HTTPException):
            if time.monotonic() > deadline:
                raise Failed(f"the registry is not ready\n{process.log_tail()}") from None
            time.sleep(_PAUSE_S)
        else:
            return


def publish(port: int, entries: Mapping[str, bytes]) -> None:
    """Sets the keys, in this order."""
    for key, value in entries.items():
        if ask(port, "PUT", f"/v1/kv/{key}", value).strip() != b"true":
            raise Failed(f"the registry did not take {key}")


def register(port: int, *definitions: Mapping[str, object]) -> None:
    """Over one connection, as there may be thousands."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_S)
    try:
        for definition in definitions:
            connection.request("PUT", "/v1/agent/service/register", json.dumps(definition))
            response = connection.getresponse()
            content = response.read()
            if response.status != http.client.OK:
                raise Failed(f"a registration was refused, {response.status}: {content[:200]!r}")
    finally:
        connection.close()


def ask(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    """The body of a 200; raises Failed for any other answer, OSError if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_S)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise Failed(f"{method} {path} was answered with {response.status}: {content[:200]!r}")
    return content
