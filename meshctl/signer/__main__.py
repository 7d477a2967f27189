"""``python -m meshctl.signer --settings FILE [--check]``: settings -> Service -> exit code.

0: stopped as told, or the check found nothing. 1: cannot start (a port is taken, no certificate is
in force). 2: the settings are wrong; nothing was started.
"""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from meshctl.signer import state
from meshctl.signer.service import Service, StartError
from meshctl.signer.settings import SignerSettings
from proxy import log
from proxy.keyfiles import Refused
from proxy.model import codec
from proxy.model.names import InvalidName, parse_host, parse_trust_domain

MAX_SETTINGS_BYTES = 1024 * 1024
MIN_LEAF_LIFE_S = 60.0


class SettingsError(Exception):
    """One sentence that names the file."""


def load(path: Path) -> SignerSettings:
    """Raises SettingsError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SETTINGS_BYTES)
        settings = codec.decode(data, SignerSettings)
        parse_host(settings.host)
        parse_trust_domain(settings.trust_domain)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except (codec.Malformed, InvalidName) as error:
        raise SettingsError(f"{path} is not valid: {error}") from error
    for address in (settings.listen, settings.admin):
        if not 0 <= address.port <= 65535:
            raise SettingsError(f"{path} is not valid: {address.port} is not a port")
    if settings.leaf_life_s < MIN_LEAF_LIFE_S or settings.csr_per_s <= 0:
        raise SettingsError(
            f"{path} is not valid: leaf_life_s is at least {MIN_LEAF_LIFE_S:g},"
            " csr_per_s more than 0"
        )
    return settings


async def serve(settings: SignerSettings) -> int:
    service = Service(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    return await service.run()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m meshctl.signer")
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="look at the files, start nothing")
    chosen = parser.parse_args(argv)
    try:
        settings = load(chosen.settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if chosen.check:
        try:
            state.load(settings, datetime.now(UTC))
        except Refused as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    # Each certificate leaves a line; the rate of asking is limited.
    log.configure(are_repeats_held_back=False)
    try:
        return asyncio.run(serve(settings))
    except StartError as error:
        logging.getLogger("meshctl.signer").critical("cannot start: %s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
