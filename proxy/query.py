"""``python -m proxy.query --admin HOST:PORT GET /status``: asks the local proxy's admin port.

For meshctl over SSH: hosts need not have curl. Prints the body. Exit code 0 for 2xx, 1 for
another status or an answer that is not HTTP, 2 for wrong usage, 3 when nothing listens.
"""

import argparse
import http.client
import sys
from collections.abc import Sequence

MAX_BODY_BYTES = 64 * 1024 * 1024
DEADLINE_S = 40.0
"""Above what the admin port gives its own handlers."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m proxy.query", description=__doc__)
    parser.add_argument("--admin", required=True, metavar="HOST:PORT", type=_address)
    parser.add_argument("method", choices=["GET", "POST"])
    parser.add_argument("path")
    chosen = parser.parse_args(argv)
    host, port = chosen.admin
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_S)
    try:
        connection.connect()
    except OSError as error:
        print(f"nothing listens on {host}:{port}: {error.strerror or error}", file=sys.stderr)
        return 3
    try:
        connection.request(chosen.method, chosen.path)
        answer = connection.getresponse()
        body = answer.read(MAX_BODY_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        text = str(error) or type(error).__name__
        print(f"no usable answer from {host}:{port}: {text}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    if len(body) > MAX_BODY_BYTES:
        print(f"the answer of {host}:{port} is too large", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return 0 if 200 <= answer.status < 300 else 1


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


if __name__ == "__main__":
    sys.exit(main())
