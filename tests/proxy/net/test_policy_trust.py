"""Policy keys on disk."""

from pathlib import Path

import pytest

from proxy.model.codec import encode_readable
from proxy.model.names import TrustDomain
from proxy.model.policy_keys import PolicyKeys, encode_key
from proxy.model.signed import key_id
from proxy.net.policy_trust import PolicyKeysUnusable, load

TD = TrustDomain("mesh.test")
KEY = b"k" * 32


def test_the_keys_of_the_file_are_believed(tmp_path: Path) -> None:
    file = tmp_path / "policy-keys.json"
    file.write_bytes(encode_readable(PolicyKeys(trust_domain=TD, keys=(encode_key(KEY),))))
    assert load(str(file), TD).keys == {key_id(KEY): KEY}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read .*policy-keys.json: No such file"),
        (b"", "policy-keys.json: "),
        (b" " * 70_000, "larger than"),
        (
            encode_readable(PolicyKeys(trust_domain=TrustDomain("x.test"), keys=("AA==",))),
            "of the mesh x.test",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "policy-keys.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PolicyKeysUnusable, match=reason):
        load(str(file), TD)
