"""Where the public keys of token issuers come from: a file on the host, or a URL.

Both are bounded, and neither is trusted to be well: who asks keeps the last good set.
"""

import asyncio
import os
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from proxy.net.exchange import ExchangeError, NotHttp, connect

MAX_BYTES: Final = 256 * 1024
"""Of one set; large issuers have some 10 KiB."""
FETCH_S: Final = 5.0
"""For one question as a whole."""

Mark = tuple[int, int, int]
"""Differs when a file was written or replaced."""


class NoKeys(Exception):
    """The source gave nothing to go by; the text says why."""


def mark_of(path: str) -> Mark:
    """Raises NoKeys."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise NoKeys(_reason(error)) from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: str) -> bytes:
    """Raises NoKeys."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NoKeys(_reason(error)) from error
    if len(data) > MAX_BYTES:
        raise NoKeys(f"the file has more than {MAX_BYTES} bytes")
    return data


async def fetch(url: str) -> bytes:
    """``url`` is a sound ``TokenProvider.jwks_url``. Redirects are not followed: keys come from
    where the policy says. Raises NoKeys."""
    try:
        async with asyncio.timeout(FETCH_S):
            return await _fetch(url)
    except TimeoutError as error:
        raise NoKeys(f"no answer within {FETCH_S:g} s") from error
    except (ExchangeError, OSError) as error:
        raise NoKeys(str(error)) from error


async def _fetch(url: str) -> bytes:
    parts = urlsplit(url)
    host = parts.hostname or ""
    tls: ssl.SSLContext | None = None
    if parts.scheme == "https":
        # Some 20 ms of reading the system's CAs; each time, as they change.
        tls = await asyncio.to_thread(ssl.create_default_context)
    port = parts.port or (443 if tls else 80)
    connection = await connect(host, port, max_body_bytes=MAX_BYTES, tls=tls)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        asked = (
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: application/json\r\n"
            "User-Agent: meshctl\r\nConnection: close\r\n\r\n"
        )
        response = await connection.ask(asked.encode())
    finally:
        connection.close()
    if response.status != 200:
        raise NotHttp(f"the answer is a {response.status}, not a 200")
    return response.body


def _reason(error: OSError) -> str:
    return f"the file cannot be read: {os.strerror(error.errno) if error.errno else error}"
