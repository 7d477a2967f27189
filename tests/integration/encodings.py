"""Spellings of a path that somebody may read as that path, seeded: the same list each time."""

import random
from collections.abc import Callable
from dataclasses import dataclass

LONGEST = 8000
"""Bytes of a target: below what every server takes."""

_SLASH = ("/", "//", "/./", "/x/../", "/%2e/", "/x/%2E%2e/", "/.//")
_ESCAPED_DOTS = ("%2e%2e", "%2E%2E", ".%2e", "%2e.", "..")
_ESCAPED_SLASHES = ("%2f", "%2F", "/%2f", "%2F/", "%2f%2F")
_DOUBLE = {".": "%252e", "/": "%252f", "s": "%2573", "f": "%2566", "e": "%25%36%35"}
_OVERLONG_DOTS = ("%c0%ae", "%C0%AE", "%e0%80%ae", "%f0%80%80%ae", "\xc0\xae", "%uff0e", "%u002e")
_OVERLONG_SLASHES = ("%c0%af", "%C0%2f", "%e0%80%af", "\xc0\xaf", "%u2215", "%ef%bc%8f", "%c1%9c")
_ODD_BYTES = ("%ff", "%fe%ff", "\xff", "\xe9", "%80", "%c3", "%ed%a0%80", "\x80")
_NULS = ("%00", "\0", "%2500", "%00.html", "%00/")
_CONTROLS = ("%0a", "%0d%0a", "%09", "%20", "%7f", "%1b", "+", "%0b", "%0d")
_BACKSLASHES = ("\\", "%5c", "%5C", "\\\\", "/\\", "%255c", "..\\")
_PARAMETERS = (";", ";x", ";x=y", ";x=../..", "%3b", ";/", ";;")
_FRAGMENTS = ("#", "%23", "#/../", "%23/..", "#?", "/#", "%2523")
_QUESTIONS = ("?", "%3f", "%3F/../", "?/../", "%253f", "??")
_HALVES = ("%", "%2", "%zz", "%%32%65", "%2%65", "%x2f")


@dataclass(frozen=True, slots=True)
class Case:
    kind: str
    target: bytes


def _spelled(rng: random.Random, path: str, share: float) -> str:
    """Some characters, but no slashes, as escapes; the digits in either case."""

    def one(char: str) -> str:
        if char == "/" or rng.random() > share:
            return char
        return f"%{ord(char):02x}" if rng.random() < 0.5 else f"%{ord(char):02X}"

    return "".join(map(one, path))


def _joined(rng: random.Random, path: str, between: tuple[str, ...]) -> str:
    """At least one slash replaced."""
    pieces = path.split("/")
    must = rng.randrange(1, len(pieces))
    made = pieces[0]
    for at, piece in enumerate(pieces[1:], start=1):
        made += (rng.choice(between) if at == must or rng.random() < 0.5 else "/") + piece
    return made if made.startswith("/") else "/" + made


def _inserted(rng: random.Random, path: str, texts: tuple[str, ...]) -> str:
    """Once or twice anywhere after the first slash, often at the end of a segment."""
    for _ in range(rng.randint(1, 2)):
        ends = [at for at, char in enumerate(path) if char == "/" and at] + [len(path)]
        at = rng.choice(ends) if rng.random() < 0.7 else rng.randint(1, len(path))
        path = path[:at] + rng.choice(texts) + path[at:]
    return path


def _climbed(rng: random.Random, path: str, up: tuple[str, ...], slashes: tuple[str, ...]) -> str:
    """Down somewhere else first, and up again."""
    depth = rng.randint(1, 3)
    down = "".join(f"/{rng.choice(('public', 'x', 'secret', 'public/sub'))}" for _ in range(depth))
    steps = down.count("/") + rng.randint(0, 2)
    return down + "".join(rng.choice(slashes) + rng.choice(up) for _ in range(steps)) + path


def _doubled(rng: random.Random, path: str) -> str:
    return "".join(_DOUBLE.get(c, c) if rng.random() < 0.4 else c for c in path[1:]).join(("/", ""))


