"""An application that calls its upstream over and over and logs every request. Runs on a host.

    load.py URL --requests N [--until FILE] [--workers W] [--method POST --body BYTES]

At least N requests, and on until FILE exists. Prints one JSON document: ``total``, ``failed``, and
the distinct ``failures`` with their counts. Standard library only; it is the judge of every zero,
so it takes nothing that the mesh says about itself.
"""

import argparse
import asyncio
import collections
import json
import os
import time
from urllib.parse import urlsplit

DEADLINE_S = 20.0
LIFE_S = 900.0


class Load:
    def __init__(self, options: argparse.Namespace) -> None:
        url = urlsplit(options.url)
        self.host, self.port = url.hostname, url.port
        body = b"x" * options.body
        self.request = (
            f"{options.method} {url.path or '/'} HTTP/1.1\r\nhost: mesh.test\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body
        self.left: int = options.requests
        self.until: str | None = options.until
        self.ends = time.monotonic() + LIFE_S
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()

    def goes_on(self) -> bool:
        if time.monotonic() > self.ends:
            return False
        return self.left > 0 or (self.until is not None and not os.path.exists(self.until))

    async def worker(self) -> None:
        streams = None
        while self.goes_on():
            self.left -= 1
            try:
                async with asyncio.timeout(DEADLINE_S):
                    if streams is None:
                        streams = await asyncio.open_connection(self.host, self.port)
                    reader, writer = streams
                    writer.write(self.request)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
                    body = await reader.readexactly(length)
                status = head.split(b" ", 2)[1].decode()
                if status == "200":
                    self.answers[body[:80].decode(errors="replace")] += 1
                else:
                    self.failures[f"{status} {body[:200].decode(errors='replace')}"] += 1
                if b"connection: close" in head:
                    writer.close()
                    streams = None
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                self.failures[repr(error)] += 1
                if streams is not None:
                    streams[1].close()
                    streams = None
                await asyncio.sleep(0.05)  # a refused connection must not make a busy loop
        if streams is not None:
            streams[1].close()


async def run(options: argparse.Namespace) -> None:
    load = Load(options)
    await asyncio.gather(*(load.worker() for _ in range(options.workers)))
    failed = sum(load.failures.values())
    print(
        json.dumps(
            {
                "total": failed + sum(load.answers.values()),
                "failed": failed,
                "failures": dict(load.failures.most_common(10)),
                "kinds": len(load.answers),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--until")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--method", default="GET")
    parser.add_argument("--body", type=int, default=0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
