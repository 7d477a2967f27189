"""The rotation of the root on real proxies, under load: killed everywhere, held up, taken back."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from certs.mesh import OWNER, RealMesh, now, real_mesh

from meshctl.apply import root_rotation, trust
from meshctl.apply.issue import Issuance
from meshctl.apply.members import Members
from meshctl.apply.placed import Reached, reached
from meshctl.apply.root_rotation import Blocked, RootRotation
from meshctl.apply.rotate import renew
from meshctl.apply.trust import inbound_of, look
from meshctl.errors import Refused, Unreachable
from meshctl.facts.request import layout_of
from meshctl.pki import successor
from meshctl.pki.authority import Issuer, create_root, pem
from meshctl.pki.probe import probing
from meshctl.pki.rotation import Phase
from meshctl.pki.served import probe_trust
from meshctl.pki.store import CaStore
from meshctl.transport import Connector, Transport
from proxy.model.names import HostName, server_name

pytestmark = pytest.mark.timeout(600)
ORDER = ("prepare", "distribute", "switch", "reissue", "prove", "retire")

KILLED = """\
import os, signal, sys
from meshctl.state import StateDir
when, phase = sys.argv[1:3]
sys.argv = ["meshctl", *sys.argv[3:]]
real = StateDir.write
before = StateDir.read

def write(self, name, value):
    if name == "rotation.json" and value.phase == phase:
        path = self.path / name
        old = before(self, name, type(value)) if path.exists() else None
        is_new_phase = old is None or old.phase != phase
        has_confirmed_more = not is_new_phase and old.hosts != value.hosts
        if when == "before" and is_new_phase:
            os.kill(os.getpid(), signal.SIGKILL)
        if (when == "after" and is_new_phase) or (when == "within" and has_confirmed_more):
            real(self, name, value)
            os.kill(os.getpid(), signal.SIGKILL)
    real(self, name, value)

