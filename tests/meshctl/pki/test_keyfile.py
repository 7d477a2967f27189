"""Keys at rest: standard, costly to guess, and honest about what is wrong with a file."""

import base64
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from meshctl.errors import Refused, StateCorrupt
from meshctl.pki import keyfile
from meshctl.pki.passphrase import Passphrase

KEY = ec.generate_private_key(ec.SECP256R1())
SECRET = Passphrase("pässword".encode())
SEALED = keyfile.to_pem(KEY, SECRET)
OPEN = keyfile.to_pem(KEY, None)


@pytest.mark.parametrize(("pem", "passphrase"), [(SEALED, SECRET), (OPEN, None), (OPEN, SECRET)])
def test_what_was_written_is_read(pem: bytes, passphrase: Passphrase | None) -> None:
    key = keyfile.from_pem(pem, passphrase, "root.key")
    assert key.private_numbers() == KEY.private_numbers()


def test_says_whether_it_is_encrypted() -> None:
    assert keyfile.is_encrypted(SEALED)
    assert not keyfile.is_encrypted(OPEN)


def test_sealed_bytes_do_not_contain_the_key() -> None:
    secret = KEY.private_numbers().private_value.to_bytes(32, "big")

    def der(pem: bytes) -> bytes:
        return base64.b64decode(b"".join(pem.splitlines()[1:-1]))

    assert secret in der(OPEN)
    assert secret not in der(SEALED)


def openssl(*arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], capture_output=True, check=True).stdout


def test_openssl_reads_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(SEALED)
    (tmp_path / "secret").write_bytes(SECRET.reveal())
    secret = f"file:{tmp_path / 'secret'}"
    public = openssl("pkey", "-in", str(tmp_path / "key"), "-passin", secret, "-pubout")
    assert load_pem_public_key(public) == KEY.public_key()


def test_guessing_is_costly(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(SEALED)
    shown = openssl("asn1parse", "-in", str(tmp_path / "key"))
    assert b"scrypt" in shown
    assert b":4000\n" in shown, "N = 2**14"
    assert b"aes-256-cbc" in shown


def test_two_of_the_same_key_differ() -> None:
    assert keyfile.to_pem(KEY, SECRET) != SEALED


def test_wrong_passphrase_is_refused() -> None:
    with pytest.raises(Refused, match=r"the passphrase does not open root\.key"):
        keyfile.from_pem(SEALED, Passphrase(b"other"), "root.key")


def test_no_passphrase_for_an_encrypted_key_is_refused() -> None:
    with pytest.raises(Refused, match=r"root\.key is encrypted"):
        keyfile.from_pem(SEALED, None, "root.key")


def test_another_kind_of_key_is_corrupt() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(StateCorrupt, match="not an EC key"):
        keyfile.from_pem(pem, None, "root.key")


@pytest.mark.parametrize("pem", [SEALED, OPEN], ids=["sealed", "open"])
def test_every_truncation_is_corrupt(pem: bytes) -> None:
    for length in range(0, len(pem) - 2, 7):
        with pytest.raises(StateCorrupt, match=r"root\.key"):
            keyfile.from_pem(pem[:length], SECRET, "root.key")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(OPEN) - 1), st.binary(min_size=1, max_size=3))
def test_damage_is_never_another_kind_of_error(at: int, junk: bytes) -> None:
    damaged = OPEN[:at] + junk + OPEN[at + len(junk) :]
    try:
        key = keyfile.from_pem(damaged, None, "root.key")
    except (StateCorrupt, Refused):
        return
    assert key.private_numbers() == KEY.private_numbers()
