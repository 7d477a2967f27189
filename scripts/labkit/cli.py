"""``scripts/lab``: commands to functions, results to stdout, failures to one line and a code."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from labkit import cgroups, image, lab, machine, network
from labkit.command import LabError, Unavailable, environment, say
from labkit.place import DEFAULT_NAME, Lab, cache_home
from labkit.record import Record, locked

_UP = "prints name, address, login and key of each host"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 failed, 2 wrong usage, 3 this machine cannot run a lab."""
    given = _parser().parse_args(arguments)
    try:
        place = Lab(name=given.name, cache=cache_home() / "lab")
        command: Callable[[Lab, argparse.Namespace], int] = given.command
        return command(place, given)
    except LabError as error:
        say(str(error))
        return error.exit_code
    except OSError as error:
        say(f"{error.strerror}: {error.filename}" if error.filename else str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; `scripts/lab up` goes on, `scripts/lab down` takes all of it away")
        return 130


def _check(place: Lab, given: argparse.Namespace) -> int:
    lab.require()
    print("ready" if not image.missing_tools() else "ready after `scripts/lab install`")
    return 0


def _install(place: Lab, given: argparse.Namespace) -> int:
    lab.require()
    image.install_tools()
    return 0


def _build(place: Lab, given: argparse.Namespace) -> int:
    lab.require()
    image.install_tools()
    print(image.ensure(place.cache))
    return 0


def _up(place: Lab, given: argparse.Namespace) -> int:
    lab.require()
    with _alone(place):
        lab.up(place, given.count, frozenset(given.python_missing))
    _print_description(place, as_json=given.json)
    return 0


def _print_description(place: Lab, *, as_json: bool) -> None:
    text = place.description.read_text(encoding="utf-8")
    if as_json:
        print(text, end="")
        return
    described = json.loads(text)
    print(f"{'NAME':<10}{'ADDRESS':<16}{'LOGIN':<8}KEY")
    for host in described["hosts"]:
        print(f"{host['name']:<10}{host['address']:<16}{host['user']:<8}{host['key']}")
    print(f"details: {place.description}")


def _status(place: Lab, given: argparse.Namespace) -> int:
    """Exits 1 when the lab is not up, so that a script can ask."""
    _root_only()
    if not Record.load(place.record).hosts or not place.description.exists():
        say(f"lab {place.name!r} is down")
        if given.json:
            print("[]")
        return 1
    hosts = lab.status(place)
    if given.json:
        print(json.dumps(hosts, indent=1))
        return 0
    print(f"{'NAME':<10}{'ADDRESS':<16}{'POWER':<7}{'NETWORK':<11}SYSTEM")
    for host in hosts:
        print(
            f"{host['name']:<10}{host['address']:<16}{host['power']:<7}{host['network']:<11}"
            f"{host['system']}{'' if host['python'] else ' (no python3)'}"
        )
    return 0


def _ssh(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    host, _ = lab.running(place, given.host)
    interactive = sys.stdin.isatty() and not given.words
    words = machine.ssh(host, given.user)
    if interactive:
        words.insert(words.index("ssh") + 1, "-t")
    os.execvpe(words[0], [*words, *given.words], environment())


def _exec(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    if not place.description.exists():
        raise LabError(f"lab {place.name!r} is down; run `scripts/lab up 3`")
    cgroups.join_operator(place)
    words = [*network.inside(place.operator), *(given.words or [os.environ.get("SHELL", "sh")])]
    os.execvpe(words[0], words, environment())


def _reboot(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    with _alone(place):
        say(f"{given.host} {lab.reboot(place, given.host)}")
    return 0


def _stop(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    with _alone(place):
        host, known = lab.find(place, given.host)
        if known.watcher is not None:
            machine.stop(host, known.watcher, hard=given.hard)
    return 0


def _start(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    with _alone(place):
        say(f"{given.host} {lab.start(place, given.host)}")
    return 0


def _cut(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    network.cut(lab.find(place, given.host)[0], is_cut=True)
    return 0


def _heal(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    network.cut(lab.find(place, given.host)[0], is_cut=False)
    return 0


def _clock(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    lab.set_clock(place, given.host, given.offset)
    return 0


def _down(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    with _alone(place):
        lab.down(place)
    return 0


def _clean(place: Lab, given: argparse.Namespace) -> int:
    _root_only()
    for found in lab.present(place.cache):
        with _alone(found):
            lab.down(found)
    lab.remove_images(place.cache)
    return 0


def _root_only() -> None:
    if os.geteuid() != 0:
        raise Unavailable("needs root: namespaces, mounts and systemd-nspawn")


def _alone(place: Lab) -> AbstractContextManager[int]:
    return locked(place.lock, what=f"another command is at work on lab {place.name!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/lab", description="Real hosts with systemd and sshd on this machine."
    )
    parser.add_argument(
        "--name",
        default=os.environ.get("MESHCTL_LAB") or DEFAULT_NAME,
        help="which lab (default: $MESHCTL_LAB or %(default)s)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    add("check", _check, "say whether this machine can run a lab, and why not")
    add("install", _install, "install the Debian packages a lab needs")
    add("build", _build, "build the base image if it is not there, print its path")
    sub = add("up", _up, f"bring up N hosts; {_UP}")
    sub.add_argument("count", type=int, metavar="N")
    sub.add_argument("--json", action="store_true", help="print lab.json instead of a table")
    sub.add_argument(
        "--python-missing", action="append", default=[], metavar="HOST", help="no python3 there"
    )
    sub = add("status", _status, "show each host; exits 1 when the lab is down")
    sub.add_argument("--json", action="store_true")
    sub = add("ssh", _ssh, "log in to a host, or run a command there")
    sub.add_argument("-l", dest="user", default="root", help="root, admin or nosudo")
    sub.add_argument("host", metavar="HOST")
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    sub = add("exec", _exec, "run a command (or a shell) where the operator is")
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    for name, command, text in (
        ("reboot", _reboot, "reboot a host and wait until it answers"),
        ("start", _start, "power on a stopped host and wait until it answers"),
        ("cut", _cut, "drop every packet to and from a host"),
        ("heal", _heal, "end a cut"),
    ):
        add(name, command, text).add_argument("host", metavar="HOST")
    sub = add("stop", _stop, "power off a host; its disk stays")
    sub.add_argument("--hard", action="store_true", help="pull the plug")
    sub.add_argument("host", metavar="HOST")
    sub = add("clock", _clock, "offset a host's clock for what is started from now on; 0 ends it")
    sub.add_argument("host", metavar="HOST")
    sub.add_argument("offset", type=int, metavar="SECONDS")
    add("down", _down, "end the lab: processes, mounts, namespaces, disks")
    add("clean", _clean, "every lab down and the base image gone")
    return parser
