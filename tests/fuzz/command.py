"""``scripts/fuzz``."""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from fuzz.envoy import Unavailable
from fuzz.grammar import make
from fuzz.ours import LISTENERS
from fuzz.run import SEED, run

_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--listener", choices=sorted(LISTENERS), default="outbound")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--only", type=int, help="one case, by its number; its bytes are shown")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # a line for each refusal is right, and not wanted here
    numbers = range(arguments.cases) if arguments.only is None else [arguments.only]
    cases = [make(arguments.seed, number) for number in numbers]
    if arguments.only is not None:
        print(cases[0].kind, cases[0].wire)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="meshctl-fuzz-") as directory:
        work = run(
            cases,
            Path(directory),
            listener=arguments.listener,
            workers=min(arguments.workers, len(cases)),
            progress=lambda done: print(f"\r{done} of {len(cases)}", end="", file=sys.stderr),
        )
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(work)
        except Unavailable as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(file=sys.stderr)
    print(result.table())
    print(
        f"{len(cases)} cases, seed {arguments.seed}, through the {arguments.listener} listener, "
        f"{time.monotonic() - begun:.0f} s; {result.repeated} were done again more slowly"
    )
    for each in result.disagreements[:_SHOWN]:
        print(f"\ncase {each.case.number} ({each.case.kind}): {each.text}")
        print(f"  bytes {each.case.wire[:600]!r}")
        print(f"  ours  {each.ours}")
        print(f"  envoy {each.envoy}")
    return 1 if result.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
