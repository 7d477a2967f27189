"""Identities on disk, and their exchange under traffic."""

import asyncio
import datetime
import shutil
from pathlib import Path
from typing import Any

import pytest

HOUR = datetime.timedelta(hours=1)


def current(mesh: Any, service: str) -> Path:
    path: Path = mesh.pki.state_dir / "identities" / service / "current"
    return path


async def test_a_start_reads_the_identities_and_their_dates(mesh: Any) -> None:
    status = mesh.planes["near"].identities()["web"]
    directory = current(mesh, "web").resolve()
    assert status.spiffe_id == "spiffe://mesh.test/svc/web"
    assert status.serial == directory.name
    not_before = datetime.datetime.fromisoformat(status.not_before)
    not_after = datetime.datetime.fromisoformat(status.not_after)
    assert not_before < datetime.datetime.now(datetime.UTC) < not_after


async def test_without_an_identity_a_workload_calls_nobody(quiet_mesh: Any) -> None:
    await quiet_mesh.start(services=("mob", "api", "db"))
    assert quiet_mesh.planes["near"].identities()["web"] is None
    client = await quiet_mesh.connect()
    response = await client.get()
    assert (response.status, response.headers["x-mesh-flag"]) == (503, "UF")
    assert b"this proxy has no usable identity for web" in response.body
    quiet_mesh.pki.issue("web")
    quiet_mesh.planes["near"].reload_identities()
    assert (await client.get()).status == 200


async def test_without_an_identity_a_workload_serves_nobody(quiet_mesh: Any) -> None:
    await quiet_mesh.start(services=("web", "mob", "db"))
    client = await quiet_mesh.connect()
    assert (await client.get()).status == 503
    assert quiet_mesh.metric("far", "mesh_inbound_tls_failures_total", reason="server_name")


def garbage_key(mesh: Any) -> None:
    (mesh.pki.issue("api") / "key.pem").write_text("garbage")


def truncated_chain(mesh: Any) -> None:
    path = mesh.pki.issue("api") / "chain.pem"
    path.write_bytes(path.read_bytes()[:200])


def no_key(mesh: Any) -> None:
    (mesh.pki.issue("api") / "key.pem").unlink()


def other_key(mesh: Any) -> None:
    other = mesh.pki.issue("api")
    shutil.copy(other / "key.pem", mesh.pki.issue("api") / "key.pem")


def expired(mesh: Any) -> None:
    mesh.pki.issue("api", starts_in=-2 * HOUR, ends_in=-HOUR)


def other_service(mesh: Any) -> None:
    mesh.pki.issue("api", uris=("spiffe://mesh.test/svc/db",))


def other_mesh(mesh: Any) -> None:
    stranger = type(mesh.pki)(mesh.pki.directory / "stranger")
    mesh.pki.issue("api", issuer=stranger.issuing)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (garbage_key, "not a certificate chain with its key"),
        (truncated_chain, "not a certificate chain with its key"),
        (no_key, "cannot read"),
        (other_key, "key values mismatch"),
        (expired, "expired"),
        (other_service, "names spiffe://mesh.test/svc/db, not spiffe://mesh.test/svc/api"),
        (other_mesh, "would be refused by peers"),
    ],
)
async def test_a_broken_identity_leaves_the_previous_one_in_force(
    mesh: Any, spoil: Any, words: str
) -> None:
    far = mesh.planes["far"]
    before = far.identities()["api"]
    spoil(mesh)
    results = far.reload_identities()
    assert words in results["api"]
    assert results["db"] == far.identities()["db"]
    assert far.identities()["api"] == before
    mesh.planes["near"].reload_identities()
    client = await mesh.connect()
    assert (await client.get()).status == 200


async def test_a_broken_trust_bundle_leaves_everything_in_force(mesh: Any) -> None:
    mesh.pki.trust_bundle.write_text("garbage")
    results = mesh.planes["far"].reload_identities()
    assert all("is not a trust bundle" in str(reason) for reason in results.values())
    client = await mesh.connect()
    assert (await client.get()).status == 200


async def test_an_unchanged_identity_keeps_its_connections(mesh: Any) -> None:
    client = await mesh.connect()
    await client.get()
    for plane in mesh.planes.values():
        plane.reload_identities()
    await client.get()
    assert mesh.metric("near", "mesh_upstream_connections", destination_service="api") == 1
    assert mesh.planes["far"].open_connections == 1


async def test_new_connections_show_the_new_identity(mesh: Any) -> None:
    far, near = mesh.planes["far"], mesh.planes["near"]
    client = await mesh.connect()
    await client.get()
    serial = mesh.pki.issue("web").name
    assert near.reload_identities()["web"].serial == serial
    assert mesh.metric("near", "mesh_upstream_connections", destination_service="api") in (0, 1)
    await client.get()
    (connection,) = far._inbound_ledger.connections
    assert f"{int(connection._transport.ssl_object.getpeercert()['serialNumber'], 16):x}" == serial


async def test_identities_change_under_traffic_without_a_failure(mesh: Any) -> None:
    is_over = False
    statuses: list[int] = []

    async def call() -> None:
        client = await mesh.connect()
        while not is_over:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            statuses.append((await client.response()).status)

    callers = [asyncio.create_task(call()) for _ in range(8)]
    serials = set()
    for _ in range(15):
        for service in ("web", "api"):
            mesh.pki.issue(service)
        for plane in mesh.planes.values():
            plane.reload_identities()
        serials.add(mesh.planes["far"].identities()["api"].serial)
        seen = len(statuses)
        while len(statuses) < seen + 20:
            await asyncio.sleep(0.005)
    is_over = True
    await asyncio.gather(*callers)
    assert len(serials) == 15
    assert set(statuses) == {200}
