"""The known-hosts file: whose keys are trusted, under which name, and how one is added.

OpenSSH's own format, so that a file the operator already has can be used. A host is looked up
under exactly the name that the inventory dials, ``address`` or ``[address]:port``: a key that is
known for another port or for the address behind a name proves nothing here.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from meshctl.errors import MeshError, Refused, StateCorrupt
from proxy.model.names import HostName

SSH_PORT = 22
_LOCK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A key that a host presented, ready to be shown, compared and recorded."""

    host: HostName
    """As the operator calls it; for a key of its jump host, the host it is the way to."""
    subject: str
    """For people: ``web-1 (10.0.0.7:22)``."""
    name: str
    """In the known-hosts file: ``10.0.0.7`` or ``[10.0.0.7]:2222``."""
    key_type: str
    fingerprint: str
    """``SHA256:...``, as ssh-keygen prints it."""
    line: str
    known: tuple[str, ...]
    """``<type> <fingerprint>`` of the keys trusted under this name so far."""
    is_trusted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """What the file says about one name."""

    keys: tuple[asyncssh.SSHKey, ...] = ()
    authorities: tuple[asyncssh.SSHKey, ...] = ()
    revoked: tuple[asyncssh.SSHKey, ...] = ()

    @property
    def is_known(self) -> bool:
        return bool(self.keys or self.authorities)

    def algorithms(self) -> list[str]:
        """What to negotiate: the types already known first, or a host's other key would look like
        a change; then all others, or a key of another type would look like a broken connection.
        """
        wanted = get_default_certificate_algs() if self.authorities else []
        for key in self.keys:
            wanted = [*wanted, *key.sig_algorithms]
        wanted = [*wanted, *get_default_public_key_algs()]
        return [algorithm.decode() for algorithm in dict.fromkeys(wanted)]

    def described(self) -> tuple[str, ...]:
        return tuple(described(key) for key in self.keys)


def described(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def entry_name(address: str, port: int) -> str:
    return address if port == SSH_PORT else f"[{address}]:{port}"


def entry_line(address: str, port: int, key: asyncssh.SSHKey) -> str:
    kind, data = key.export_public_key("openssh").decode().split()[:2]
    return f"{entry_name(address, port)} {kind} {data}"


def host_key(
    host: HostName, subject: str, address: str, port: int, key: asyncssh.SSHKey, trusted: Trusted
) -> HostKey:
    return HostKey(
        host=host,
        subject=subject,
        name=entry_name(address, port),
        key_type=key.get_algorithm(),
        fingerprint=key.get_fingerprint(),
        line=entry_line(address, port, key),
        known=trusted.described(),
        is_trusted=key in trusted.keys and key not in trusted.revoked,
    )


def lookup(path: Path, address: str, port: int) -> Trusted:
    """Raises StateCorrupt for a file that is not in OpenSSH's format. No file: nothing known."""
    return _match(_read(path), entry_name(address, port), path)


def trust(key: HostKey, path: Path, *, replace: bool = False) -> bool:
    """Records ``key``; False if it already was. Refused when another key is known under the
    name, unless ``replace``, which drops the others.
    """
    with _locked(path):
        text = _read(path)
        trusted = _match(text, key.name, path)
        if _match(key.line, key.name, path).keys[0] in trusted.keys and not (
            replace and len(trusted.keys) > 1
        ):
            return False
        if trusted.keys:
            if not replace:
                raise changed(key)
            text = _without(text, key.name, path)
        if text and not text.endswith("\n"):
            text += "\n"
        _write(path, text + key.line + "\n")
    return True


def unknown(key: HostKey) -> Refused:
    return Refused(
        f"the SSH host key of {key.subject} is not known: {key.key_type} {key.fingerprint}; "
        "nothing was sent",
        hint="compare the fingerprint with the one on the host's console "
        "(`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`), "
        f"then run `meshctl hosts trust {key.host}`",
    )


def changed(key: HostKey) -> Refused:
    return Refused(
        f"the SSH host key of {key.subject} HAS CHANGED: known {', '.join(key.known)}; "
        f"presented {key.key_type} {key.fingerprint}; the host was reinstalled, or somebody "
        "stands between; nothing was sent",
        hint="only if you know why it changed, compare the new fingerprint with the one on the "
        f"host's console and run `meshctl hosts trust --replace {key.host}`",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise StateCorrupt(f"{path} cannot be read as a known-hosts file: {error}") from error


def _match(text: str, name: str, path: Path) -> Trusted:
    try:
        # An empty address and no port: otherwise asyncssh falls back to the name without port.
        found = asyncssh.import_known_hosts(text).match(name, "", None)
    except ValueError as error:
        raise StateCorrupt(
            f"{path} is not a known-hosts file: {error}", hint=f"repair or remove {path}"
        ) from error
    return Trusted(keys=tuple(found[0]), authorities=tuple(found[1]), revoked=tuple(found[2]))


def _without(text: str, name: str, path: Path) -> str:
    """``text`` less the plain keys of ``name``; other names on the same line stay."""
    kept: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith(("#", "@")):
            kept.append(line)
            continue
        if not _match(line, name, path).keys:
            kept.append(line)
            continue
        names, _, rest = line.strip().partition(" ")
        others = [other for other in names.split(",") if other != name]
        if names.startswith("|"):
            continue
        if len(others) == len(names.split(",")):
            raise Refused(
                f"{path} trusts a key for every host that matches {names}; it is not replaced",
                hint=f"edit {path} by hand",
            )
        if others:
            kept.append(f"{','.join(others)} {rest}")
    return "".join(f"{line}\n" for line in kept)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time. Locks the folder: the file itself is replaced by a rename."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Refused(
                        f"another process holds {path.parent} and does not let go",
                        hint="wait for the other meshctl to end",
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(folder)


def _write(path: Path, text: str) -> None:
    # A symbolic link (dotfiles) stays one.
    path = path.resolve()
    try:
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        mode = 0o600
    partial = ""
    try:
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(descriptor, "w") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if partial:
            Path(partial).unlink(missing_ok=True)
        raise MeshError(f"{path} cannot be written: {error.strerror or error}") from error


def as_match(trusted: Trusted) -> Sequence[Sequence[asyncssh.SSHKey]]:
    """In the shape of asyncssh's ``known_hosts``: keys, authorities, revoked."""
    return (trusted.keys, trusted.authorities, trusted.revoked)
