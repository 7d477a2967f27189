"""Private keys as PEM: PKCS#8, under a passphrase with scrypt and AES-256 where one is given.

The library's own encryption derives the key with 2048 rounds of PBKDF2, half a millisecond per
guess, which is too little for a file that outlives its disk. So the same standard container
(RFC 8018 PBES2, RFC 7914 scrypt) is written here with a costly derivation; ``openssl pkey`` and
the library itself read it.
"""

import base64
import hashlib
import os
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from meshctl.errors import Refused, StateCorrupt
from meshctl.pki.passphrase import Passphrase

# 0.1 s and 16 MiB per guess. OWASP's set of equals for scrypt; the larger N of that set exceed
# the 32 MiB that OpenSSL allows when it reads a key.
_N, _R, _P = 2**14, 8, 5

_BEGIN = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_END = b"-----END ENCRYPTED PRIVATE KEY-----"


PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def to_pem(key: PrivateKey, passphrase: Passphrase | None) -> bytes:
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, iv = os.urandom(16), os.urandom(16)
    secret = hashlib.scrypt(
        passphrase.reveal(), salt=salt, n=_N, r=_R, p=_P, dklen=32, maxmem=64 * 2**20
    )
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(secret), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(padder.update(der) + padder.finalize()) + encryptor.finalize()
    return _pem(_sequence(_pbes2(salt, iv), _tlv(0x04, sealed)))


def is_encrypted(pem: bytes) -> bool:
    return _BEGIN in pem


def from_pem(pem: bytes, passphrase: Passphrase | None, name: str) -> ec.EllipticCurvePrivateKey:
    """``name`` is the file, for messages. Raises StateCorrupt for a damaged file, Refused for a
    wrong passphrase."""
    key = _load(pem, passphrase, name)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StateCorrupt(f"{name} is not an EC key", hint=f"restore {name} from a backup")
    return key


def ed25519_from_pem(
    pem: bytes, passphrase: Passphrase | None, name: str
) -> ed25519.Ed25519PrivateKey:
    """As ``from_pem``."""
    key = _load(pem, passphrase, name)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise StateCorrupt(f"{name} is not an Ed25519 key", hint=f"restore {name} from a backup")
    return key


def _load(pem: bytes, passphrase: Passphrase | None, name: str) -> object:
    if passphrase is None and is_encrypted(pem):
        raise Refused(f"{name} is encrypted and no passphrase was given")
    secret = passphrase.reveal() if passphrase is not None and is_encrypted(pem) else None
    try:
        return load_pem_private_key(pem, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # With a wrong passphrase the decrypted bytes are noise, which is all that is known.
        if secret is not None and _is_complete(pem):
            raise Refused(f"the passphrase does not open {name}") from error
        raise StateCorrupt(
            f"{name} is damaged: it is not a private key in PEM form",
            hint=f"restore {name} from a backup",
        ) from error


def _is_complete(pem: bytes) -> bool:
    """Whether the container is whole: its outermost length is the length of what is there."""
    body = pem.partition(_BEGIN)[2]
    body, end, _ = body.partition(_END)
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except ValueError:
        return False
    head = 2 if len(der) < 2 or der[1] < 0x80 else 2 + (der[1] & 0x7F)
    return bool(end) and der == _tlv(0x30, der[head:])


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]  # RFC 7468, section 2
    return b"\n".join([_BEGIN, *lines, _END, b""])


def _pbes2(salt: bytes, iv: bytes) -> bytes:
    scrypt = _sequence(
        _oid("2b06010401da47040b"),
        _sequence(_tlv(0x04, salt), _integer(_N), _integer(_R), _integer(_P)),
    )
    aes_256_cbc = _sequence(_oid("60864801650304012a"), _tlv(0x04, iv))
    return _sequence(_oid("2a864886f70d01050d"), _sequence(scrypt, aes_256_cbc))


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(content_hex: str) -> bytes:
    return _tlv(0x06, bytes.fromhex(content_hex))
