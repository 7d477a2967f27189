"""What the CA certifies, and what it refuses whatever it is asked."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from meshctl.errors import MeshError, Refused
from meshctl.pki import authority
from meshctl.pki.authority import Issuer, Leaf, create_issuing, create_root, sign_leaf
from meshctl.pki.record import DeployRecord, HostRecord
from proxy.model.names import HostName, ServiceName, TrustDomain, parse_spiffe_id

TD = TrustDomain("mesh.internal")
HOST = HostName("web-1")
WEB = ServiceName("web")
RECORD = DeployRecord(hosts={HOST: HostRecord(services=(WEB,))})
DAY = 86400.0


def sign(issuer: Issuer, csr: bytes, now: datetime, **changes: Any) -> Leaf:
    wanted: dict[str, Any] = {"record": RECORD, "host": HOST, "service": WEB, "now": now}
    return sign_leaf(issuer, csr, **{**wanted, **changes})


def request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    *extensions: x509.ExtensionType,
    name: str = "admin",
) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def extension(certificate: x509.Certificate, kind: type[Any]) -> tuple[Any, bool]:
    found = certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


class TestCa:
    def test_root_lives_ten_years_and_is_self_signed(self, root: Issuer, now: datetime) -> None:
        root.certificate.verify_directly_issued_by(root.certificate)
        assert root.certificate.not_valid_after_utc - now == timedelta(days=3650)
        assert extension(root.certificate, x509.BasicConstraints)[0].path_length == 1

    def test_issuing_is_signed_by_root_and_may_sign_leaves_only(
        self, root: Issuer, issuing: Issuer, now: datetime
    ) -> None:
        issuing.certificate.verify_directly_issued_by(root.certificate)
        value, is_critical = extension(issuing.certificate, x509.BasicConstraints)
        assert (value.ca, value.path_length, is_critical) == (True, 0, True)
        assert issuing.certificate.not_valid_after_utc - now == timedelta(days=365)

    def test_issuing_never_outlives_the_root(self, now: datetime) -> None:
        root = create_root(TD, now, life_s=10 * DAY)
        issuing = create_issuing(root, now)
        assert issuing.certificate.not_valid_after_utc == root.certificate.not_valid_after_utc

    def test_an_ended_root_makes_no_issuing_ca(self, root: Issuer, now: datetime) -> None:
        with pytest.raises(Refused, match="root CA ended"):
            create_issuing(root, now + timedelta(days=3651))

    def test_key_usage_of_cas_is_signing_certificates_only(self, issuing: Issuer) -> None:
        usage, is_critical = extension(issuing.certificate, x509.KeyUsage)
        assert is_critical
        assert usage.key_cert_sign
        assert not usage.digital_signature

    def test_two_roots_have_different_names(self, root: Issuer, now: datetime) -> None:
        assert create_root(TD, now).certificate.subject != root.certificate.subject

    def test_trust_domain_is_read_back(self, root: Issuer, issuing: Issuer) -> None:
        assert root.trust_domain == issuing.trust_domain == TD

    def test_trust_domain_of_a_leaf_is_refused(
        self, issuing: Issuer, csr: bytes, now: datetime
    ) -> None:
        with pytest.raises(MeshError, match="not the CA of a mesh"):
            authority.trust_domain_of(sign(issuing, csr, now).certificate)

    def test_longest_trust_domain_fits(self, csr: bytes, now: datetime, handshake: Any) -> None:
        long = TrustDomain(".".join(["a" * 61] * 3)[:190])
        root = create_root(long, now)
        leaf = sign(create_issuing(root, now), csr, now)
        assert leaf.spiffe_id == f"spiffe://{long}/svc/web"
        assert handshake(root.certificate, leaf.certificate, leaf.issuing) is None

    def test_keys_do_not_show(self, root: Issuer) -> None:
        assert "key" not in repr(root)


class TestHandshake:
    """OpenSSL, through Python's ssl, is what decides on the hosts."""

    def test_accepts_a_leaf(
        self, root: Issuer, issuing: Issuer, csr: bytes, now: datetime, handshake: Any
    ) -> None:
        leaf = sign(issuing, csr, now)
        assert handshake(root.certificate, leaf.certificate, leaf.issuing) is None

    def test_accepts_a_single_label_trust_domain(
        self, csr: bytes, now: datetime, handshake: Any
    ) -> None:
        root = create_root(TrustDomain("mesh"), now)
        leaf = sign(create_issuing(root, now), csr, now)
        assert handshake(root.certificate, leaf.certificate, leaf.issuing) is None

    @pytest.mark.parametrize(
        "name",
        [
            x509.UniformResourceIdentifier("spiffe://other.internal/svc/web"),
            x509.UniformResourceIdentifier("spiffe://a.mesh.internal/svc/web"),
            x509.DNSName("example.com"),
            x509.DNSName("mesh.internal"),
        ],
        ids=lambda name: name.value,
    )
    def test_a_stolen_issuing_key_signs_for_nobody_else(
        self,
        root: Issuer,
        issuing: Issuer,
        key: ec.EllipticCurvePrivateKey,
        now: datetime,
        handshake: Any,
        name: x509.GeneralName,
    ) -> None:
        forged = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuing.certificate.subject)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .sign(issuing.key, hashes.SHA256())
        )
        reason = handshake(root.certificate, forged, issuing.certificate)
        assert reason in {"permitted subtree violation", "excluded subtree violation"}

    def test_a_leaf_signs_no_leaf(
        self,
        root: Issuer,
        issuing: Issuer,
        key: ec.EllipticCurvePrivateKey,
        csr: bytes,
        now: datetime,
        handshake: Any,
    ) -> None:
        middle = sign(issuing, csr, now).certificate
        forged = sign(Issuer(certificate=issuing.certificate, key=key), csr, now).certificate
        assert handshake(root.certificate, forged, middle, issuing.certificate) is not None


