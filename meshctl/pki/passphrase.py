"""Where the CA's passphrase comes from: a file, the environment or the terminal; never argv.

It is asked for only when something is about to be signed, and only when the keys are encrypted.
"""

import getpass
import os
import stat
import sys
import warnings
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TypeAlias

from meshctl.errors import MeshError, Refused

VARIABLE = "MESHCTL_PASSPHRASE"
MAX_BYTES = 1000
"""OpenSSL takes 1023."""
_TRIES = 3


class Passphrase:
    """A secret that does not show in a repr, a log or an exception."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        """Raises Refused for an empty or an absurdly long one."""
        if not value:
            raise Refused("the passphrase is empty")
        if len(value) > MAX_BYTES:
            raise Refused(f"the passphrase is longer than {MAX_BYTES} bytes")
        self._value = value

    def reveal(self) -> bytes:
        """For the one call that derives the key."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Passphrase) and other._value == self._value

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __repr__(self) -> str:
        return "Passphrase(***)"

    def __reduce__(self) -> str:
        raise TypeError("a passphrase is not pickled")


Source: TypeAlias = Callable[[], Passphrase]
"""Called at most once, when the passphrase is needed."""


def once(obtain: Source) -> Source:
    """``obtain``, remembered: several keys are under the one passphrase, asked for once."""
    held: list[Passphrase] = []

    def remembered() -> Passphrase:
        if not held:
            held.append(obtain())
        return held[0]

    return remembered


def source(file: Path | None = None) -> Source:
    """The usual order for opening a CA: ``--passphrase-file``, the environment, the terminal."""

    def obtain() -> Passphrase:
        given = from_options(file)
        if given is not None:
            return given
        if not can_prompt():
            raise Refused(
                "the CA's keys are encrypted and there is no terminal to ask for the passphrase",
                hint=f"use --passphrase-file FILE or set {VARIABLE}",
            )
        return prompt()

    return obtain


def from_options(
    file: Path | None, environ: MutableMapping[str, str] | None = None
) -> Passphrase | None:
    """What was given without being asked: the file before the environment; None if neither."""
    if file is not None:
        return from_file(file)
    return from_environment(os.environ if environ is None else environ)


def from_file(path: Path) -> Passphrase:
    """The first line of ``path``. Raises Refused when other users may read or write it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_BYTES + 3)
    except OSError as error:
        raise MeshError(f"the passphrase file {path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise Refused(
            f"the passphrase file {path} is open to other users (mode {mode & 0o7777:04o})",
            hint=f"chmod 600 {path}",
        )
    lines = data.splitlines()
    if not lines or not lines[0]:
        raise Refused(f"the first line of the passphrase file {path} is empty")
    return Passphrase(lines[0])


def from_environment(environ: MutableMapping[str, str]) -> Passphrase | None:
    """Takes the variable out, so that ssh, pip and other children do not inherit it."""
    value = environ.pop(VARIABLE, None)
    return None if value is None else Passphrase(os.fsencode(value))


def can_prompt() -> bool:
    """Whether somebody is there to ask."""
    return sys.stdin is not None and sys.stdin.isatty()


def prompt() -> Passphrase:
    """Ask once, without echo."""
    return Passphrase(_ask("Passphrase of the CA: "))


def prompt_new() -> Passphrase | None:
    """Ask twice, without echo; None when the operator wants none. Raises Refused after three
    pairs that differ."""
    for _ in range(_TRIES):
        first = _ask("New passphrase for the CA's keys (empty: keys are kept unencrypted): ")
        if not first:
            return None
        if _ask("The same again: ") == first:
            return Passphrase(first)
        print("The two differ.", file=sys.stderr)
    raise Refused("the passphrase was not repeated correctly; nothing was made")


def _ask(question: str) -> bytes:
    with warnings.catch_warnings():
        # getpass falls back to a visible prompt with only a warning.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(question, stream=sys.stderr).encode("utf-8", "surrogateescape")
        except getpass.GetPassWarning:
            raise Refused(
                "this terminal cannot hide what is typed",
                hint=f"use --passphrase-file FILE or set {VARIABLE}",
            ) from None
        except EOFError:
            raise Refused("no passphrase was typed") from None
