"""``python -m proxy.keys`` as a short-lived process: it carries ``cryptography``, the proxy does
not. Its time and what it may say are bounded; the key never passes through here.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress

from proxy.model.names import ServiceName
from proxy.model.settings import Settings

COMMAND_S = 30.0
"""Half a second on an idle machine; a busy one may take its time."""
MAX_OUTPUT_BYTES = 64 * 1024
DRAIN_S = 5.0
"""After its end, for what a process that it started may still hold open."""


class KeyCommandError(Exception):
    """One sentence: what the command said, or how it ended."""


async def request(settings: Settings, service: ServiceName) -> bytes:
    """A new pending key; the request for its certificate, PEM. Raises KeyCommandError."""
    return await _run("request", settings, service, b"")


async def install(settings: Settings, service: ServiceName, chain: bytes) -> None:
    """The chain in force on the disk. Raises KeyCommandError; then nothing has changed."""
    await _run("install", settings, service, chain, "--trust-bundle", settings.trust_bundle)


async def _run(
    verb: str, settings: Settings, service: ServiceName, stdin: bytes, *more: str
) -> bytes:
    command = (sys.executable, "-I", "-m", "proxy.keys", verb)
    names = ("--service", service, "--trust-domain", settings.trust_domain)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            *("--state-dir", settings.state_dir, *names, *more),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_OUTPUT_BYTES,
            # No secret of ours is in its environment, and no signal of ours' terminal reaches it.
            env={"LANG": "C.UTF-8", "PATH": os.defpath},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise KeyCommandError(f"proxy.keys cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(COMMAND_S):
            return await _talk(process, verb, stdin)
    except TimeoutError as error:
        raise KeyCommandError(f"proxy.keys {verb} did not end within {COMMAND_S:g} s") from error
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Harmless if it has ended by itself; with all that it started."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(TimeoutError):  # read to their ends, else the pipes stay open
        async with asyncio.timeout(DRAIN_S):
            await asyncio.gather(process.stdout.read(), process.stderr.read())


async def _talk(process: asyncio.subprocess.Process, verb: str, stdin: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    # One that has ended already says why by its exit code; RuntimeError is uvloop's word for a pipe
    # that it has found closed.
    with suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()
    is_too_much = False
    try:
        async with asyncio.TaskGroup() as group:
            said = group.create_task(_read(process.stdout))
            complained = group.create_task(_read(process.stderr))
    except* _TooMuch:
        is_too_much = True
    if is_too_much:
        raise KeyCommandError("proxy.keys said more than it can have to say")
    if await process.wait() != 0:
        text = complained.result().decode("utf-8", "replace").strip()
        raise KeyCommandError(
            (text.splitlines() or [f"proxy.keys {verb} ended with {process.returncode}"])[-1]
        )
    return said.result()


class _TooMuch(Exception):
    pass


async def _read(stream: asyncio.StreamReader) -> bytes:
    data = bytearray()
    while part := await stream.read(MAX_OUTPUT_BYTES):
        data += part
        if len(data) > MAX_OUTPUT_BYTES:
            raise _TooMuch
    return bytes(data)