class TestLeaf:
    @pytest.fixture
    def leaf(self, issuing: Issuer, csr: bytes, now: datetime) -> x509.Certificate:
        return sign(issuing, csr, now).certificate

    def test_has_exactly_one_name_and_it_is_the_identity(self, leaf: x509.Certificate) -> None:
        san, is_critical = extension(leaf, x509.SubjectAlternativeName)
        assert [(type(name), name.value) for name in san] == [
            (x509.UniformResourceIdentifier, "spiffe://mesh.internal/svc/web")
        ]
        assert is_critical
        # Which host it is for, in a kind of name that nobody takes for an identity.
        assert [(each.oid, each.value) for each in leaf.subject] == [
            (NameOID.ORGANIZATIONAL_UNIT_NAME, "web-1")
        ]
        assert authority.host_of(leaf) == "web-1"

    def test_is_client_and_server_and_no_ca(self, leaf: x509.Certificate) -> None:
        usage, _ = extension(leaf, x509.ExtendedKeyUsage)
        assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        constraints, is_critical = extension(leaf, x509.BasicConstraints)
        assert (constraints.ca, is_critical) == (False, True)

    def test_key_usage_is_signing_only(self, leaf: x509.Certificate) -> None:
        usage, is_critical = extension(leaf, x509.KeyUsage)
        assert is_critical
        assert usage.digital_signature
        assert not any((usage.key_cert_sign, usage.crl_sign, usage.key_agreement))

    def test_is_backdated_a_minute_and_lives_thirty_days(
        self, leaf: x509.Certificate, now: datetime
    ) -> None:
        assert now - leaf.not_valid_before_utc == timedelta(seconds=60)
        assert leaf.not_valid_after_utc - now == timedelta(days=30)

    def test_key_identifiers_link_the_chain(self, leaf: x509.Certificate, issuing: Issuer) -> None:
        mine, _ = extension(leaf, x509.AuthorityKeyIdentifier)
        theirs, _ = extension(issuing.certificate, x509.SubjectKeyIdentifier)
        assert mine.key_identifier == theirs.digest
        leaf.verify_directly_issued_by(issuing.certificate)

    def test_serials_are_long_and_differ(self, issuing: Issuer, csr: bytes, now: datetime) -> None:
        serials = {sign(issuing, csr, now).certificate.serial_number for _ in range(20)}
        assert len(serials) == 20
        assert max(serials).bit_length() > 64

    def test_chain_is_leaf_then_issuing(self, issuing: Issuer, csr: bytes, now: datetime) -> None:
        leaf = sign(issuing, csr, now)
        assert x509.load_pem_x509_certificates(leaf.chain_pem) == [
            leaf.certificate,
            issuing.certificate,
        ]

    def test_life_can_be_chosen(self, issuing: Issuer, csr: bytes, now: datetime) -> None:
        assert sign(issuing, csr, now, life_s=3600).not_after - now == timedelta(hours=1)


