"""The operator's own numbering of what was published."""

from datetime import datetime
from pathlib import Path

import pytest

from meshctl.errors import Refused
from meshctl.pki.policykey import PolicyKey
from meshctl.pki.signing import MAX_LEAP, Published, Signing, last_published
from meshctl.state import StateDir
from proxy.model.names import TrustDomain
from proxy.model.policy_keys import MAX_GENERATION


@pytest.fixture
def signing(tmp_path: Path, now: datetime) -> Signing:
    state = StateDir.create(tmp_path / ".meshctl", TrustDomain("mesh.test"), now)
    return Signing(state=state, key=PolicyKey.generate())


@pytest.mark.parametrize(
    ("noted", "verified", "claimed", "next_one"),
    [
        (0, 0, 0, 1),
        (7, 0, 0, 8),
        (7, 12, 0, 13),  # published from another machine, with our signature
        (7, 5, 0, 8),  # an old one was put back
        (7, 0, 41, 42),  # what proxies say
        (7, 0, 3, 8),
        (0, 0, MAX_LEAP, MAX_LEAP + 1),
        (0, 0, MAX_LEAP + 1, 1),  # a lie
        (7, 0, 2**63, 8),
    ],
)
def test_the_next_number_is_above_all_that_can_be_believed(
    signing: Signing, noted: int, verified: int, claimed: int, next_one: int
) -> None:
    signing.state.write("published.json", Published(generation=noted))
    assert signing.next_generation(verified, claimed) == next_one
    assert last_published(signing.state) == next_one, "written down before it is used"


def test_the_last_number_is_the_last(signing: Signing) -> None:
    signing.state.write("published.json", Published(generation=MAX_GENERATION - 1))
    assert signing.next_generation(0, 0) == MAX_GENERATION
    with pytest.raises(Refused, match="come to its end"):
        signing.next_generation(0, 0)
