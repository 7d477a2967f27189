"""Questions asked of a running pair before and after it is measured: does it really do the work?

A benchmark in which one side forgot to check certificates compares nothing.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Sequence

from benchkit.backend import BODY_BYTES, body
from benchkit.contestants import (
    CALLER,
    HTTP_SERVICE,
    STRANGER,
    Site,
    server_name,
    spiffe_id,
)
from benchkit.processes import Failed, Process

_READY_S = 30.0
_ASK_S = 3.0
_PAUSE_S = 0.1


def answers(port: int, path: str) -> str:
    """Empty if the backend's small body comes back whole, else what happened instead."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        got = response.read()
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    if response.status != http.client.OK:
        return f"status {response.status}: {got[:200].decode(errors='replace')}"
    return (
        "" if got == body(BODY_BYTES) else f"a body of {len(got)} bytes that is not the backend's"
    )


def wait_ready(processes: Sequence[Process], ports: Sequence[int], path: str) -> None:
    """Until every port answers; raises Failed at the deadline or when a process ends."""
    deadline = time.monotonic() + _READY_S
    for port in ports:
        while problem := answers(port, path):
            for process in processes:
                process.check()
            if time.monotonic() > deadline:
                tails = "\n".join(
                    f"-- {process.name}:\n{process.log_tail()}" for process in processes
                )
                raise Failed(f"not ready after {_READY_S:.0f} s ({problem})\n{tails}")
            time.sleep(_PAUSE_S)


def identity_faults(site: Site, path: str) -> tuple[str, ...]:
    """What is wrong with the server sidecar's check of its peers; empty if nothing is."""
    faults = []
    accepted, detail = _ask_over_tls(site, CALLER, path)
    if not accepted:
        faults.append(f"the permitted caller was refused: {detail}")
    for who in (STRANGER, None):
        accepted, _ = _ask_over_tls(site, who, path)
        if accepted:
            faults.append(f"{who or 'a caller without a certificate'} was let in")
    return tuple(faults)


def _ask_over_tls(site: Site, who: str | None, path: str) -> tuple[bool, str]:
    """Whether a direct request over mTLS is answered with 200, and what happened otherwise."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(site.identities / "trust.pem")
    if who is not None:
        home = site.identities / who
        context.load_cert_chain(home / "chain.pem", home / "key.pem")
    request = f"GET {path} HTTP/1.1\r\nHost: {HTTP_SERVICE}\r\nConnection: close\r\n\r\n"
    name = server_name(HTTP_SERVICE)
    try:
        with (
            socket.create_connection(("127.0.0.1", site.ports.http_in), _ASK_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            shown = secure.getpeercert() or {}
            if ("URI", spiffe_id(HTTP_SERVICE)) not in shown.get("subjectAltName", ()):
                return False, "the server shows another identity"
            secure.sendall(request.encode())
            answer = secure.recv(4096)
    except OSError as error:
        return False, f"{type(error).__name__}: {error}"
    first = answer.split(b"\r\n", 1)[0].decode(errors="replace")
    return first.startswith("HTTP/1.1 200"), first or "closed without an answer"