StateDir.write = write
from meshctl.cli.app import app
app()
"""
"""meshctl that ends, as by ``kill -9``, around what it writes down about a phase."""


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[RealMesh]:
    async with real_mesh(tmp_path) as made:
        await made.install()
        await made.start()
        await made.serve()
        yield made


async def meshctl(
    mesh: RealMesh, *words: str, program: tuple[str, ...] = ()
) -> tuple[int, str, str]:
    """Exit code (negative: by that signal), standard output, standard error."""
    start = program or ("-c", "from meshctl.cli.app import app; app()")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *start, *words, "-i", str(mesh.inventory_file),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def rotation_file(mesh: RealMesh) -> Path:
    return mesh.state.path / "rotation.json"


async def assert_new_root_everywhere(mesh: RealMesh, old: Any) -> None:
    """By the wire and by the files: the new root alone."""
    ca = mesh.ca()
    assert ca.root != old
    assert ca.trust_bundle == (ca.root,)
    assert not rotation_file(mesh).exists()
    connections = mesh.connections()
    for host in mesh.inventory.hosts:
        transport = await connections.connect(host.name)
        for service in host.services:
            await look(host, transport, ca.trust_domain, service.name, pem(ca.root))
        current = Path(layout_of(host).current)
        assert (current / "trust-bundle.pem").read_bytes() == pem(ca.root)
    await connections.close()


async def test_a_probe_is_believed_under_the_trusted_root_and_under_no_other(
    mesh: RealMesh,
) -> None:
    ca, host = mesh.ca(), mesh.host("back")
    name = server_name(ca.trust_domain, host.services[0].name)
    mine = probing(ca.unlock_root(lambda: pytest.fail("not encrypted")), now())
    foreign = probing(create_root(ca.trust_domain, now()), now())
    address = inbound_of(host)
    assert await probe_trust(address, name, mine) is True
    assert await probe_trust(address, name, foreign) is False
    mesh.kill("back")
    with pytest.raises(Unreachable, match=name):
        await probe_trust(address, name, mine)


async def test_what_ends_a_probe_without_a_word_proves_nothing(mesh: RealMesh) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = inbound_of(mesh.host("back"))
        upstream, onwards = await asyncio.open_connection(target.host, target.port)
        # The whole of the handshake passes, but not what the proxy says after it.
        onwards.write(await reader.read(65536))
        writer.write(await upstream.read(65536))
        await reader.read(65536)
        onwards.transport.abort()
        writer.transport.abort()

    ca = mesh.ca()
    name = server_name(ca.trust_domain, mesh.host("back").services[0].name)
    probe = probing(ca.unlock_root(lambda: pytest.fail("not encrypted")), now())
    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        address = type(inbound_of(mesh.host("back")))(host="127.0.0.1", port=port)
        with pytest.raises(Unreachable):
            await probe_trust(address, name, probe)


async def test_a_rotation_under_load_fails_no_request(mesh: RealMesh) -> None:
    old = mesh.ca().root
    pids = {host.name: mesh.pid(host.name) for host in mesh.inventory.hosts}
    connections = mesh.connections()
    async with mesh.loaded() as load:
        rotating = RootRotation(**mesh.common(connections))
        outcome = await rotating.run()
        assert not outcome.is_done, "the old root stays for twice the life of a leaf"
        assert outcome.rotation.phase is Phase.RETIRE
        assert mesh.ca().trust_bundle == (old, mesh.ca().root)
        assert successor.retiring_root(mesh.ca()) == old
        before = load.done
        outcome = await RootRotation(**mesh.common(connections)).run(retire_now=True)
        assert outcome.is_done
        while load.done < before + 200:
            await asyncio.sleep(0.01)
    await connections.close()
    assert load.failures == []
    await assert_new_root_everywhere(mesh, old)
    assert pids == {host.name: mesh.pid(host.name) for host in mesh.inventory.hosts}
    assert not (mesh.ca().folder / "retiring").exists()


async def test_killed_around_every_phase_it_goes_on_and_fails_no_request(mesh: RealMesh) -> None:
    old = mesh.ca().root
    points = [
        (when, phase)
        for phase in ORDER
        for when in ("before", "after", "within")
        if not (when == "within" and phase in ("prepare", "switch"))
    ]
    command = ("certs", "rotate", "root", "--yes", "--retire-now", "-o", "json")
    async with mesh.loaded() as load:
        for when, phase in points:
            code, _, err = await meshctl(mesh, *command, program=("-c", KILLED, when, phase))
            assert code == -9, (when, phase, err)
            mesh.ca().unlock(lambda: pytest.fail("not encrypted"))  # it opens, wherever it was cut
            if rotation_file(mesh).exists():
                code, out, _ = await meshctl(mesh, "certs", "status", "-o", "json")
                assert code == 0, (when, phase, out)
                status = json.loads(out)
                assert status["rotation"]["phase"] in ORDER
                assert status["next"] == "meshctl certs rotate root"
        code, out, err = await meshctl(mesh, *command)
        assert code == 0, err
        assert json.loads(out)["is_done"] is True
    assert load.failures == []
    assert load.done > 500
    await assert_new_root_everywhere(mesh, old)
    code, out, err = await meshctl(mesh, "certs", "status", "-o", "json")
    assert (code, json.loads(out)["rotation"]) == (0, None), err


class Away(Connector):
    """One host cannot be reached."""

    def __init__(self, inner: Connector, name: str) -> None:
        self.inner, self.name = inner, name

    async def connect(self, host: HostName) -> Transport:
        if host == self.name:
            raise Unreachable(f"{host} does not answer")
        return await self.inner.connect(host)

    async def close(self) -> None:
        await self.inner.close()


@pytest.mark.parametrize("phase", ["distribute", "reissue", "prove", "retire"])
async def test_a_host_that_cannot_be_reached_holds_it_up_and_loses_nothing(
    mesh: RealMesh, phase: str
) -> None:
    old = mesh.ca().root
    connections = mesh.connections()
    away = Away(connections, "nobody")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith(phase):
            away.name = "back"

    async with mesh.loaded() as load:
        rotating = RootRotation(**{**mesh.common(away), "say": say})
        with pytest.raises(Blocked, match=f"stops at {phase}: back .*back does not answer") as why:
            await rotating.run(retire_now=True)
        assert "meshctl certs rotate root" in why.value.hint
        assert "take it out of the inventory, run meshctl deploy" in why.value.hint
        assert why.value.exit_code != 0
        assert json.loads(rotation_file(mesh).read_text())["phase"] == phase
        if phase != "distribute":
            assert successor.retiring_root(mesh.ca()) == old, "nothing is retired"
        away.name = "nobody"
        outcome = await RootRotation(**mesh.common(away)).run(retire_now=True)
        assert outcome.is_done
    await connections.close()
    assert load.failures == []
    await assert_new_root_everywhere(mesh, old)


async def test_the_message_of_a_host_that_holds_it_up_names_it_and_what_to_do(
    mesh: RealMesh,
) -> None:
    mesh.kill("back")
    code, out, err = await meshctl(mesh, "certs", "rotate", "root", "--yes")
    assert code == 1, err
    assert out == ""
    assert "the rotation of the root stops at distribute: back did not come along" in err
    assert "bring back back and run meshctl certs rotate root again" in err
    code, out, _ = await meshctl(mesh, "certs", "status", "-o", "json")
    assert code == 1
    rotation = json.loads(out)["rotation"]
    confirmed = {entry["host"]: bool(entry["trusts"]) for entry in rotation["hosts"]}
    assert confirmed == {"front": True}
    await mesh.start("back")
    code, _, err = await meshctl(mesh, "certs", "rotate", "root", "--yes", "--retire-now")
    assert code == 0, err


@pytest.mark.parametrize(
    ("phase", "said"),
    [("distribute", "does not trust the new root"), ("retire", "trusts the old root")],
)
async def test_a_trust_bundle_that_is_not_in_force_is_noticed_on_the_wire(
    mesh: RealMesh, phase: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = mesh.connections()
    if phase == "retire":
        await RootRotation(**mesh.common(connections)).run()

    async def lost(*_: object) -> None:
        """As if the file had not arrived, or the proxy had not read it."""

    monkeypatch.setattr(trust, "give_bundle", lost)
    with pytest.raises(Blocked, match=f"stops at {phase}.*{said}"):
        await RootRotation(**mesh.common(connections)).run(retire_now=True)
    monkeypatch.undo()
    assert (mesh.ca().folder / "retiring").exists() is (phase == "retire")
    assert (await RootRotation(**mesh.common(connections)).run(retire_now=True)).is_done
    await connections.close()


async def test_a_leaf_that_came_in_under_the_old_root_is_issued_anew(mesh: RealMesh) -> None:
    """A renewal may have been on its way while the issuers were switched."""
    connections = mesh.connections()
    away = Away(connections, "nobody")
    host = mesh.host("back")
    late = mesh.ca().unlock(lambda: pytest.fail("not encrypted"))

    def say(line: str) -> None:
        if line.startswith("prove"):
            away.name = "back"

    with pytest.raises(Blocked, match="stops at prove"):
        await RootRotation(**{**mesh.common(away), "say": say}).run()
    async with reached(host, connections, OWNER) as there:
        issuance = Issuance(
            signer=late,
            record=mesh.state.read_record(),
            trust_domain=mesh.state.trust_domain,
            now=now,
        )
        services = [service.name for service in host.services]
        (done,) = await renew(there, services, issuance, mesh.ca().trust_bundle_pem)
        assert not done.error
    old = successor.retiring_root(mesh.ca())
    assert (await RootRotation(**mesh.common(connections)).run(retire_now=True)).is_done
    await connections.close()
    await assert_new_root_everywhere(mesh, old)


async def test_every_signer_is_certified_before_a_leaf_is_issued(
    mesh: RealMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens on a signer's host is the lab's to try; here is when it does."""
    real = root_rotation.members

    def all_are_signers(*arguments: Any) -> Members:
        found = real(*arguments)
        return replace(
            found, deployed=tuple(replace(each, is_signer=True) for each in found.deployed)
        )

    certified: list[tuple[str, str]] = []
    broken = {"back"}

    async def certify(there: Reached, ca: CaStore, root: Issuer, _: datetime) -> None:
        if there.host.name in broken:
            raise Unreachable(f"the signer on {there.host.name} does not answer")
        assert root.certificate == ca.root != old
        certified.append((str(there.host.name), rotation_file(mesh).read_text()))

    monkeypatch.setattr(root_rotation, "members", all_are_signers)
    monkeypatch.setattr(root_rotation, "certify", certify)
    old = mesh.ca().root
    connections = mesh.connections()
    with pytest.raises(Blocked, match=r"stops at switch: back .*the signer on back"):
        await RootRotation(**mesh.common(connections)).run(retire_now=True)
    assert [name for name, _ in certified] == ["front"], "one keeps no other from its turn"
    with pytest.raises(Refused, match="no way back"):
        await RootRotation(**mesh.common(connections)).abort()
    broken.clear()
    certified.clear()
    assert (await RootRotation(**mesh.common(connections)).run(retire_now=True)).is_done
    await connections.close()
    assert [name for name, _ in certified] == ["front", "back"]
    assert all(json.loads(state)["phase"] == "switch" for _, state in certified)


