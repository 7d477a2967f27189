"""The CA on the operator's disk: ``.meshctl/ca``, mode 0700.

``root.pem`` ``root.key`` ``issuing.pem`` ``issuing.key`` ``trust-bundle.pem`` ``issued.jsonl``,
``policy.key`` and ``policy.pub`` (see ``policykey``); keys 0600 and, with a passphrase, encrypted.
Opening reads public parts only; the passphrase is asked for by ``unlock``, and the root key is read
only to certify issuing CAs.

Hosts are given ``trust_bundle_pem``, which holds a second root while the root is being replaced:
``successor`` has that one, and the one before, in folders beside these files.
"""

import errno
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from meshctl import durable
from meshctl.errors import MeshError, Refused, StateCorrupt
from meshctl.pki import keyfile, policykey
from meshctl.pki.authority import (
    LEAF_LIFE_S,
    Issuer,
    Leaf,
    create_issuing,
    create_root,
    pem,
    sign_leaf,
    trust_domain_of,
)
from meshctl.pki.certificates import is_issued_by
from meshctl.pki.issued import IssuedLog
from meshctl.pki.passphrase import Passphrase, Source
from meshctl.pki.record import DeployRecord
from meshctl.state import StateDir
from proxy.model.names import HostName, ServiceName, TrustDomain

FOLDER = "ca"
ROOT_PEM, ROOT_KEY = "root.pem", "root.key"
ISSUING_PEM, ISSUING_KEY = "issuing.pem", "issuing.key"
TRUST_BUNDLE = "trust-bundle.pem"
ISSUED = "issued.jsonl"
NEXT, RETIRING = "next", "retiring"
"""Folders of the root that comes, with its issuing CA, and of the root that goes."""
_NEXT = ".next"
"""Suffix of a new issuing certificate while its key is being put in place."""

_MAX_BYTES = 1024 * 1024
_NO_CA_HINT = "restore {0} from a backup; without one, move the state directory away, run \
meshctl init and deploy again"


