"""The signer over real TLS: whom it renews, and whom it turns away, at which point and why."""

import asyncio
import contextlib
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from signing.world import API, DOMAIN, HOST, RECORD, WEB, World, make_request

from meshctl.pki import authority
from meshctl.pki.issued import IssuedLog
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.signer import listener as listener_module
from meshctl.signer import service as service_module
from meshctl.signer.service import MAX_BODY_BYTES, StartError
from proxy.model import codec
from proxy.model.names import HostName, TrustDomain, signer_id, signer_server_name

SVC = f"spiffe://{DOMAIN}/svc/"
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


def leaf_of(answer: Any) -> x509.Certificate:
    return x509.load_pem_x509_certificates(answer.body["chain"].encode())[0]


async def test_a_workload_gets_another_leaf_for_its_new_key(world: World, running: Any) -> None:
    settings = world.signer(leaf_life_s=120.0)
    _, port = await running(settings)
    key = ec.generate_private_key(ec.SECP256R1())

    answer = await world.renew(port, world.leaf(), csr=make_request(key))

    assert answer.status == 200
    leaf, issuing = x509.load_pem_x509_certificates(answer.body["chain"].encode())
    assert leaf.public_key() == key.public_key()
    assert authority.host_of(leaf) == HOST
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in san] == [SVC + "api"]
    issuing.verify_directly_issued_by(world.root.certificate)
    assert (leaf.not_valid_after_utc - datetime.now(UTC)).total_seconds() <= 120
    (entry,) = IssuedLog(Path(settings.state_dir) / "issued.jsonl").newest().entries
    assert (entry.serial, entry.host) == (authority.serial_text(leaf), HOST)


async def test_the_request_decides_nothing(world: World, running: Any) -> None:
    """A request that asks for another service's name gets the caller's own."""
    _, port = await running(world.signer())

    answer = await world.renew(port, world.leaf(), csr=make_request(None, SVC + "bank"))

    san = leaf_of(answer).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in san] == [SVC + "api"]


async def test_a_leaf_that_a_signer_made_is_renewed_by_another(world: World, running: Any) -> None:
    first, second = world.signer("first"), world.signer("second")
    (_, port), (_, other) = await running(first), await running(second)
    key = ec.generate_private_key(ec.SECP256R1())
    answer = await world.renew(port, world.leaf(), csr=make_request(key))

    again = await world.renew(other, world.file(key, answer.body["chain"].encode()))

    assert again.status == 200


async def test_the_signer_shows_its_own_identity_to_tls_1_3_only(
    world: World, running: Any
) -> None:
    _, port = await running(world.signer())
    context = world.context(world.leaf())
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=signer_server_name(DOMAIN)
    )
    shown = writer.get_extra_info("ssl_object").getpeercert()
    writer.transport.abort()
    assert shown["subjectAltName"] == (("URI", signer_id(DOMAIN)),)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError):
        await world.renew(port, None, context=context)


@pytest.fixture
def stranger(tmp_path: Path) -> World:
    """Another mesh with the same trust domain and names."""
    return World(tmp_path / "stranger")


def no_certificate(world: World, stranger: World) -> Path | None:
    return None


def of_another_ca(world: World, stranger: World) -> Path:
    return stranger.leaf()


def expired(world: World, stranger: World) -> Path:
    return world.custom(SVC + "api", uses=CLIENT, ends_in=timedelta(seconds=-1))


def for_servers_only(world: World, stranger: World) -> Path:
    return world.custom(SVC + "api", uses=(ExtendedKeyUsageOID.SERVER_AUTH,))


def a_ca(world: World, stranger: World) -> Path:
    signing = authority.create_issuing(world.root, datetime.now(UTC))
    return world.file(signing.key, authority.pem(signing.certificate))


def of_another_trust_domain(world: World, stranger: World) -> Path:
    """OpenSSL does not know name constraints for critical URIs of other kinds, but this one."""
    return world.custom("spiffe://other.test/svc/api", uses=CLIENT)


@pytest.mark.parametrize(
    "make",
    [no_certificate, of_another_ca, expired, for_servers_only, a_ca, of_another_trust_domain],
)
async def test_tls_does_not_let_in(world: World, stranger: World, running: Any, make: Any) -> None:
    service, port = await running(world.signer())

    with pytest.raises(OSError):
        await world.renew(port, make(world, stranger))

    assert service.status().signed == 0


