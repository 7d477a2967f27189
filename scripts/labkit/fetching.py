"""The command line of what fetches a program once and prints where it is."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from labkit.command import LabError
from labkit.place import cache_home

Fetch = Callable[[Path, Mapping[str, str]], Path]
"""Gets the folder to keep it in and the environment."""


def command(
    name: str, description: str, epilog: str, fetch: Fetch, arguments: Sequence[str] | None
) -> int:
    """Prints the path; 1 when it failed, 3 when this machine has no way to get one."""
    parser = argparse.ArgumentParser(prog=f"scripts/{name}", description=description, epilog=epilog)
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        default=cache_home() / "tools",
        help="where to keep it (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    try:
        print(fetch(given.directory.absolute(), os.environ))
    except LabError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
