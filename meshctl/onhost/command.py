"""Commands and HTTP requests made on a host, each with a deadline."""

import http.client
import subprocess
from collections.abc import Mapping, Sequence

from meshctl.onhost.fault import Fault

_HTTP_LIMIT = 4 * 1024 * 1024


def run(argv: Sequence[str], timeout_s: float = 60.0) -> str:
    """Standard output; raises Fault with both outputs when it fails."""
    status, output = attempt(argv, timeout_s)
    if status != 0:
        raise Fault(f"`{' '.join(argv)}` failed with status {status}", output=output)
    return output


def attempt(argv: Sequence[str], timeout_s: float = 60.0) -> tuple[int, str]:
    """Exit status and everything that was printed; 127: there is no such program."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        return 127, f"{argv[0]}: not found"
    except subprocess.TimeoutExpired as error:
        raise Fault(
            f"`{' '.join(argv)}` did not end within {timeout_s:g} s",
            output=(error.stdout or b"").decode("utf-8", "replace"),
        ) from None
    return done.returncode, done.stdout.decode("utf-8", "replace")


def ask(
    authority: str,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 5.0,
) -> tuple[int, bytes]:
    """Status and body; status 0: nobody answered."""
    connection = http.client.HTTPConnection(authority, timeout=timeout_s)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read(_HTTP_LIMIT)
    except (OSError, http.client.HTTPException, ValueError):
        return 0, b""
    finally:
        connection.close()
