"""``scripts/fuzz h2``: conversations for the HTTP/2 engine, each with its own number."""

import argparse
import sys
import time
from collections import Counter
from random import Random

from fuzz.conversations import check, make

from proxy.http.h2.frames import code_name

_STEP = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz h2", description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="one case, by its number; it is shown")
    arguments = parser.parse_args()
    if arguments.only is not None:
        conversation = make(Random(f"{arguments.seed}/{arguments.only}"))
        print(conversation)
        print("ends with", check(conversation))
        return 0
    begun = time.monotonic()
    ends: Counter[int] = Counter()
    for number in range(arguments.cases):
        try:
            ends[check(make(Random(f"{arguments.seed}/{number}")))] += 1
        except Exception as error:  # of any kind: that is what is looked for
            print(f"\ncase {number}, seed {arguments.seed}: {type(error).__name__}: {error}")
            return 1
        if number % _STEP == 0:
            print(f"\r{number} of {arguments.cases}", end="", file=sys.stderr)
    print(file=sys.stderr)
    for code, count in ends.most_common():
        print(f"{count:>9}  {code_name(code) if code >= 0 else 'goes on'}")
    print(f"{arguments.cases} cases, seed {arguments.seed}, {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