async def test_an_abort_before_the_switch_leaves_the_old_root_alone(mesh: RealMesh) -> None:
    ca = mesh.ca()
    connections = mesh.connections()
    away = Away(connections, "back")
    async with mesh.loaded() as load:
        with pytest.raises(Blocked):
            await RootRotation(**mesh.common(away)).run()
        away.name = "nobody"
        assert await RootRotation(**mesh.common(away)).abort() == {}
    assert load.failures == []
    assert mesh.ca() == ca
    assert not rotation_file(mesh).exists()
    for host in mesh.inventory.hosts:
        bundle = Path(layout_of(host).current) / "trust-bundle.pem"
        assert bundle.read_bytes() == ca.trust_bundle_pem
    with pytest.raises(Refused, match="no rotation of the root is under way"):
        await RootRotation(**mesh.common(away)).abort()
    await connections.close()


async def test_there_is_no_abort_after_the_switch(mesh: RealMesh) -> None:
    connections = mesh.connections()
    await RootRotation(**mesh.common(connections)).run()
    with pytest.raises(Refused, match="no way back"):
        await RootRotation(**mesh.common(connections)).abort()
    await connections.close()


async def test_leaves_can_be_rotated_in_the_middle(mesh: RealMesh) -> None:
    connections = mesh.connections()
    away = Away(connections, "back")
    for _ in range(2):
        with pytest.raises(Blocked):
            await RootRotation(**mesh.common(away)).run()
        code, out, err = await meshctl(mesh, "certs", "rotate", "--yes", "-o", "json")
        assert code == 0, err
        assert {entry["host"] for entry in json.loads(out)["rotated"]} == {"front", "back"}
    away.name = "nobody"
    assert (await RootRotation(**mesh.common(away)).run(retire_now=True)).is_done
    await connections.close()


async def test_new_intermediates_leave_the_root_and_fail_no_request(mesh: RealMesh) -> None:
    before = mesh.ca()
    async with mesh.loaded() as load:
        code, out, err = await meshctl(
            mesh, "certs", "rotate", "intermediates", "--yes", "-o", "json"
        )
        assert code == 0, err
    assert load.failures == []
    after = mesh.ca()
    assert (after.root, after.issuing == before.issuing) == (before.root, False)
    done = json.loads(out)
    assert done["issuing"]["serial"] == f"{after.issuing.serial_number:x}"
    assert done["signers"] == []
    assert {entry["service"] for entry in done["rotated"]} == {"web", "api"}


async def test_a_host_that_was_never_deployed_to_is_not_waited_for(mesh: RealMesh) -> None:
    record = mesh.state.read_record()
    mesh.state.write_record(
        type(record)(hosts={name: have for name, have in record.hosts.items() if name == "back"})
    )
    connections = mesh.connections()
    outcome = await RootRotation(**mesh.common(connections)).run(retire_now=True)
    await connections.close()
    assert outcome.is_done
    assert outcome.not_deployed == ("front",)
    assert set(outcome.rotation.hosts) == {"back"}
