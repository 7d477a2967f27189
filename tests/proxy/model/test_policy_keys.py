"""``policy-keys.json``: what is taken from it, and what makes it unusable."""

from typing import Any

import pytest
from msgspec import structs

from proxy.model.codec import Malformed, encode_readable
from proxy.model.names import TrustDomain
from proxy.model.policy_keys import MAX_GENERATION, PolicyKeys, encode_key, parse
from proxy.model.signed import key_id

TD = TrustDomain("mesh.test")
ONE, TWO = b"1" * 32, b"2" * 32
FILE = PolicyKeys(trust_domain=TD, keys=(encode_key(ONE), encode_key(TWO)), minimum_generation=7)


def test_keys_are_known_by_their_ids() -> None:
    found = parse(encode_readable(FILE), TD)
    assert found.keys == {key_id(ONE): ONE, key_id(TWO): TWO}
    assert found.minimum_generation == 7


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trust_domain": TrustDomain("other.test")}, "of the mesh other.test"),
        ({"keys": ()}, "0 keys"),
        ({"keys": (encode_key(ONE),) * 5}, "5 keys"),
        ({"keys": ("AAAA",)}, "3 bytes, not 32"),
        ({"keys": ("not base64!",)}, "not base64"),
        ({"keys": ("é",)}, "not base64"),
        ({"minimum_generation": -1}, "out of range"),
        ({"minimum_generation": MAX_GENERATION + 1}, "out of range"),
    ],
)
def test_what_makes_no_sense_is_malformed(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse(encode_readable(structs.replace(FILE, **changes)), TD)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"trust_domain":"mesh.test"}'])
def test_what_is_not_the_file_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data, TD)