@dataclass(frozen=True, slots=True)
class Signer:
    """An unlocked issuing CA. Nothing of it shows in a repr."""

    _issuer: Issuer = field(repr=False)
    _issued: IssuedLog

    def issue(
        self,
        csr_pem: bytes,
        *,
        record: DeployRecord,
        host: HostName,
        service: ServiceName,
        now: datetime,
        life_s: float = LEAF_LIFE_S,
    ) -> Leaf:
        """Sign, then write down what was signed; only then is the leaf handed out.

        Raises Refused as ``authority.sign_leaf``, MeshError when the record cannot be written.
        """
        leaf = sign_leaf(
            self._issuer,
            csr_pem,
            record=record,
            host=host,
            service=service,
            now=now,
            life_s=life_s,
        )
        self._issued.append(leaf, now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        return leaf


@dataclass(frozen=True, slots=True, kw_only=True)
class CaStore:
    """The public parts of a CA, and the way to its keys."""

    folder: Path
    keys: Path
    """Where the keys and certificates in force are: ``folder``, save in the midst of a switch."""
    trust_domain: TrustDomain
    root: x509.Certificate
    """The root that the issuing CA chains to."""
    issuing: x509.Certificate
    trust_bundle: tuple[x509.Certificate, ...]
    """Every root that hosts trust; more than one only during a rotation."""

    @classmethod
    def create(cls, state: StateDir, passphrase: Passphrase | None, now: datetime) -> "CaStore":
        """A new CA, complete or not there at all. Raises Refused when there is one already."""
        target = state.path / FOLDER
        refusal = Refused(
            f"there is a CA in {target} already; it is never overwritten",
            hint=f"to begin anew, move it away first: mv {state.path} {state.path}.old",
        )
        if target.exists():
            raise refusal
        root = create_root(state.trust_domain, now)
        issuing = create_issuing(root, now)
        with durable.translated(target, "made"):
            building = Path(tempfile.mkdtemp(prefix=f".{FOLDER}.", dir=state.path))
            try:
                for name, data in (
                    (ROOT_KEY, keyfile.to_pem(root.key, passphrase)),
                    (ROOT_PEM, pem(root.certificate)),
                    (ISSUING_KEY, keyfile.to_pem(issuing.key, passphrase)),
                    (ISSUING_PEM, pem(issuing.certificate)),
                    (TRUST_BUNDLE, pem(root.certificate)),
                    *policykey.new_files(passphrase),
                ):
                    durable.write(building / name, data)
                try:
                    building.rename(target)
                except OSError as error:
                    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                        raise refusal from None
                    raise
                durable.flush_folder(state.path)
            finally:
                if building.exists():
                    shutil.rmtree(building)
        return cls.open(state)

    @classmethod
    def open(cls, state: StateDir) -> "CaStore":
        """Read the certificates; keys are only looked at from outside.

        Raises StateCorrupt for what is missing, truncated or does not belong together, Refused
        for a key that others can read.
        """
        folder = state.path / FOLDER
        if not folder.is_dir():
            raise StateCorrupt(f"there is no CA in {folder}", hint=_NO_CA_HINT.format(folder))
        keys = keys_folder(folder)
        for name in (ROOT_KEY, ISSUING_KEY):
            _require_private(keys / name)
        root = read_certificate(keys / ROOT_PEM)
        issuing = read_certificate(keys / ISSUING_PEM)
        bundle = _certificates(folder / TRUST_BUNDLE)
        store = cls(
            folder=folder,
            keys=keys,
            trust_domain=state.trust_domain,
            root=root,
            issuing=issuing,
            trust_bundle=bundle,
        )
        store._require_consistent()
        return store

    @property
    def trust_bundle_pem(self) -> bytes:
        """What hosts get: the roots, without whatever else stands in the file."""
        return pem(*self.trust_bundle)

    @property
    def root_fingerprint(self) -> str:
        """SHA-256 of the root, lower-case hex."""
        return self.root.fingerprint(hashes.SHA256()).hex()

    @property
    def is_encrypted(self) -> bool:
        """Whether a passphrase is needed to sign."""
        return keyfile.is_encrypted(self._read(ISSUING_KEY))

    @property
    def issued(self) -> IssuedLog:
        return IssuedLog(self.folder / ISSUED)

    def unlock(self, passphrase: Source) -> Signer:
        """Ready to sign; ``passphrase`` is called only if the key is encrypted.

        Raises Refused for a wrong passphrase, StateCorrupt for a key that is damaged or not the
        certificate's.
        """
        key = self._key(ISSUING_KEY, passphrase)
        issuing = self.issuing
        if not _is_key_of(key, issuing):
            issuing = self._finish_renewal(key)
        return Signer(Issuer(certificate=issuing, key=key), self.issued)

    def unlock_root(self, passphrase: Source) -> Issuer:
        """The root, ready to certify issuing CAs; raises as ``unlock``."""
        return unlock_root(self.keys, passphrase)

    def renew_issuing(self, passphrase: Source, now: datetime) -> "CaStore":
        """A new issuing CA under the same root. Hosts notice nothing: they trust the root, and
        the next leaf brings its issuer along. Hold the state's lock.

        Raises Refused for a wrong passphrase or an ended root.
        """
        once = remembered(passphrase)
        root = self.unlock_root(once)
        is_encrypted = keyfile.is_encrypted(self._read(ROOT_KEY))
        issuing = create_issuing(root, now)
        # Two files cannot be switched as one; with the next certificate already on the disk,
        # ``unlock`` completes the switch if it is cut between the two.
        durable.sweep(self.keys)
        following = self.keys / (ISSUING_PEM + _NEXT)
        durable.write(following, pem(issuing.certificate))
        new_key = keyfile.to_pem(issuing.key, once() if is_encrypted else None)
        durable.write(self.keys / ISSUING_KEY, new_key)
        self._switch(following)
        return replace(self, issuing=issuing.certificate)

    def with_trust_bundle(self, *roots: x509.Certificate) -> "CaStore":
        """Hosts are to trust ``roots``, of which one is in force. Hold the state's lock."""
        durable.write(self.folder / TRUST_BUNDLE, pem(*roots))
        return replace(self, trust_bundle=roots)

    def _finish_renewal(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        following = self.keys / (ISSUING_PEM + _NEXT)
        if following.exists():
            issuing = read_certificate(following)
            if _is_key_of(key, issuing) and is_issued_by(issuing, self.root):
                self._switch(following)
                return issuing
        raise _mismatch(self.keys / ISSUING_KEY, self.keys / ISSUING_PEM)

    def _switch(self, following: Path) -> None:
        with durable.translated(following, "put in place"):
            following.replace(self.keys / ISSUING_PEM)
            durable.flush_folder(self.keys)

    def _read(self, name: str) -> bytes:
        return _read(self.keys / name)

    def _key(self, name: str, passphrase: Source) -> ec.EllipticCurvePrivateKey:
        return _unlock_key(self.keys / name, passphrase)

    def _require_consistent(self) -> None:
        root_file, issuing_file = self.keys / ROOT_PEM, self.keys / ISSUING_PEM
        for certificate, path in (
            (self.root, root_file),
            (self.issuing, issuing_file),
            *((root, self.folder / TRUST_BUNDLE) for root in self.trust_bundle),
        ):
            try:
                found = trust_domain_of(certificate)
            except MeshError as error:
                raise _damaged(path, str(error)) from error
            if found != self.trust_domain:
                raise _damaged(path, f"it is of the mesh {found}, not of {self.trust_domain}")
        if not is_issued_by(self.root, self.root):
            raise _damaged(root_file, "it is not a self-signed root")
        if not is_issued_by(self.issuing, self.root):
            raise _damaged(issuing_file, f"it was not issued by {ROOT_PEM}")
        if self.root not in self.trust_bundle:
            raise _damaged(self.folder / TRUST_BUNDLE, f"it does not contain {ROOT_PEM}")


def keys_folder(folder: Path) -> Path:
    """With a root that comes and one that goes side by side, the switch between them is decided,
    and only its files are not all in place yet."""
    following = folder / NEXT
    return following if following.is_dir() and (folder / RETIRING).is_dir() else folder


def unlock_root(folder: Path, passphrase: Source) -> Issuer:
    """The root whose files are in ``folder``; raises as ``CaStore.unlock``."""
    certificate = read_certificate(folder / ROOT_PEM)
    key = _unlock_key(folder / ROOT_KEY, passphrase)
    if not _is_key_of(key, certificate):
        raise _mismatch(folder / ROOT_KEY, folder / ROOT_PEM)
    return Issuer(certificate=certificate, key=key)


def remembered(passphrase: Source) -> Source:
    """The same passphrase for several keys, asked for once at most."""
    held: list[Passphrase] = []

    def once() -> Passphrase:
        if not held:
            held.append(passphrase())
        return held[0]

    return once


def _unlock_key(path: Path, passphrase: Source) -> ec.EllipticCurvePrivateKey:
    _require_private(path)
    data = _read(path)
    given = passphrase() if keyfile.is_encrypted(data) else None
    return keyfile.from_pem(data, given, str(path))


def _read(path: Path) -> bytes:
    try:
        return durable.read(path, limit=_MAX_BYTES)
    except FileNotFoundError:
        raise StateCorrupt(f"{path} is missing", hint=_NO_CA_HINT.format(path)) from None


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    data = _read(path)
    try:
        found = x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise _damaged(path, "it is not a certificate in PEM form") from error
    # The library passes over a last one that is cut off.
    if sum(line.startswith(b"-----") for line in data.splitlines()) != 2 * len(found):
        raise _damaged(path, "a certificate in it is cut off")
    return tuple(found)


def read_certificate(path: Path) -> x509.Certificate:
    """Raises StateCorrupt for what is not exactly one certificate."""
    found = _certificates(path)
    if len(found) != 1:
        raise _damaged(path, f"it holds {len(found)} certificates, not one")
    return found[0]


def _require_private(path: Path) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise StateCorrupt(f"{path} is missing", hint=_NO_CA_HINT.format(path)) from None
    except OSError as error:
        raise MeshError(f"{path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Refused(
            f"the private key {path} is open to other users "
            f"(mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 600 {path}",
        )


def _is_key_of(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    return key.public_key() == certificate.public_key()


def _mismatch(key: Path, certificate: Path) -> StateCorrupt:
    return StateCorrupt(
        f"{key} is not the key of {certificate}", hint="restore both from the same backup"
    )


def _damaged(path: Path, why: str) -> StateCorrupt:
    return StateCorrupt(f"{path} is damaged: {why}", hint=_NO_CA_HINT.format(path))
