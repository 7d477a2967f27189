import datetime
import ssl
from typing import Any

import pytest

from proxy.core.peer import identify
from proxy.model.names import InvalidName, TrustDomain

DOMAIN = TrustDomain("mesh.test")
NAME = "spiffe://mesh.test/svc/web"


def der_of(directory: Any) -> bytes:
    pem = (directory / "chain.pem").read_text()
    return ssl.PEM_cert_to_DER_cert(pem[: pem.index("-----END CERTIFICATE-----") + 26])


def shown(*names: tuple[str, str]) -> dict[str, Any]:
    return {"subjectAltName": names}


def test_a_leaf_names_its_service(mesh_pki: Any) -> None:
    der = der_of(mesh_pki.issue("web"))
    for is_server in (True, False):
        assert identify(shown(("URI", NAME)), der, DOMAIN, is_server=is_server) == "web"


@pytest.mark.parametrize(
    "names",
    [
        (),
        (("URI", NAME), ("URI", NAME)),
        (("URI", NAME), ("URI", "spiffe://mesh.test/svc/api")),
        (("DNS", NAME),),
        (("URI", "spiffe://other.test/svc/web"),),
        (("URI", "spiffe://mesh.test/svc/web\x00.evil"),),
        (("URI", "spiffe://mesh.test/svc/web/../api"),),
        (("URI", "spiffe://mesh.test/svc/Web"),),
        (("URI", "spiffe://mesh.test/ns/web"),),
        (("URI", "SPIFFE://mesh.test/svc/web"),),
        (("URI", "spiffe://mesh.test.evil/svc/web"),),
        (("URI", "spiffe://mesh.test/svc/web?x"),),
    ],
)
def test_anything_but_exactly_one_identity_of_this_mesh_is_refused(
    mesh_pki: Any, names: tuple[tuple[str, str], ...]
) -> None:
    der = der_of(mesh_pki.issue("web"))
    with pytest.raises(InvalidName):
        identify(shown(*names), der, DOMAIN, is_server=True)


def test_a_ca_is_nobody(mesh_pki: Any) -> None:
    der = der_of(mesh_pki.issue("web", is_ca=True))
    with pytest.raises(InvalidName, match="CA"):
        identify(shown(("URI", NAME)), der, DOMAIN, is_server=True)


def test_a_certificate_is_only_what_it_was_issued_for(mesh_pki: Any) -> None:
    from cryptography.x509.oid import ExtendedKeyUsageOID as Usage  # noqa: PLC0415

    server = der_of(mesh_pki.issue("web", uses=(Usage.SERVER_AUTH,)))
    none = der_of(mesh_pki.issue("web", uses=(), ends_in=datetime.timedelta(hours=1)))
    assert identify(shown(("URI", NAME)), server, DOMAIN, is_server=True) == "web"
    for der, is_server in ((server, False), (none, True), (none, False)):
        with pytest.raises(InvalidName, match="not for a TLS"):
            identify(shown(("URI", NAME)), der, DOMAIN, is_server=is_server)
