"""``python -m meshctl.registry``: the embedded registry as a process of its own.

Prints its address on standard output once it answers. SIGTERM and SIGINT end it with exit code 0.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from meshctl.errors import Exit, MeshError
from meshctl.registry.server import Registry
from meshctl.registry.state import CHECK_UPDATE_INTERVAL_S, Node


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m meshctl.registry", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=8500, help="0: any free one")
    parser.add_argument("--datacenter", default=Node().datacenter, help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="file that keeps keys and services")
    parser.add_argument("--pid-file", type=Path, help="written once it answers, removed at the end")
    parser.add_argument(
        "--check-update-interval",
        type=float,
        default=CHECK_UPDATE_INTERVAL_S,
        metavar="SECONDS",
        help="how long a check's output alone is held back, as in Consul (default: %(default)g)",
    )
    options = parser.parse_args()
    try:
        registry = Registry(
            host=options.host,
            port=options.port,
            data=options.data,
            node=Node(datacenter=options.datacenter),
            check_update_interval_s=options.check_update_interval,
        )
        asyncio.run(_serve(registry, options.pid_file))
    except MeshError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return int(error.exit_code)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(Exit.FAILED)
    return int(Exit.OK)


async def _serve(registry: Registry, pid_file: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with registry:
        if pid_file is not None:
            pid_file.write_text(f"{os.getpid()}\n")  # noqa: ASYNC240 - once, a few bytes
        try:
            print(f"listening on {registry.url}", flush=True)
            await stop.wait()
        finally:
            if pid_file is not None:
                with contextlib.suppress(FileNotFoundError):
                    pid_file.unlink()  # noqa: ASYNC240 - once, at the end


if __name__ == "__main__":
    sys.exit(main())
