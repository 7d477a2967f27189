"""``python -m proxy.worker --channel FD --number N``: started by the main process, not by people.

The settings come over the channel, so that a worker started late runs what the main process runs
and not what has been deployed since. Signals that a terminal or a service manager sends to all
processes are the main one's to interpret.
"""

import argparse
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from proxy import log
from proxy.net.worker import HUNG_S, Worker


async def serve(channel: socket.socket) -> int:
    return await Worker().run(channel)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proxy.worker")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--number", type=int, required=True)
    chosen = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(HUNG_S)
    log.configure()
    _name_lines(chosen.number)
    return uvloop.run(serve(socket.socket(fileno=chosen.channel)))


def _name_lines(number: int) -> None:
    """Every line of the log says which worker it is of."""
    make = logging.getLogRecordFactory()

    def make_named(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.worker = number
        return record

    logging.setLogRecordFactory(make_named)


if __name__ == "__main__":
    sys.exit(main())
