"""What the operator's side remembers of signers' certificates."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from meshctl.errors import StateCorrupt
from meshctl.pki.authority import Issuer, create_issuing, create_root
from meshctl.pki.certificates import is_issued_by, key_id
from meshctl.pki.signers import SignerCertificates, fingerprint
from proxy.model.names import HostName, TrustDomain

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
CTL = HostName("ctl-1")


@pytest.fixture
def root() -> Issuer:
    return create_root(TrustDomain("mesh.test"), NOW)


def of(root: Issuer, *, life_s: float = 86400.0) -> x509.Certificate:
    return create_issuing(root, NOW, life_s=life_s).certificate


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    assert SignerCertificates(tmp_path).read() == {}


def test_the_newest_is_first_and_those_that_ended_go(tmp_path: Path, root: Issuer) -> None:
    kept = SignerCertificates(tmp_path)
    short, first, second = of(root, life_s=3600), of(root), of(root)
    kept.keep(CTL, short, NOW)
    kept.keep(CTL, first, NOW)
    kept.keep(CTL, second, NOW + timedelta(hours=2))
    assert kept.read() == {CTL: (second, first)}
    kept.keep(CTL, second, NOW)  # again, after an interruption
    assert kept.read() == {CTL: (second, first)}


def test_only_a_few_of_a_host_are_kept(tmp_path: Path, root: Issuer) -> None:
    kept = SignerCertificates(tmp_path)
    made = [of(root) for _ in range(6)]
    for certificate in made:
        kept.keep(CTL, certificate, NOW)
    assert kept.read()[CTL] == tuple(reversed(made[2:]))


def test_leaves_are_good_of_signers_that_still_are_and_under_this_root(
    tmp_path: Path, root: Issuer
) -> None:
    kept = SignerCertificates(tmp_path)
    other = create_root(TrustDomain("mesh.test"), NOW)
    good, former, foreign = of(root), of(root), of(other)
    kept.keep(CTL, foreign, NOW)
    kept.keep(CTL, good, NOW)
    kept.keep(HostName("ctl-2"), former, NOW)
    assert kept.fingerprints(root.certificate, {CTL}) == {fingerprint(good)}


def test_a_forgotten_signer_may_be_forgotten_again(tmp_path: Path, root: Issuer) -> None:
    kept = SignerCertificates(tmp_path)
    kept.keep(CTL, of(root), NOW)
    for _ in range(2):
        kept.forget(CTL)
    assert kept.read() == {}


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, root: Issuer) -> None:
    kept = SignerCertificates(tmp_path)
    kept.keep(CTL, of(root), NOW)
    (tmp_path / "signers" / "ctl-1.pem").write_text("not a certificate")
    with pytest.raises(StateCorrupt, match=r"ctl-1\.pem is damaged") as refused:
        kept.read()
    assert "deploy certifies" in refused.value.hint


def test_who_issued_is_seen_from_the_signature_and_named_by_the_key(root: Issuer) -> None:
    other = create_root(TrustDomain("mesh.test"), NOW)
    ca = of(root)
    assert is_issued_by(ca, root.certificate)
    assert not is_issued_by(ca, other.certificate)
    named = ca.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier is not None
    assert named.key_identifier.hex() == key_id(root.certificate) != key_id(other.certificate)
