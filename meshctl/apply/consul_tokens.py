"""The tokens of a managed Consul, as the operator's side keeps them: ``consul/`` in the state.

Each is a file of its own, 0600 in a folder 0700, made at the first use and then kept. They are not
encrypted with the CA's passphrase: with them one can deny service but neither read nor forge
anything in the mesh, and a deploy that signs nothing must work without a passphrase.
"""

import contextlib
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from meshctl import durable
from meshctl.acl import Acl, HostTokens, Token
from meshctl.errors import Refused, StateCorrupt
from meshctl.state import StateDir
from proxy.model.names import HostName

FOLDER = "consul"
OPERATOR_FILE = "operator.token"
OBSERVER_FILE = "observer.token"
_MANAGEMENT_FILE = "management.token"
_APPLIED_FILE = "applied"
_ENFORCED_FILE = "enforced"
_AGENTS, _PROXIES = "agents", "proxies"


def operator_token_file(state: StateDir) -> Path:
    """May not exist: before the first deploy that sets up access control."""
    return state.path / FOLDER / OPERATOR_FILE


@dataclass(frozen=True, slots=True)
class ConsulTokens:
    """``folder`` is made when something is first kept in it."""

    folder: Path

    @classmethod
    def of(cls, state: StateDir) -> "ConsulTokens":
        return cls(state.path / FOLDER)

    def read(self, hosts: Collection[HostName]) -> Acl:
        """With a token for each of ``hosts``, made where there is none yet. Raises StateCorrupt."""
        return Acl(
            hosts={
                host: HostTokens(
                    agent=self._token(f"{_AGENTS}/{host}.token"),
                    proxy=self._token(f"{_PROXIES}/{host}.token"),
                )
                for host in hosts
            },
            operator=self._token(OPERATOR_FILE),
            observer=self._token(OBSERVER_FILE),
            applied=self._text(_APPLIED_FILE),
            is_enforced=(self.folder / _ENFORCED_FILE).exists(),
        )

    @property
    def management(self) -> Token | None:
        """With all rights; None: it was never made, or is lost. It never goes to a host's disk."""
        text = self._text(_MANAGEMENT_FILE)
        return self._checked(_MANAGEMENT_FILE, text) if text else None

    def keep_management(self, token: Token) -> None:
        self._write(_MANAGEMENT_FILE, token.secret)

    def note_applied(self, digest: str) -> None:
        self._write(_APPLIED_FILE, digest)

    def note_enforced(self) -> None:
        """From now on every agent is configured to refuse whoever has no token."""
        self._write(_ENFORCED_FILE, "yes")

    def forget_others(self, hosts: Collection[HostName]) -> None:
        """Those of hosts that are gone, so that one that comes back gets new ones."""
        for kind in (_AGENTS, _PROXIES):
            for path in (self.folder / kind).glob("*.token"):
                if path.stem not in hosts:
                    with durable.translated(path, "removed"):
                        path.unlink(missing_ok=True)

    def forget_all(self) -> None:
        """The cluster is gone, and its data with it."""
        self.forget_others(())
        for name in (
            *(OPERATOR_FILE, OBSERVER_FILE, _MANAGEMENT_FILE, _APPLIED_FILE, _ENFORCED_FILE),
        ):
            path = self.folder / name
            with durable.translated(path, "removed"):
                path.unlink(missing_ok=True)

    def _token(self, name: str) -> Token:
        text = self._text(name)
        if not text:
            # Another meshctl may make it at the same time, as a dry run takes no lock: the first
            # one counts.
            with contextlib.suppress(Refused):
                self._make(name, str(uuid.uuid4()))
            text = self._text(name)
        return self._checked(name, text)

    def _checked(self, name: str, text: str) -> Token:
        with contextlib.suppress(ValueError):
            if str(uuid.UUID(text)) == text:
                return Token(text)
        raise StateCorrupt(
            f"{self.folder / name} is not a token of Consul",
            hint="restore it from a backup, or remove it and run meshctl deploy, which makes a"
            " new one",
        )

    def _text(self, name: str) -> str:
        try:
            data = durable.read(self.folder / name, limit=200)
        except FileNotFoundError:
            return ""
        return data.decode("ascii", "replace").strip()

    def _make(self, name: str, text: str) -> None:
        durable.create(self._place(name), text.encode() + b"\n")

    def _write(self, name: str, text: str) -> None:
        durable.write(self._place(name), text.encode() + b"\n")

    def _place(self, name: str) -> Path:
        path = self.folder / name
        with durable.translated(path.parent, "made"):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
        return path