@pytest.mark.parametrize(
    ("names", "more", "reason"),
    [
        ((SVC + "api", SVC + "web"), {}, "exactly one name"),
        ((), {}, "exactly one name"),
        ((f"spiffe://{DOMAIN}/svc/api/admin",), {}, "not a service name"),
        ((f"spiffe://{DOMAIN}/mesh/signer",), {}, "not an identity of a service"),
        ((f"spiffe://{DOMAIN}/mesh/probe",), {}, "not an identity of a service"),
        ((SVC + "api",), {"host": ""}, "does not say which host"),
        ((SVC + "api",), {"host": "One Two"}, "does not say which host"),
        ((SVC + "api",), {"is_ca": True}, "is a CA's"),
        ((SVC + "api",), {"uses": ()}, "not for a TLS client"),
    ],
    ids=str,
)
async def test_a_certificate_that_no_workload_has_is_refused(
    world: World, running: Any, names: tuple[str, ...], more: dict[str, Any], reason: str
) -> None:
    """All are signed by the mesh's own issuing CA: only what they say is wrong."""
    service, port = await running(world.signer())
    if more.get("is_ca"):  # below an issuing CA TLS would refuse another one
        more = {**more, "issuer": authority.create_root(DOMAIN, datetime.now(UTC))}
        world.bundle.write_bytes(
            world.bundle.read_bytes() + authority.pem(more["issuer"].certificate)
        )
        service.reload()

    answer = await world.renew(port, world.custom(*names, **{"uses": CLIENT, **more}))

    assert (answer.status, answer.body["code"]) == (403, "not_an_identity")
    assert reason in answer.body["error"]
    assert service.status().signed == 0


@pytest.mark.parametrize(
    ("service_name", "host"), [(WEB, HOST), (API, HostName("two"))], ids=["service", "host"]
)
async def test_who_is_not_in_the_record_is_revoked(
    world: World, running: Any, service_name: Any, host: HostName
) -> None:
    _, port = await running(world.signer())

    answer = await world.renew(port, world.leaf(service_name, host))

    assert (answer.status, answer.body["code"]) == (403, "revoked")
    assert "meshctl deploy" in answer.body["hint"]


async def test_a_new_record_revokes_and_takes_back_at_a_reload(world: World, running: Any) -> None:
    settings = world.signer()
    service, port = await running(settings)
    leaf, record = world.leaf(), Path(settings.record)
    assert (await world.renew(port, leaf)).status == 200

    record.write_bytes(codec.encode(DeployRecord(hosts={HOST: HostRecord(services=(WEB,))})))
    service.reload()
    assert (await world.renew(port, leaf)).body["code"] == "revoked"
    assert service.status().record_digest == codec.digest(record.read_bytes())

    record.write_bytes(codec.encode(RECORD))
    service.reload()
    assert (await world.renew(port, leaf)).status == 200


async def test_a_reload_of_a_broken_file_changes_nothing_and_says_so(
    world: World, running: Any
) -> None:
    settings = world.signer()
    service, port = await running(settings)
    before = service.status()

    Path(settings.record).write_text("{}x")
    service.reload()

    assert "record.json is not a deploy record" in service.status().reload_error
    assert service.status().record_digest == before.record_digest
    assert (await world.renew(port, world.leaf())).status == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_request"),
        (b"{}", "bad_request"),
        (b'{"csr": "x", "service": "bank"}', "bad_request"),
        (b'{"csr": "-----BEGIN"}', "bad_request"),
        (b'{"csr": "' + b"x" * MAX_BODY_BYTES + b'"}', "bad_request"),
    ],
    ids=["empty", "no-csr", "unknown-field", "no-pem", "too-large"],
)
async def test_a_body_that_is_no_request_is_refused(
    world: World, running: Any, body: bytes, code: str
) -> None:
    service, port = await running(world.signer())

    answer = await world.renew(port, world.leaf(), body=body)

    assert (answer.status, answer.body["code"]) == (400, code)
    assert service.status().signed == 0


async def test_a_key_is_not_certified_twice(world: World, running: Any) -> None:
    _, port = await running(world.signer())
    key = ec.generate_private_key(ec.SECP256R1())

    answer = await world.renew(port, world.leaf(key=key), csr=make_request(key))

    assert (answer.status, answer.body["code"]) == (400, "key_reused")


@pytest.mark.parametrize("line", ["GET /v1/renew", "POST /", "POST /v1/renew/x", "PUT /v1/renew"])
async def test_there_is_nothing_else(world: World, running: Any, line: str) -> None:
    _, port = await running(world.signer())

    assert (await world.renew(port, world.leaf(), line=line)).status == 400


