"""Ed25519: RFC 8032's vectors, the usual library's verdicts, the known ways to be too lenient."""

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core import ed25519
from proxy.core.ed25519 import is_valid, verifying

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493

# RFC 8032, section 7.1: secret key, message, signature.
VECTORS = {
    "TEST 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "TEST 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da0"
        "85ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "TEST 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac1"
        "8ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "TEST SHA(abc)": (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909"
        "351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
MESSAGE = b"meshctl policy 1\n" + bytes(32)
SIGNATURE = KEY.sign(MESSAGE)


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors_of_the_rfc_are_valid_and_their_neighbours_are_not(name: str) -> None:
    secret, message, signature = VECTORS[name]
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
    public, text, sig = (
        key.public_key().public_bytes_raw(),
        bytes.fromhex(message),
        bytes.fromhex(signature),
    )
    assert key.sign(text) == sig, "the vector was copied correctly"
    assert is_valid(public, text, sig)
    assert not is_valid(public, text + b"\0", sig)
    assert not is_valid(PUBLIC, text, sig)


def library_says(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_what_the_library_signs_is_valid(secret: bytes, message: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(secret)
    assert is_valid(key.public_key().public_bytes_raw(), message, key.sign(message))


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 8 * 112 - 1))
def test_no_bit_may_be_another(secret: bytes, bit: int) -> None:
    key = Ed25519PrivateKey.from_private_bytes(secret)
    message = b"sixteen bytes !!"
    public = key.public_key().public_bytes_raw()
    whole = bytearray(public + message + key.sign(message))
    whole[bit // 8] ^= 1 << bit % 8
    given_to = bytes(whole[:32]), bytes(whole[32:48]), bytes(whole[48:])
    assert is_valid(*given_to) == library_says(*given_to) is False


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_whatever_the_bytes_it_is_never_more_lenient_than_the_library(
    public: bytes, signature: bytes
) -> None:
    if is_valid(public, MESSAGE, signature):
        assert library_says(public, MESSAGE, signature)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    assert not is_valid((PUBLIC * 2)[:length], MESSAGE, SIGNATURE)


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    assert not is_valid(PUBLIC, MESSAGE, (SIGNATURE * 2)[:length])


@pytest.mark.parametrize("times", range(1, 9))
def test_a_scalar_beyond_the_order_is_refused(times: int) -> None:
    """``S + L`` satisfies the same equation: the signature would be malleable."""
    scalar = int.from_bytes(SIGNATURE[32:], "little") + times * L
    assert scalar < 2**256
    assert not is_valid(PUBLIC, MESSAGE, SIGNATURE[:32] + scalar.to_bytes(32, "little"))


def y_of(number: int, sign: int = 0) -> bytes:
    return (number | sign << 255).to_bytes(32, "little")


ORDER_8 = [
    int.from_bytes(bytes.fromhex(text), "little")
    for text in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
]
SMALL_ORDER = {
    "order 1": y_of(1),
    "order 2": y_of(P - 1),
    "order 4": y_of(0),
    "order 4, negative": y_of(0, 1),
    **{f"order 8, {i}{'-' * s}": y_of(y, s) for i, y in enumerate(ORDER_8) for s in (0, 1)},
}
NOT_CANONICAL = {
    "order 1 with a negative zero": y_of(1, 1),
    "order 2 with a negative zero": y_of(P - 1, 1),
    "order 4 as p": y_of(P),
    "order 4 as p, negative": y_of(P, 1),
    "order 1 as p + 1": y_of(P + 1),
    "order 1 as p + 1, negative": y_of(P + 1, 1),
    "above p": y_of(2**255 - 1),
}


@pytest.mark.parametrize("public", SMALL_ORDER.values(), ids=SMALL_ORDER)
def test_a_key_of_small_order_is_refused(public: bytes) -> None:
    """With it ``R = [S]B`` is a valid signature for an eighth of all messages or more."""
    point = ed25519._decoded(public)
    assert point is not None, "it is a point, and canonical"
    forged = ed25519._encoded(ed25519._base()) + (1).to_bytes(32, "little")
    for number in range(64):
        assert not is_valid(public, bytes([number]), forged)


@pytest.mark.parametrize("public", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_a_key_in_another_than_its_canonical_form_is_refused(public: bytes) -> None:
    assert ed25519._decoded(public) is None
    for signature in (SIGNATURE, SMALL_ORDER["order 1"] + bytes(32)):
        assert not is_valid(public, MESSAGE, signature)


def test_a_y_that_is_on_no_point_is_refused() -> None:
    assert ed25519._decoded(y_of(2)) is None
    assert not is_valid(y_of(2), MESSAGE, SIGNATURE)


def signed_with(secret: int, nonce: int, message: bytes, torsion: bytes | None = None) -> bytes:
    """A signature by hand, for a key that is ``[secret]B`` and a chosen nonce; ``torsion``: added
    to ``R``."""
    r = multiple(nonce)
    if torsion is not None:
        point = ed25519._decoded(torsion)
        assert point is not None
        r = ed25519._sum(r, point)
    encoded = ed25519._encoded(r)
    public = ed25519._encoded(multiple(secret))
    challenge = int.from_bytes(hashlib.sha512(encoded + public + message).digest(), "little")
    return encoded + ((nonce + challenge * secret) % L).to_bytes(32, "little")


def multiple(times: int) -> tuple[int, int, int, int]:
    found, power = ed25519._NEUTRAL, ed25519._base()
    while times:
        if times & 1:
            found = ed25519._sum(found, power)
        power = ed25519._doubled(power)
        times >>= 1
    return found


def test_an_r_of_small_order_is_refused() -> None:
    """``R`` neutral: the nonce was 0, and the signature gives the key away."""
    public = ed25519._encoded(multiple(12345))
    assert is_valid(public, MESSAGE, signed_with(12345, 777, MESSAGE))
    assert not is_valid(public, MESSAGE, signed_with(12345, 0, MESSAGE))


def test_an_r_with_a_part_of_small_order_is_refused() -> None:
    """The cofactored equation would hold: so there would be eight signatures for each message."""
    public = ed25519._encoded(multiple(12345))
    for torsion in SMALL_ORDER.values():
        made = signed_with(12345, 777, MESSAGE, torsion)
        assert is_valid(public, MESSAGE, made) == (torsion == SMALL_ORDER["order 1"])


def test_addition_is_complete() -> None:
    """Also of a point to itself, to its opposite and to nothing."""
    base = ed25519._base()
    opposite = (-base[0] % P, base[1], base[2], -base[3] % P)
    assert ed25519._encoded(ed25519._sum(base, base)) == ed25519._encoded(ed25519._doubled(base))
    assert ed25519._encoded(ed25519._sum(base, opposite)) == y_of(1)
    assert ed25519._encoded(ed25519._sum(base, ed25519._NEUTRAL)) == ed25519._encoded(base)
    assert ed25519._encoded(multiple(L)) == y_of(1), "the order of the base point"


def test_it_is_done_in_many_pieces() -> None:
    assert sum(1 for _ in verifying(PUBLIC, MESSAGE, SIGNATURE)) >= 12
