"""Everything has ended and the registry is gone: the mesh back by one command, on real proxies."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from certs.mesh import RealMesh, expired, no_passphrase, now, real_mesh
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import CertificateSigningRequestBuilder, Name

from meshctl.apply.rescue import Rescue, Rescued
from meshctl.apply.trust import look
from meshctl.errors import MeshError
from meshctl.facts.request import layout_of
from meshctl.pki import successor
from meshctl.pki.authority import pem, sign_leaf
from meshctl.pki.rotation import ROTATION_FILE, Phase, Rotation
from meshctl.state import HostRecord

pytestmark = pytest.mark.timeout(400)
LEFT_S = 66
"""Of a leaf's life when it is issued; the least that the CA signs is 60."""
RESCUED_WITHIN_S = 60


async def meshctl(mesh: RealMesh, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from meshctl.cli.app import app; app()",
        *words, "-i", str(mesh.inventory_file),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def rescue(mesh: RealMesh) -> Rescued:
    connections = mesh.connections()
    try:
        return await Rescue(**mesh.common(connections)).run()
    finally:
        await connections.close()


async def gets_through(mesh: RealMesh) -> bool:
    before = mesh.load.done
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(20):
            await mesh.load._connection(1)
    mesh.load.failures.clear()
    return mesh.load.done > before


async def assert_served(mesh: RealMesh) -> None:
    """Every workload under the root in force, by the wire."""
    ca, connections = mesh.ca(), mesh.connections()
    for host in mesh.inventory.hosts:
        transport = await connections.connect(host.name)
        for service in host.services:
            await look(host, transport, ca.trust_domain, service.name, pem(ca.root))
    await connections.close()


def put_leaf(mesh: RealMesh, host_name: str, made: datetime, life_s: float) -> None:
    """An identity as it is on the disk of a host that nobody renewed: its time does not matter."""
    host = mesh.host(host_name)
    issuer = mesh.ca().unlock(no_passphrase)._issuer
    for service in host.services:
        key = ec.generate_private_key(ec.SECP256R1())
        request = (
            CertificateSigningRequestBuilder().subject_name(Name([])).sign(key, hashes.SHA256())
        )
        leaf = sign_leaf(
            issuer,
            request.public_bytes(Encoding.PEM),
            record=mesh.state.read_record(),
            host=host.name,
            service=service.name,
            now=made,
            life_s=life_s,
        )
        current = Path(layout_of(host).identity(service.name)) / "current"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (current / "key.pem").write_bytes(secret)
        (current / "chain.pem").write_bytes(leaf.chain_pem)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[RealMesh]:
    async with real_mesh(tmp_path) as made:
        yield made


async def ending_mesh(mesh: RealMesh, *, root_ends: bool) -> datetime:
    """Everything was made an hour ago, and is about to end: when it does."""
    made = now() - timedelta(hours=1)
    left = 3600 + LEFT_S
    mesh.replace_ca(root_life_s=left if root_ends else 30 * 86400, issuing_life_s=left, made=made)
    await mesh.install()
    await mesh.start()
    await mesh.serve()
    return mesh.ca().issuing.not_valid_after_utc


async def test_all_has_ended_and_consul_is_down_one_command_brings_it_back(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        meshes = []
        for name in ("root", "issuing"):
            folder = tmp_path / name
            folder.mkdir()
            meshes.append(await stack.enter_async_context(real_mesh(folder)))
        ends = [await ending_mesh(mesh, root_ends=mesh is meshes[0]) for mesh in meshes]
        for mesh in meshes:
            await mesh.registry.stop()
        # What ends a certificate is the clock, and nothing tells when it has.
        await asyncio.sleep(max(0, (max(ends) - now()).total_seconds() + 1))
        for mesh in meshes:
            code, out, _ = await meshctl(mesh, "certs", "status", "-o", "json")
            status = json.loads(out)
            assert (code, status["next"]) == (1, "meshctl certs rescue")
            assert all("ended" in leaf["fault"] for leaf in status["leaves"])
            assert not await gets_through(mesh)
            mesh.kill("back")  # and this one does not even run
            old = mesh.ca()
            began = time.monotonic()
            code, out, err = await meshctl(mesh, "certs", "rescue", "--yes", "-o", "json")
            took = time.monotonic() - began
            assert code == 0, err
            document = json.loads(out)
            is_root_new = mesh is meshes[0]
            assert document["root_is_new"] is is_root_new
            assert document["issuing_is_new"] is True
            assert {host["host"]: host["leaves"] for host in document["hosts"]} == {
                "front": ["web"],
                "back": ["api"],
            }
            assert took < RESCUED_WITHIN_S
            print(f"rescued in {took:.1f} s, the root {'too' if is_root_new else 'was good'}")
            await assert_served(mesh)
            assert (mesh.ca().root == old.root) is not is_root_new
            while not await gets_through(mesh):
                assert time.monotonic() - began < RESCUED_WITHIN_S
                await asyncio.sleep(0.2)
            code, out, err = await meshctl(mesh, "certs", "status", "-o", "json")
            assert code == 0, out
        # The root that has ended is retired like any other, and without a wait.
        code, out, err = await meshctl(meshes[0], "certs", "rotate", "root", "--yes", "-o", "json")
        assert code == 0, err
        assert json.loads(out)["is_done"] is True
        assert meshes[0].ca().trust_bundle == (meshes[0].ca().root,)
        assert await gets_through(meshes[0])


async def test_a_proxy_comes_up_ready_with_certificates_that_have_ended(mesh: RealMesh) -> None:
    mesh.replace_ca(root_life_s=9e6, issuing_life_s=8e6, made=expired(7200))
    await mesh.install()
    for host in ("front", "back"):
        put_leaf(mesh, host, expired(3600), 3600)
    await mesh.start()  # raises unless each is ready
    with pytest.raises(MeshError):
        await assert_served(mesh)
    done = await rescue(mesh)
    assert done.is_good, done
    assert (done.is_root_new, done.is_issuing_new) == (False, False)
    await assert_served(mesh)
    await mesh.serve()


async def test_where_nothing_is_wrong_it_fails_no_request(mesh: RealMesh) -> None:
    await mesh.install()
    await mesh.start()
    await mesh.serve()
    ca = mesh.ca()
    pids = [mesh.pid("front"), mesh.pid("back")]
    async with mesh.loaded() as load:
        done = await rescue(mesh)
    assert done.is_good, done
    assert load.failures == []
    assert mesh.ca() == ca
    assert pids == [mesh.pid("front"), mesh.pid("back")]
    await assert_served(mesh)


async def test_one_host_that_fails_keeps_no_other_from_coming_back(mesh: RealMesh) -> None:
    await mesh.install()
    await mesh.start("front")
    # back's proxy cannot start: its settings are damaged.
    (Path(layout_of(mesh.host("back")).current) / "proxy.json").write_text("{")
    code, out, err = await meshctl(mesh, "certs", "rescue", "--yes", "-o", "json")
    assert code == 1, err
    hosts = {host["host"]: host for host in json.loads(out)["hosts"]}
    assert hosts["front"]["error"] == ""
    assert hosts["back"]["error"]
    assert hosts["back"]["hint"]


async def test_a_root_that_ended_in_the_middle_of_a_rotation_is_replaced(mesh: RealMesh) -> None:
    made = expired(3600)
    mesh.replace_ca(root_life_s=3600, issuing_life_s=3600, made=made)
    ca = mesh.ca()
    old = ca.root
    following = successor.prepare(ca, no_passphrase, made, root_life_s=3600, issuing_life_s=3000)
    rotation = Rotation(
        phase=Phase.DISTRIBUTE, started="", since="", old_root=successor.sha256(old)
    )
    mesh.state.write(ROTATION_FILE, rotation)
    ca.with_trust_bundle(old, following)
    record = mesh.state.read_record()
    mesh.state.write_record(type(record)(hosts={mesh.host("front").name: HostRecord()}))
    done = await rescue(mesh)
    assert done.is_root_new
    assert [host.host for host in done.hosts] == ["front"]
    assert "nothing is installed on front" in done.hosts[0].error
    assert mesh.ca().root not in (old, following)
    assert mesh.ca().root.not_valid_after_utc > now() + timedelta(days=365)
    # Again, as after a kill: what was made is kept.
    root = mesh.ca().root
    assert not (await rescue(mesh)).is_root_new
    assert mesh.ca().root == root
