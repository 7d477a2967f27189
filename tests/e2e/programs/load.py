"""An application that calls its upstream over and over and logs every request. Runs on a host.

    load.py URL --requests N [--until FILE] [--workers W] [--pause S] [--method POST --body BYTES]
    load.py tcp://HOST:PORT --requests N [--lines LINES] ...

At least N requests, and on until FILE exists; by tcp, a request is a line that comes back in upper
case, in sessions of LINES lines each (0: one session for each worker, for all of the time). Prints
one JSON document: ``total``, ``failed``, and the distinct ``failures`` with their counts. Standard
library only; it is the judge of every zero, so it takes nothing that the mesh says about itself.
"""

import argparse
import asyncio
import collections
import json
import os
import time
from urllib.parse import urlsplit

DEADLINE_S = 20.0
LIFE_S = 1800.0


class Load:
    def __init__(self, options: argparse.Namespace) -> None:
        url = urlsplit(options.url)
        self.host, self.port = url.hostname, url.port
        body = b"x" * options.body
        self.request = (
            f"{options.method} {url.path or '/'} HTTP/1.1\r\nhost: mesh.test\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body
        self.lines: int = options.lines
        self.pause_s: float = options.pause
        self.left: int = options.requests
        self.until: str | None = options.until
        self.ends = time.monotonic() + LIFE_S
        self.answers: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()

    def goes_on(self) -> bool:
        if time.monotonic() > self.ends:
            return False
        return self.left > 0 or (self.until is not None and not os.path.exists(self.until))

    async def tcp_worker(self) -> None:
        while self.goes_on():
            writer = None
            try:
                async with asyncio.timeout(DEADLINE_S):
                    reader, writer = await asyncio.open_connection(self.host, self.port)
                sent = 0
                while self.goes_on() and (self.lines == 0 or sent < self.lines):
                    self.left -= 1
                    sent += 1
                    async with asyncio.timeout(DEADLINE_S):
                        writer.write(b"line %d\n" % sent)
                        line = await reader.readline()
                    if line != b"LINE %d\n" % sent:
                        raise ValueError(f"{line!r} instead of line {sent}")
                    self.answers["line"] += 1
                    await asyncio.sleep(self.pause_s)
                async with asyncio.timeout(DEADLINE_S):
                    writer.write_eof()
                    if (last := await reader.read()) != b"%d lines\n" % sent:
                        raise ValueError(f"{last!r} instead of {sent} lines")
            except (OSError, TimeoutError, ValueError) as error:
                self.failures[repr(error)] += 1
                await asyncio.sleep(0.05)
            finally:
                if writer is not None:
                    writer.close()

    async def worker(self) -> None:
        streams = None
        while self.goes_on():
            await asyncio.sleep(self.pause_s)
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
    worker = load.tcp_worker if options.url.startswith("tcp:") else load.worker
    await asyncio.gather(*(worker() for _ in range(options.workers)))
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
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--method", default="GET")
    parser.add_argument("--body", type=int, default=0)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
