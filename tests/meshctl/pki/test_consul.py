"""The CA of a managed Consul: what it signs, what it remembers, and what a loss of it does."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from signing.world import make_request

from meshctl.errors import Refused, StateCorrupt
from meshctl.pki.consul import CA_LIFE_S, SERVER_LIFE_S, ConsulCa
from proxy.model.names import HostName

ONE, TWO = HOSTS = (HostName("one"), HostName("two"))
DC = "dc1"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def ca(tmp_path: Path) -> ConsulCa:
    return ConsulCa(tmp_path / "consul")


def started(ca: ConsulCa, host: HostName) -> bytes:
    made = ca.certify(host, make_request(), DC, now())
    ca.confirm(host)
    return made


def test_it_is_made_once_with_files_for_the_operator_only(ca: ConsulCa) -> None:
    first = ca.read(HOSTS, DC)
    assert ca.read(HOSTS, DC) == first
    assert (first.servers, first.is_enforced) == ({}, False)
    for path in ca.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(ca.folder.stat().st_mode) == 0o700
    certificate = x509.load_pem_x509_certificate(first.ca)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    life = certificate.not_valid_after_utc - now()
    assert abs(life - timedelta(seconds=CA_LIFE_S)) < timedelta(minutes=5)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_a_server_gets_its_name_for_a_year_and_nothing_that_it_asked_for(ca: ConsulCa) -> None:
    pem = started(ca, ONE)
    issuer = x509.load_pem_x509_certificate(ca.read((), DC).ca)
    made = x509.load_pem_x509_certificate(pem)
    made.verify_directly_issued_by(issuer)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["server.dc1.consul", "localhost"]
    assert len(names) == 2
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    life = made.not_valid_after_utc - now()
    assert abs(life - timedelta(seconds=SERVER_LIFE_S)) < timedelta(minutes=5)
    with pytest.raises(Refused):
        ca.certify(ONE, b"nonsense", DC, now())


def test_a_certificate_counts_once_the_server_was_started_with_it(ca: ConsulCa) -> None:
    first = started(ca, ONE)
    second = ca.certify(ONE, make_request(), DC, now())
    assert ca.read(HOSTS, DC).servers[ONE].pem == first
    ca.confirm(ONE)
    ca.confirm(ONE)
    known = ca.read(HOSTS, DC).servers
    assert known[ONE].pem == second
    assert set(known) == {ONE}


def test_one_for_another_datacenter_does_not_count(ca: ConsulCa) -> None:
    started(ca, ONE)
    assert ca.read(HOSTS, "dc2").servers == {}


@pytest.mark.parametrize("lost", ["ca.key", "ca.key ca.pem"])
def test_a_lost_key_makes_another_ca_that_nobody_insists_on_yet(ca: ConsulCa, lost: str) -> None:
    started(ca, ONE)
    ca.note_enforced()
    before = ca.read(HOSTS, DC)
    assert before.is_enforced
    for name in lost.split():
        (ca.folder / name).unlink()
    after = ca.read(HOSTS, DC)
    assert after.ca != before.ca
    assert (after.servers, after.is_enforced) == ({}, False)
    names = {x509.load_pem_x509_certificate(known.ca).subject for known in (before, after)}
    assert len(names) == 2


def test_a_lost_certificate_is_made_again_and_nothing_else_changes(ca: ConsulCa) -> None:
    started(ca, ONE)
    ca.note_enforced()
    (ca.folder / "ca.pem").unlink()
    known = ca.read(HOSTS, DC)
    assert set(known.servers) == {ONE}
    assert known.is_enforced


@pytest.mark.parametrize("name", ["ca.key", "ca.pem", "servers/one.pem"])
def test_a_damaged_file_is_named_with_the_way_out(ca: ConsulCa, name: str) -> None:
    started(ca, ONE)
    (ca.folder / name).write_bytes(b"nonsense")
    with pytest.raises(StateCorrupt, match=name) as refused:
        ca.read(HOSTS, DC)
    assert "meshctl deploy" in refused.value.hint


def test_an_ended_ca_signs_nothing(ca: ConsulCa) -> None:
    ca.read((), DC)
    with pytest.raises(Refused, match="not valid now"):
        ca.certify(ONE, make_request(), DC, now() + timedelta(seconds=CA_LIFE_S + 60))


def test_nothing_is_left_when_the_cluster_is_gone(ca: ConsulCa) -> None:
    started(ca, ONE)
    ca.certify(TWO, make_request(), DC, now())
    ca.note_enforced()
    (ca.folder / "management.token").write_text("not its own")
    ca.forget_all()
    left = [path.name for path in ca.folder.rglob("*") if path.is_file()]
    assert left == ["management.token"]
