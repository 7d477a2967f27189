"""``python -m proxy --settings FILE [--check]``: settings -> Server -> exit code.

0: stopped as told, or the check found nothing. 1: cannot start (a port is taken), a task died, or
the check found an identity that cannot be used. 2: the settings are wrong; nothing was started.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from proxy import log
from proxy.core.validation import validate
from proxy.model.codec import Malformed, decode
from proxy.model.settings import Settings
from proxy.net.dataplane import ListenError
from proxy.net.server import Server, StartError

MAX_SETTINGS_BYTES = 16 * 1024 * 1024
MAX_TOKEN_BYTES = 4096


class SettingsError(Exception):
    """One line per fault, each with the file and the JSON path."""


def load(path: Path) -> tuple[Settings, str | None]:
    """The settings and the Consul token they point to. Raises SettingsError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES + 1)
        if len(data) > MAX_SETTINGS_BYTES:
            raise SettingsError(f"{path} is larger than {MAX_SETTINGS_BYTES} bytes")
        settings = decode(data, Settings)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except Malformed as error:
        raise SettingsError(f"{path} is not valid: {error}") from error
    violations = validate(settings)
    if violations:
        raise SettingsError("\n".join(f"{path} is not valid: {found}" for found in violations))
    return settings, _token(path, settings.consul.token_file)


def _token(path: Path, token_file: str | None) -> str | None:
    if token_file is None:
        return None
    try:
        with open(token_file, "rb") as file:
            token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except OSError as error:
        raise SettingsError(
            f"{path}: $.consul.token_file: {token_file} cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable():
        raise SettingsError(f"{path}: $.consul.token_file: {token_file} has no token in it")
    return token


def check_identities(settings: Settings, now: datetime) -> list[str]:
    """A sentence for each workload whose identity on disk could not be used now."""
    # Not at the top: a running proxy must not carry cryptography (docs/decisions/0002).
    from proxy import keys  # noqa: PLC0415

    faults = []
    for workload in settings.workloads:
        try:
            identity = keys.inspect(
                Path(settings.state_dir), workload.service, settings.trust_domain
            )
        except keys.Refused as error:
            faults.append(str(error))
            continue
        if now >= datetime.fromisoformat(identity.not_after):
            faults.append(f"{workload.service}'s certificate expired at {identity.not_after}")
    return faults


async def serve(settings: Settings, token: str | None) -> int:
    server = Server(settings, token=token)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    return await server.run()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proxy")
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument(
        "--check", action="store_true", help="validate settings and identities, start nothing"
    )
    chosen = parser.parse_args(argv)
    try:
        settings, token = load(chosen.settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if chosen.check:
        faults = check_identities(settings, datetime.now(UTC))
        print("\n".join(faults), end="\n" if faults else "", file=sys.stderr)
        return 1 if faults else 0
    log.configure()
    try:
        return uvloop.run(serve(settings, token))
    except (ListenError, StartError) as error:
        logging.getLogger("proxy").critical("cannot start: %s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