class TestIssuersEnd:
    def test_leaf_near_it_is_cut(self, issuing: Issuer, csr: bytes) -> None:
        end = issuing.certificate.not_valid_after_utc
        assert sign(issuing, csr, end - timedelta(days=2)).not_after == end

    def test_leaf_too_near_it_is_refused(self, issuing: Issuer, csr: bytes) -> None:
        end = issuing.certificate.not_valid_after_utc
        with pytest.raises(Refused, match="would end within 60 s") as caught:
            sign(issuing, csr, end - timedelta(seconds=59))
        assert "--renew-issuing" in caught.value.hint

    def test_leaf_after_it_is_refused(self, issuing: Issuer, csr: bytes) -> None:
        end = issuing.certificate.not_valid_after_utc
        with pytest.raises(Refused, match="issuing CA ended on"):
            sign(issuing, csr, end)

    def test_leaf_before_its_start_is_refused(self, issuing: Issuer, csr: bytes) -> None:
        start = issuing.certificate.not_valid_before_utc
        with pytest.raises(Refused, match="not valid before"):
            sign(issuing, csr, start - timedelta(seconds=1))

    @given(
        at_s=st.floats(0, 400 * DAY, allow_nan=False),
        life_s=st.floats(-DAY, 1000 * DAY, allow_nan=False),
    )
    def test_no_leaf_is_ever_outside_its_issuer(
        self, issuing: Issuer, csr: bytes, now: datetime, at_s: float, life_s: float
    ) -> None:
        ca = issuing.certificate
        moment = now + timedelta(seconds=at_s)
        try:
            leaf = sign(issuing, csr, moment, life_s=life_s).certificate
        except Refused:
            remaining = (ca.not_valid_after_utc - moment).total_seconds()
            assert min(remaining, life_s) <= 61
            return
        assert ca.not_valid_before_utc <= leaf.not_valid_before_utc <= moment
        assert moment < leaf.not_valid_after_utc <= ca.not_valid_after_utc