def _long(rng: random.Random, path: str) -> str:
    filler = rng.choice(("/x/..", "/.", "/", "/%2e", "/a/b/../.."))
    return filler * (rng.randint(500, LONGEST - 500) // len(filler)) + path


def _in_other_case(rng: random.Random, path: str) -> str:
    return "".join(c.upper() if c.isascii() and rng.random() < 0.5 else c for c in path)


def _absolute(rng: random.Random, path: str) -> str:
    host = rng.choice(("http://api", "HTTP://API:80", "http://x", "http://api/public/.."))
    return host + rng.choice((path, "/" + path, "/." + path, "/public/.." + path))


KINDS: dict[str, Callable[[random.Random, str], str]] = {
    "as it is": lambda rng, path: path + rng.choice(("", "?x=1", "?/public/", "?;", "?#"[:1])),
    "dots": lambda rng, path: _climbed(rng, path, ("..",), ("/", "//", "/./")),
    "escaped dots": lambda rng, path: _climbed(rng, path, _ESCAPED_DOTS, ("/",)),
    "slashes": lambda rng, path: _joined(rng, path, _SLASH),
    "escaped slashes": lambda rng, path: _joined(rng, path, _ESCAPED_SLASHES),
    "escaped letters": lambda rng, path: _spelled(rng, path, rng.choice((0.1, 0.5, 1.0))),
    "letter case": _in_other_case,
    "parameters": lambda rng, path: _inserted(rng, path, _PARAMETERS),
    "parameters and dots": lambda rng, path: _climbed(rng, path, ("..;", "..;x=y", ".;."), ("/",)),
    "fragments": lambda rng, path: _inserted(rng, path, _FRAGMENTS),
    "question marks": lambda rng, path: _inserted(rng, path, _QUESTIONS),
    "overlong dots": lambda rng, path: _climbed(
        rng, path, tuple(dot + rng.choice((".", dot)) for dot in _OVERLONG_DOTS), ("/",)
    ),
    "overlong slashes": lambda rng, path: _joined(rng, path, _OVERLONG_SLASHES),
    "escaped twice": _doubled,
    "dots escaped twice": lambda rng, path: _climbed(
        rng, path, ("%252e%252e", "%25%32%65.", "..%252f", ".%252e"), ("/", "%252f")
    ),
    "not UTF-8": lambda rng, path: _inserted(rng, path, _ODD_BYTES),
    "NUL": lambda rng, path: _inserted(rng, path, _NULS),
    "control characters": lambda rng, path: _inserted(rng, path, _CONTROLS),
    "backslashes": lambda rng, path: _joined(rng, path, _BACKSLASHES),
    "backslashes and dots": lambda rng, path: _climbed(
        rng, path, ("..", "%2e%2e"), ("\\", "%5c", "/")
    ),
    "half escapes": lambda rng, path: _inserted(rng, path, _HALVES),
    "long": _long,
    "absolute targets": _absolute,
}
_MIXABLE = [name for name in KINDS if name not in ("long", "absolute targets", "as it is")]


def _mixed(rng: random.Random, path: str) -> str:
    for name in rng.sample(_MIXABLE, rng.randint(2, 4)):
        path = KINDS[name](rng, path)
    return path


def make(seed: int, count: int, path: str) -> list[Case]:
    """``count`` different ones, of each kind equally many as far as there are so many; a third is
    mixed of several kinds, and so is what a kind does not have."""
    rng = random.Random(seed)
    found: dict[bytes, Case] = {}
    names = list(KINDS)
    turn = 0
    while len(found) < count:
        name = "mixed" if turn % 3 == 2 or turn > 3 * count else names[turn % len(names)]
        turn += 1
        text = _mixed(rng, path) if name == "mixed" else KINDS[name](rng, path)
        target = text.encode("latin-1")
        if len(target) <= LONGEST and not set(target) & set(b" \r\n"):
            found.setdefault(target, Case(name, target))
    return list(found.values())