async def test_one_identity_that_asks_too_often_is_put_off_and_others_are_not(
    world: World, running: Any
) -> None:
    record = DeployRecord(hosts={HOST: HostRecord(services=(API, WEB))})
    service, port = await running(world.signer(record=record))
    leaf = world.leaf()

    answers = [await world.renew(port, leaf) for _ in range(12)]

    assert {answer.status for answer in answers[:5]} == {200}
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert int(refused[0].headers["retry-after"]) >= 1
    assert refused[0].body["code"] == "rate_limited"
    assert (await world.renew(port, world.leaf(WEB))).status == 200
    assert service.status().refused == len(refused)


async def test_all_together_get_no_more_than_the_rate(world: World, running: Any) -> None:
    names = [HostName(f"h{number}") for number in range(12)]
    record = DeployRecord(hosts={name: HostRecord(services=(API,)) for name in names})
    _, port = await running(world.signer(record=record, csr_per_s=0.01))

    answers = [await world.renew(port, world.leaf(API, name)) for name in names]

    assert [answer.status for answer in answers] == [200] + [429] * 11
    assert answers[-1].headers["retry-after"] == "100"


@pytest.mark.parametrize("limit", ["MAX_CONNECTIONS", "MAX_PER_ADDRESS"])
async def test_a_silent_connection_is_closed_and_too_many_are_turned_away(
    world: World, running: Any, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(listener_module, limit, 3)
    monkeypatch.setattr(listener_module, "CONNECTION_S", 1.0)
    _, port = await running(world.signer())
    context, name = world.context(world.leaf()), signer_server_name(DOMAIN)
    slow = [
        await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        for _ in range(2)
    ]
    slow[0][1].write(b"POST /v1/renew HTTP/1.1\r\nHost: x\r\nContent-Le")
    bare = await asyncio.open_connection("127.0.0.1", port)  # never begins its handshake

    late = await asyncio.open_connection("127.0.0.1", port)
    assert await asyncio.wait_for(late[0].read(), 30) == b""
    for reader, writer in (*slow, bare):
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.transport.abort()
    late[1].transport.abort()

    async def is_served() -> bool:
        try:
            return (await world.renew(port, world.leaf())).status == 200
        except OSError:
            return False

    async with asyncio.timeout(30):
        while not await is_served():
            await asyncio.sleep(0.05)


async def test_the_signers_own_certificate_is_made_anew_in_time(
    world: World, running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "UPKEEP_S", 0.01)
    ahead = 0.0

    def clock() -> datetime:
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() + ahead, UTC)

    service, _ = await running(world.signer(), clock=clock)
    first = service._known().serving
    ahead = 17 * 3600

    async with asyncio.timeout(30):
        while service._known().serving is first:
            await asyncio.sleep(0.01)

    assert service._known().serving.renew_at > clock()


@pytest.mark.parametrize("missing", ["record", "trust_bundle", "state_dir"])
async def test_without_its_files_it_does_not_start_and_names_the_file(
    world: World, running: Any, missing: str, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(world.signer(), **{missing: str(tmp_path / "nothing")})

    with pytest.raises(StartError, match="nothing"):
        await running(settings)


async def test_a_signer_of_another_mesh_does_not_start(world: World, running: Any) -> None:
    settings = msgspec.structs.replace(world.signer(), trust_domain=TrustDomain("other.test"))

    with pytest.raises(StartError, match=r"for the trust domain mesh.test, not for other.test"):
        await running(settings)


async def test_the_admin_port_shows_status_and_metrics_to_this_host_only(
    world: World, running: Any, unused_tcp_port: int
) -> None:
    _, port = await running(world.signer(admin=unused_tcp_port))
    await world.renew(port, world.leaf())
    await world.renew(port, world.leaf(WEB))

    async def ask(path: str, *lines: str) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
        head = "\r\n".join((f"GET {path} HTTP/1.1", *lines, "Connection: close", "", ""))
        writer.write(head.encode())
        whole = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        head_bytes, _, body = whole.partition(b"\r\n\r\n")
        return head_bytes.split(b" ")[1], body

    here = "Host: localhost"
    assert await ask("/ready", here) == (b"200", b"ready\n")
    assert b'"signed":1' in (await ask("/status", here))[1]
    metrics = (await ask("/metrics", here))[1]
    assert b"mesh_signer_certificates_total 1\n" in metrics
    assert b'mesh_signer_refusals_total{code="revoked"} 1\n' in metrics
    assert (await ask("/status", "Host: evil.test"))[0] == b"403"
    assert (await ask("/status", here, "Origin: http://evil.test"))[0] == b"403"


async def test_a_port_that_is_taken_is_named(world: World, running: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"127.0.0.1:{port}: Address already in use"):
            await running(world.signer(port=port))