class TestIdentity:
    """It comes from the deploy record; a host gets no other by asking."""

    @pytest.mark.parametrize(
        ("host", "service"),
        [("web-1", "api"), ("web-2", "web"), ("nobody", "nothing")],
    )
    def test_not_in_the_record_is_refused(
        self, issuing: Issuer, csr: bytes, now: datetime, host: str, service: str
    ) -> None:
        with pytest.raises(Refused, match=f"host {host} may not have"):
            sign(issuing, csr, now, host=HostName(host), service=ServiceName(service))

    @pytest.mark.parametrize(
        "extensions",
        [
            [x509.BasicConstraints(ca=True, path_length=None)],
            [
                x509.SubjectAlternativeName(
                    [
                        x509.UniformResourceIdentifier("spiffe://mesh.internal/svc/api"),
                        x509.UniformResourceIdentifier("spiffe://mesh.internal/svc/db"),
                        x509.DNSName("example.com"),
                    ]
                )
            ],
            [
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=True,
                    key_encipherment=True,
                    data_encipherment=True,
                    key_agreement=True,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
            ],
            [x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")],
        ],
        ids=["ca", "names", "usages", "unknown"],
    )
    def test_what_a_request_asks_for_is_ignored(
        self,
        issuing: Issuer,
        key: ec.EllipticCurvePrivateKey,
        csr: bytes,
        now: datetime,
        extensions: list[x509.ExtensionType],
    ) -> None:
        hostile = sign(issuing, request(key, *extensions), now).certificate
        plain = sign(issuing, csr, now).certificate
        assert list(hostile.extensions) == list(plain.extensions)
        assert hostile.subject == plain.subject

    @given(
        hosts=st.dictionaries(
            st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
            st.lists(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), max_size=3),
            max_size=3,
        ),
        host=st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
        data=st.data(),
    )
    def test_a_decided_identity_is_always_in_the_record(
        self, hosts: dict[str, list[str]], host: str, data: st.DataObject
    ) -> None:
        record = DeployRecord(
            hosts={
                HostName(name): HostRecord(services=tuple(map(ServiceName, services)))
                for name, services in hosts.items()
            }
        )
        known = sorted({name for names in hosts.values() for name in names} | {"zz"})
        service = ServiceName(data.draw(st.sampled_from(known)))
        try:
            identity = authority.decide_identity(record, TD, HostName(host), service)
        except Refused:
            assert service not in hosts.get(host, [])
        else:
            assert service in hosts[host]
            assert parse_spiffe_id(identity, TD) == service


class TestRequest:
    def test_of_an_rsa_key_is_refused(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        with pytest.raises(Refused, match="not an EC P-256 key"):
            authority.check_request(request(key))

    def test_of_another_curve_is_refused(self) -> None:
        with pytest.raises(Refused, match="not an EC P-256 key"):
            authority.check_request(request(ec.generate_private_key(ec.SECP384R1())))

    def test_of_an_ed25519_key_is_refused(self) -> None:
        with pytest.raises(Refused, match="not an EC P-256 key"):
            authority.check_request(request(ed25519.Ed25519PrivateKey.generate()))

    def test_not_signed_by_its_own_key_is_refused(
        self, csr: bytes, key: ec.EllipticCurvePrivateKey
    ) -> None:
        der = bytearray(x509.load_pem_x509_csr(csr).public_bytes(Encoding.DER))
        other = ec.generate_private_key(ec.SECP256R1()).public_key()
        mine = _point(key.public_key())
        at = der.index(mine)
        der[at : at + len(mine)] = _point(other)
        swapped = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
        with pytest.raises(Refused, match="not signed by the key"):
            authority.check_request(swapped)

    def test_with_the_cas_own_key_is_refused(self, issuing: Issuer, now: datetime) -> None:
        with pytest.raises(Refused, match="issuing CA's own"):
            sign(issuing, request(issuing.key), now)

    @pytest.mark.parametrize(
        "text", [b"", b"hello", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\x00" * 20000]
    )
    def test_that_is_none_is_refused(self, text: bytes) -> None:
        with pytest.raises(Refused):
            authority.check_request(text)

    @given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
    def test_damaged_anywhere_is_refused_or_harmless(
        self, csr: bytes, at: int, junk: bytes
    ) -> None:
        at %= len(csr)
        damaged = csr[:at] + junk + csr[at + len(junk) :]
        try:
            public_key = authority.check_request(damaged)
        except Refused:
            return
        assert public_key == x509.load_pem_x509_csr(csr).public_key()

    def test_moments_in_other_zones_are_the_same_moment(
        self, issuing: Issuer, csr: bytes, now: datetime
    ) -> None:
        east = now.astimezone(timezone(timedelta(hours=9)))
        assert sign(issuing, csr, east).not_after == sign(issuing, csr, now).not_after
        assert now.tzinfo is UTC


def _point(public_key: ec.EllipticCurvePublicKey) -> bytes:
    return public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
