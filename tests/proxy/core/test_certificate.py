"""The reader of DER: certificates of many kinds, cut, bent and put together again."""

import random
from typing import Any

import pytest
from hostile import der
from hostile.certificates import CONTROLS, HOSTILE, World, identity

from proxy.core.certificate import CLIENT_AUTH, P256, SERVER_AUTH, NotStrict, read


@pytest.fixture(scope="module")
def sound() -> bytes:
    return CONTROLS["sound"](World(), "web").chain[0]


def test_what_a_leaf_says_is_read_from_where_it_stands(sound: bytes) -> None:
    found = read(sound)
    assert found.uris == (identity("web").encode(),)
    assert found.uses == {SERVER_AUTH, CLIENT_AUTH}
    assert (found.is_ca, found.key_algorithm, found.key_usage) == (False, P256, 0x80)


def test_cryptography_agrees_about_its_own_certificates(mesh_pki: Any) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    for issuer in (mesh_pki.root, mesh_pki.issuing):
        assert read(issuer.certificate.public_bytes(Encoding.DER)).is_ca


def test_no_piece_of_a_certificate_is_one(sound: bytes) -> None:
    for size in range(len(sound)):
        with pytest.raises(NotStrict):
            read(sound[:size])


def test_nothing_may_stand_behind_a_certificate(sound: bytes) -> None:
    with pytest.raises(NotStrict, match="behind its end"):
        read(sound + b"\0")


def test_whatever_bytes_come_the_answer_is_a_certificate_or_a_refusal(sound: bytes) -> None:
    rng = random.Random(8)
    refused = 0
    for _ in range(5000):
        bent = bytearray(sound)
        for _ in range(rng.randint(1, 4)):
            bent[rng.randrange(len(bent))] = rng.randrange(256)
        try:
            read(bytes(bent))
        except NotStrict:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "length",
    [b"\x80", b"\x81\x05", b"\x82\x00\x85", b"\x84\0\0\0\x05", b"\xff"],
    ids=["indefinite", "long for a short one", "with a leading zero", "of four octets", "reserved"],
)
def test_a_length_that_is_not_der_is_refused(length: bytes) -> None:
    with pytest.raises(NotStrict, match="not DER"):
        read(b"\x30" + length + b"hello")


def test_the_usages_count_only_in_their_own_extension() -> None:
    world = World()
    for how in ("the usages as text of the subject", "the usages in an unknown extension"):
        found = read(HOSTILE[how](world, "web").chain[0])
        assert not found.uses & {SERVER_AUTH, CLIENT_AUTH}


def test_the_toolbox_writes_lengths_as_der_wants_them() -> None:
    assert der.tlv(4, b"a" * 127)[:2] == b"\x04\x7f"
    assert der.tlv(4, b"a" * 128)[:3] == b"\x04\x81\x80"
    assert der.tlv(4, b"a" * 256)[:4] == b"\x04\x82\x01\x00"
