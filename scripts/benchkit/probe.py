"""Questions asked of a running pair before and after it is measured: does it really do the work?

A benchmark in which one side forgot to check certificates compares nothing.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Mapping, Sequence

from benchkit.backend import BODY_BYTES, ECHOED, Backend, body
from benchkit.contestants import (
    CALLER,
    HTTP_SERVICE,
    ROUTING_HEADER,
    STRANGER,
    TCP_SERVICE,
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
        connection.request("GET", path, headers={ROUTING_HEADER: "t1"})
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


def wait_listening(process: Process, port: int) -> None:
    """Until something accepts connections; raises Failed at the deadline or when it ends.

    A client sidecar that starts before its server would begin with an ejected endpoint.
    """
    deadline = time.monotonic() + _READY_S
    while True:
        process.check()
        try:
            socket.create_connection(("127.0.0.1", port), _ASK_S).close()
        except OSError:
            if time.monotonic() > deadline:
                raise Failed(f"{process.name} does not listen\n{process.log_tail()}") from None
            time.sleep(_PAUSE_S)
        else:
            return


def is_served(port: int) -> bool:
    return not answers(port, Backend(port=port).small)


def echoed(port: int, path: str) -> Mapping[str, str]:
    """What of ``backend.ECHOED`` reaches the application, empty values left out."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_S)
    try:
        connection.request("GET", path, headers={ROUTING_HEADER: "t1"})
        lines = connection.getresponse().read().decode(errors="replace").splitlines()
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, _, value in pairs if name in ECHOED and value not in {"", "-"}}


def intruders(site: Site, *, tcp_port: int | None = None) -> tuple[str, ...]:
    """Who is let in by the server sidecar without a right to be; a refused caller counts too.

    ``tcp_port``: where the TCP service is, if not on a port of its own.
    """
    found = []
    doors = ((HTTP_SERVICE, site.ports.http_in), (TCP_SERVICE, tcp_port or site.ports.tcp_in))
    for service, port in doors:
        accepted, detail = _ask_over_tls(site, CALLER, service, port)
        if not accepted:
            found.append(f"{service} refused the permitted caller: {detail}")
        for who in (STRANGER, None):
            accepted, _ = _ask_over_tls(site, who, service, port)
            if accepted:
                found.append(f"{service} let {who or 'a caller without a certificate'} in")
    return tuple(found)


def _ask_over_tls(site: Site, who: str | None, service: str, port: int) -> tuple[bool, str]:
    """Whether a direct request over mTLS is answered with 200, and what happened otherwise."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(site.identities / "trust.pem")
    if who is not None:
        home = site.identities / who
        context.load_cert_chain(home / "chain.pem", home / "key.pem")
    path = Backend(port=site.backend_port).small
    request = f"GET {path} HTTP/1.1\r\nHost: {service}\r\nConnection: close\r\n\r\n"
    try:
        with (
            socket.create_connection(("127.0.0.1", port), _ASK_S) as plain,
            context.wrap_socket(plain, server_hostname=server_name(service)) as secure,
        ):
            shown = secure.getpeercert() or {}
            if ("URI", spiffe_id(service)) not in shown.get("subjectAltName", ()):
                return False, "the server shows another identity"
            secure.sendall(request.encode())
            answer = secure.recv(4096)
    except OSError as error:
        return False, f"{type(error).__name__}: {error}"
    first = answer.split(b"\r\n", 1)[0].decode(errors="replace")
    return first.startswith("HTTP/1.1 200"), first or "closed without an answer"
