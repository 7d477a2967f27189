import ssl
from typing import Any

import pytest
from hostile.certificates import CONTROLS, HOSTILE, World

from proxy.core.peer import identify, identify_signer
from proxy.model.names import InvalidName, TrustDomain

DOMAIN = TrustDomain("mesh.test")
NAME = "spiffe://mesh.test/svc/web"

NOT_EVEN_SHOWN = (
    "an empty key usage",
    "two basic constraints, CA second",
    "two basic constraints, CA first",
    "two alternative names",
    "two extended usages",
)
"""OpenSSL shows none of these: what stands behind it refuses them by itself."""


def der_of(directory: Any) -> bytes:
    pem = (directory / "chain.pem").read_text()
    return ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END CERTIFICATE-----") + 26])


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_a_leaf_names_its_service(mesh_pki: Any) -> None:
    der = der_of(mesh_pki.issue("web"))
    for is_server in (True, False):
        assert identify(der, DOMAIN, is_server=is_server) == "web"


@pytest.mark.parametrize(
    "names",
    [
        (),
        (NAME, NAME),
        (NAME, "spiffe://mesh.test/svc/api"),
        ("spiffe://other.test/svc/web",),
        ("spiffe://mesh.test/svc/web/../api",),
        ("spiffe://mesh.test/svc/Web",),
        ("spiffe://mesh.test/ns/web",),
        ("SPIFFE://mesh.test/svc/web",),
        ("spiffe://mesh.test.evil/svc/web",),
        ("spiffe://mesh.test/svc/web?x",),
    ],
)
def test_anything_but_exactly_one_identity_of_this_mesh_is_refused(
    mesh_pki: Any, names: tuple[str, ...]
) -> None:
    der = der_of(mesh_pki.issue("web", uris=names))
    with pytest.raises(InvalidName):
        identify(der, DOMAIN, is_server=True)


def test_a_ca_is_nobody(mesh_pki: Any) -> None:
    der = der_of(mesh_pki.issue("web", is_ca=True))
    with pytest.raises(InvalidName, match="CA"):
        identify(der, DOMAIN, is_server=True)


def test_a_certificate_is_only_what_it_was_issued_for(mesh_pki: Any) -> None:
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage  # noqa: PLC0415

    server = der_of(mesh_pki.issue("web", uses=(Usage.SERVER_AUTH,)))
    none = der_of(mesh_pki.issue("web", uses=()))
    assert identify(server, DOMAIN, is_server=True) == "web"
    for der, is_server in ((server, False), (none, True), (none, False)):
        with pytest.raises(InvalidName, match="not for a TLS"):
            identify(der, DOMAIN, is_server=is_server)


@pytest.mark.parametrize("how", CONTROLS)
def test_a_sound_certificate_is_read(world: World, how: str) -> None:
    der = CONTROLS[how](world, "web").chain[0]
    assert identify(der, DOMAIN, is_server=False) == "web"


@pytest.mark.parametrize("how", NOT_EVEN_SHOWN)
def test_what_openssl_would_refuse_first_is_refused_here_too(world: World, how: str) -> None:
    der = HOSTILE[how](world, "web").chain[0]
    for is_server in (True, False):
        with pytest.raises(InvalidName):
            identify(der, DOMAIN, is_server=is_server)


def test_a_signer_is_told_from_a_service(mesh_pki: Any) -> None:
    signer = der_of(mesh_pki.issue("web", uris=("spiffe://mesh.test/mesh/signer",)))
    identify_signer(signer, DOMAIN)
    with pytest.raises(InvalidName):
        identify(signer, DOMAIN, is_server=True)
    with pytest.raises(InvalidName, match=r"not spiffe://mesh\.test/mesh/signer"):
        identify_signer(der_of(mesh_pki.issue("web")), DOMAIN)
