"""The key that policy is signed with: ``policy.key`` and ``policy.pub`` in the CA's folder.

Ed25519, and no certificate: hosts are given the public key itself, over SSH. Encrypted like the
CA's keys. A mesh that was made without one gets one by the next ``deploy`` or ``apply``.
"""

import base64
import binascii
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshctl import durable
from meshctl.errors import Refused, StateCorrupt
from meshctl.pki import keyfile
from meshctl.pki.passphrase import Passphrase, Source
from proxy.model.policy_keys import KEY_BYTES, PolicyTrust, encode_key
from proxy.model.signed import Kind, key_id, seal, statement

KEY, PUBLIC = "policy.key", "policy.pub"
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """Unlocked, ready to sign. Nothing of the private part shows in a repr."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> "PolicyKey":
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> bytes:
        """32 bytes."""
        return self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def trust(self) -> PolicyTrust:
        """In this key alone."""
        return trust_in(self.public)

    def seal(self, kind: Kind, content: bytes) -> bytes:
        """``content`` in its envelope."""
        signature = self._private.sign(statement(kind, content))
        return seal(kind, key_id(self.public), signature, content)

    def to_pem(self, passphrase: Passphrase | None) -> bytes:
        return keyfile.to_pem(self._private, passphrase)


def trust_in(*public_keys: bytes) -> PolicyTrust:
    return PolicyTrust(keys={key_id(key): key for key in public_keys})


def new_files(passphrase: Passphrase | None) -> tuple[tuple[str, bytes], ...]:
    """Name and content of the files of a new key. The public one last: with it the key is there."""
    key = PolicyKey.generate()
    return (KEY, key.to_pem(passphrase)), (PUBLIC, _public_text(key.public))


def read_public(folder: Path) -> bytes | None:
    """The public key, 32 bytes; None: the mesh has none yet. Needs no passphrase.

    Raises StateCorrupt.
    """
    path = folder / PUBLIC
    try:
        text = durable.read(path, limit=_MAX_BYTES)
    except FileNotFoundError:
        return None
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise StateCorrupt(f"{path} is damaged: it is not an Ed25519 key", hint=_restore(path))
    return key


def trust(folder: Path) -> PolicyTrust:
    """By which what was published is verified; without a key yet, nothing can be."""
    public = read_public(folder)
    return trust_in() if public is None else trust_in(public)


def unlock(folder: Path, passphrase: Source) -> PolicyKey:
    """``passphrase`` is called only if the key is encrypted.

    Raises Refused for a wrong one, and for a key that others can read; StateCorrupt for a key that
    is missing, damaged, or not that of ``policy.pub``.
    """
    path = folder / KEY
    pem = _read_private(path)
    given = passphrase() if keyfile.is_encrypted(pem) else None
    key = PolicyKey(keyfile.ed25519_from_pem(pem, given, str(path)))
    if key.public != read_public(folder):
        raise StateCorrupt(
            f"{path} is not the key of {folder / PUBLIC}",
            hint="restore both from the same backup",
        )
    return key


def make_missing(folder: Path, passphrase: Passphrase | None) -> bool:
    """The files of a key, unless there is one; True: it was made. Hold the state's lock.

    Cut between the two files, the next call makes both anew: nobody knows the first one's public
    half yet. Raises StateCorrupt when ``policy.pub`` is there without its key.
    """
    if read_public(folder) is not None:
        _read_private(folder / KEY)
        return False
    for name, content in new_files(passphrase):
        durable.write(folder / name, content)
    return True


def _public_text(public: bytes) -> bytes:
    return encode_key(public).encode() + b"\n"


def _read_private(path: Path) -> bytes:
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        pem = durable.read(path, limit=_MAX_BYTES)
    except FileNotFoundError:
        raise StateCorrupt(f"{path} is missing", hint=_restore(path)) from None
    if mode & 0o077:
        raise Refused(
            f"the private key {path} is open to other users (mode {mode:04o})",
            hint=f"chmod 600 {path}",
        )
    return pem


def _restore(path: Path) -> str:
    return (
        f"restore {path} from a backup; without one, move {path.parent / PUBLIC} and "
        f"{path.parent / KEY} away and run meshctl deploy, which makes a new key and tells it to "
        "every host"
    )
