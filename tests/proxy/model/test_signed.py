"""The envelope: text in front, the bytes as they are behind it."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model.codec import Malformed
from proxy.model.names import TrustDomain
from proxy.model.policy import Policy, ServicePolicy, Snapshot, Timeouts
from proxy.model.signed import Kind, key_id, open_envelope, seal, statement, stating
from proxy.model.snapshot import COMPRESS_FROM, finish, pack

SIGNATURE = bytes(range(64))


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(list(Kind)))
def test_what_is_sealed_is_found_again(content: bytes, kind: Kind) -> None:
    found = open_envelope(kind, seal(kind, "0123456789abcdef", SIGNATURE, content))
    assert (found.key_id, found.signature, found.content) == (
        "0123456789abcdef",
        SIGNATURE,
        content,
    )


def test_the_first_line_is_text_and_the_rest_what_pack_made() -> None:
    sealed = seal(Kind.POLICY, "0123456789abcdef", SIGNATURE, b"packed\n")
    line, _, rest = sealed.partition(b"\n")
    words = line.decode("ascii").split(" ")
    assert words[:2] == ["meshctl-policy-1", "0123456789abcdef"]
    assert len(words) == 3
    assert rest == b"packed\n"


def test_the_usual_tools_still_show_a_compressed_policy() -> None:
    services = {f"s{i}": ServicePolicy(timeouts=Timeouts(request_s=i)) for i in range(3000)}
    snapshot = Snapshot(
        generation=1,
        trust_domain=TrustDomain("mesh.test"),
        policy=Policy(services=services),  # type: ignore[arg-type]
    )
    sealed = seal(Kind.POLICY, "0" * 16, SIGNATURE, pack(snapshot))
    shown = subprocess.run(
        ["sh", "-c", "tail -n +2 | zcat"], input=sealed, capture_output=True, check=True, timeout=60
    ).stdout
    assert len(shown) > COMPRESS_FROM
    assert shown.startswith(b'{"generation":1,')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b'{"generation":1}',
        b"\x1f\x8b\x08",
        b"meshctl-policy-2 0123456789abcdef " + b"A" * 86 + b"==\n",
        b"meshctl-policy-1 0123456789ABCDEF " + b"A" * 86 + b"==\n",
        b"meshctl-policy-1 0123456789abcdef " + b"A" * 85 + b"==\n",
        b"meshctl-policy-1 0123456789abcdef " + b"A" * 86 + b"==",
        b"meshctl-policy-1 0123456789abcdef " + b"A" * 86 + b"==\r\n",
        b"meshctl-policy-1  0123456789abcdef " + b"A" * 86 + b"==\n",
        b"meshctl-policy-1 0123456789abcdef " + b"-" * 86 + b"==\n",
    ],
)
def test_what_has_no_such_line_is_not_signed(data: bytes) -> None:
    with pytest.raises(Malformed, match="not signed"):
        open_envelope(Kind.POLICY, data)


def test_an_entry_of_the_history_is_no_policy() -> None:
    sealed = seal(Kind.HISTORY, "0" * 16, SIGNATURE, b"x")
    with pytest.raises(Malformed, match="signed as 'history', not as 'policy'"):
        open_envelope(Kind.POLICY, sealed)
    assert statement(Kind.POLICY, b"x") != statement(Kind.HISTORY, b"x")


@settings(deadline=None)
@given(st.integers(0, 300_000))
def test_what_is_stated_in_pieces_is_the_same(size: int) -> None:
    content = bytes(size)
    assert finish(stating(Kind.POLICY, content)) == statement(Kind.POLICY, content)


def test_a_signature_of_another_length_is_not_sealed() -> None:
    with pytest.raises(ValueError, match="63 bytes"):
        seal(Kind.POLICY, "0" * 16, bytes(63), b"")


def test_a_key_has_a_short_name() -> None:
    assert key_id(bytes(32)) == "66687aadf862bd77"
