"""The root that comes and the root that goes, in folders beside the CA in force.

``ca/next/``: a new root with its issuing CA, made long before anybody signs with it.
``ca/retiring/``: the root that was in force before, with its key, until no host trusts it.
``ca/retired/<first 16 digits of its SHA-256>.pem``: certificates only, for whoever has to read an
old log. Each step is one rename, so that the CA can be opened after an interruption at any point:
as it was before the step, or as it is after it. Hold the state's lock to change anything.
"""

import shutil
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from meshctl import durable
from meshctl.errors import StateCorrupt
from meshctl.pki import keyfile
from meshctl.pki.authority import (
    ISSUING_LIFE_S,
    ROOT_LIFE_S,
    Issuer,
    create_issuing,
    create_root,
    pem,
)
from meshctl.pki.passphrase import Source
from meshctl.pki.store import (
    ISSUING_KEY,
    ISSUING_PEM,
    NEXT,
    RETIRING,
    ROOT_KEY,
    ROOT_PEM,
    CaStore,
    read_certificate,
    unlock_root,
)
from meshctl.state import StateDir

RETIRED = "retired"
_GONE = ".gone."
"""Prefix of a folder that is being removed: a half of it must not be found under its name."""
_FILES = (ROOT_KEY, ROOT_PEM, ISSUING_KEY, ISSUING_PEM)


def next_root(ca: CaStore) -> x509.Certificate | None:
    """None: none is prepared, or it is in force already."""
    path = ca.folder / NEXT / ROOT_PEM
    return read_certificate(path) if ca.keys == ca.folder and path.exists() else None


def retiring_root(ca: CaStore) -> x509.Certificate | None:
    """The one that was in force before; None: there is none that hosts might still trust."""
    path = ca.folder / RETIRING / ROOT_PEM
    return read_certificate(path) if path.exists() else None


def prepare(
    ca: CaStore,
    passphrase: Source,
    now: datetime,
    *,
    root_life_s: float = ROOT_LIFE_S,
    issuing_life_s: float = ISSUING_LIFE_S,
) -> x509.Certificate:
    """A new root and an issuing CA under it, encrypted if the CA is; the one there is, if any.

    The passphrase has to open the CA in force, so that both have the same. Raises as
    ``CaStore.unlock``.
    """
    _sweep(ca.folder)
    found = next_root(ca)
    if found is not None:
        return found
    ca.unlock_root(passphrase)
    given = passphrase() if ca.is_encrypted else None
    root = create_root(ca.trust_domain, now, life_s=root_life_s)
    issuing = create_issuing(root, now, life_s=issuing_life_s)
    files = (
        (ROOT_KEY, keyfile.to_pem(root.key, given)),
        (ROOT_PEM, pem(root.certificate)),
        (ISSUING_KEY, keyfile.to_pem(issuing.key, given)),
        (ISSUING_PEM, pem(issuing.certificate)),
    )
    _make(ca.folder / NEXT, files)
    return root.certificate


def unlock_next(ca: CaStore, passphrase: Source) -> Issuer:
    """The root that comes, to sign a probe with."""
    return unlock_root(ca.folder / NEXT, passphrase)


def unlock_retiring(ca: CaStore, passphrase: Source) -> Issuer:
    """The root that goes, to sign a probe with."""
    return unlock_root(ca.folder / RETIRING, passphrase)


def switch(state: StateDir) -> CaStore:
    """What ``next`` holds is in force, what was in force is ``retiring``; completes a switch that
    was interrupted, and does nothing after one that was not.

    The trust bundle must hold both roots already. Raises StateCorrupt where nothing is prepared.
    """
    ca = CaStore.open(state)
    following, retiring = ca.folder / NEXT, ca.folder / RETIRING
    if not following.is_dir():
        if retiring.is_dir():
            return ca
        raise StateCorrupt(
            f"{following} is missing", hint="restore it from a backup, or begin the rotation anew"
        )
    if not retiring.is_dir():
        _make(retiring, [(name, durable.read(ca.folder / name)) for name in _FILES])
    # From here on the new root is in force, wherever this is interrupted (store.keys_folder).
    for name in _FILES:
        durable.write(ca.folder / name, durable.read(following / name))
    _remove(following)
    return CaStore.open(state)


def abandon(ca: CaStore) -> CaStore:
    """There is no next root, and nobody is to trust it. Only before ``switch``."""
    ca = ca.with_trust_bundle(ca.root)
    _remove(ca.folder / NEXT)
    return ca


def retire(ca: CaStore) -> CaStore:
    """The key of the root that goes is deleted, its certificate kept among the retired."""
    ca = ca.with_trust_bundle(ca.root)
    old = retiring_root(ca)
    if old is None:
        return ca
    folder = ca.folder / RETIRED
    with durable.translated(folder, "made"):
        folder.mkdir(mode=0o700, exist_ok=True)
    durable.write(folder / f"{sha256(old)[:16]}.pem", pem(old))
    _remove(ca.folder / RETIRING)
    return ca


def sha256(certificate: x509.Certificate) -> str:
    """Of the DER, lower-case hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _make(target: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """``target`` is complete or not there at all."""
    with durable.translated(target, "made"):
        building = Path(tempfile.mkdtemp(prefix=_GONE, dir=target.parent))
        try:
            for name, data in files:
                durable.write(building / name, data)
            building.rename(target)
            durable.flush_folder(target.parent)
        finally:
            if building.exists():
                shutil.rmtree(building)


def _remove(folder: Path) -> None:
    with durable.translated(folder, "removed"):
        if folder.is_dir():
            gone = Path(tempfile.mkdtemp(prefix=_GONE, dir=folder.parent))
            folder.rename(gone / folder.name)
            durable.flush_folder(folder.parent)
        _sweep(folder.parent)


def _sweep(folder: Path) -> None:
    with durable.translated(folder, "tidied"):
        for left in folder.glob(f"{_GONE}*"):
            shutil.rmtree(left)
