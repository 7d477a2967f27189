"""A signer on a host: certified, started, told, replaced, removed; the program is the real one."""

import asyncio
import dataclasses
import json
import shlex
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from ports import free_ports

from meshctl import artifacts
from meshctl.apply import signers, steps
from meshctl.apply.operate import Remote, StepFailed
from meshctl.errors import Unreachable
from meshctl.facts import request
from meshctl.facts.request import layout_of
from meshctl.inventory.parse import parse
from meshctl.onhost.supervisor import supervisor
from meshctl.pki.authority import create_root, pem
from meshctl.pki.record import DeployRecord, HostRecord
from meshctl.pki.signers import SignerCertificates
from meshctl.plan import model
from meshctl.plan.model import Action, Phase, Step
from meshctl.transport.local import LocalTransport
from proxy.model.names import HostName, ServiceName, TrustDomain

DOMAIN = TrustDomain("mesh.test")
RELEASE, BROKEN = "1" * 16, "2" * 16


def record(*services: str) -> DeployRecord:
    made = HostRecord(services=tuple(map(ServiceName, services)))
    return DeployRecord(hosts={HostName("ctl"): made})


class Control:
    """A control host below a folder, and what a deploy does to its signer."""

    def __init__(self, folder: Path, port: int, admin_port: int) -> None:
        text = (
            "version: 1\nconsul: {mode: existing}\n"
            f"certificates: {{signer_port: {port}}}\nproxy: {{inbound_address: 127.0.0.1}}\n"
            "hosts:\n"
            f"  - {{name: ctl, transport: local, root: {folder / 'host'}, roles: [control]}}\n"
        )
        self.inventory = parse(text, folder / "inventory.yaml")
        (self.host,) = self.inventory.hosts
        self.layout = layout_of(self.host)
        self.admin_port = admin_port
        self.remote = Remote(
            host=self.host,
            transport=LocalTransport(self.host.name),
            python=sys.executable,
            owner="me",
        )
        self.root = create_root(DOMAIN, datetime.now(UTC))
        self.bundle = pem(self.root.certificate)
        self.kept = SignerCertificates(folder)
        for digest, module in ((RELEASE, "meshctl.signer"), (BROKEN, "there.is.no.such")):
            self._release(digest, module)
        for path in (self.layout.signer_etc, self.layout.signer_state):
            Path(path).mkdir(parents=True, mode=0o700)

    def _release(self, digest: str, module: str) -> None:
        python = Path(self.layout.release(digest), "bin", "python")
        python.parent.mkdir(parents=True)
        # -I leaves out the folder of the sources, where the package is when it is not installed.
        python.write_text(
            f'#!/bin/sh\n[ "$3" = meshctl.signer ] && set -- "$1" "$2" {module} "$4" "$5"\n'
            f'exec {shlex.quote(sys.executable)} "$@"\n'
        )
        python.chmod(0o755)
        Path(self.layout.release(digest), ".complete").touch()

    def supervisor(self) -> dict[str, Any]:
        settings = f"{self.layout.signer_etc}/signer.json"
        return {
            "kind": "process",
            "argv": [
                f"{self.layout.signer}/bin/python", "-I", "-m", "meshctl.signer",
                "--settings", settings,
            ],
            "pid_file": f"{self.host.root}/run/signer.pid",
            "log_file": f"{self.host.root}/signer.log",
            "marker": settings,
        }  # fmt: skip

    async def certify(self, now: datetime | None = None) -> x509.Certificate:
        moment = now or datetime.now(UTC)
        return await signers.certify(
            self.remote,
            self.root,
            trust_bundle=self.bundle,
            trust_domain=DOMAIN,
            now=moment,
            keep=lambda host, made: self.kept.keep(host, made, moment),
            release=RELEASE,
        )

    async def run(self, verb: str, known: DeployRecord, release: str = RELEASE) -> None:
        files = artifacts.signer_files(
            self.inventory,
            self.host,
            trust_domain=DOMAIN,
            trust_bundle=self.bundle,
            record=known,
            release=release,
        )
        link = Path(self.layout.signer)
        payload = model.RunSigner(
            verb=verb,
            release=release,
            expected=link.readlink().name if link.is_symlink() else "",
            files=files,
            unit=None,
            record_digest=artifacts.signer_digest(files[2].content),
            bundle_digest=artifacts.signer_digest(files[1].content),
        )
        await self.perform(Action.START_SIGNER, payload)

    async def perform(self, action: Action, payload: Any) -> None:
        step = Step(
            host=self.host.name,
            action=action,
            title="",
            why="",
            phase=Phase.SIGNER,
            payload=payload,
        )
        await steps.perform(step, self.remote, Means(self))  # type: ignore[arg-type]

    def status(self) -> Any:
        address = f"http://127.0.0.1:{self.admin_port}/status"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)

    def services(self) -> list[str]:
        text = Path(self.layout.signer_etc, "record.json").read_text()
        return list(json.loads(text)["hosts"]["ctl"]["services"])


class Means:
    """As much of it as the steps of a signer take."""

    def __init__(self, control: Control) -> None:
        self.signer_certificates = control.kept
        self.one_signer = asyncio.Lock()


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    port, admin_port = free_ports(2)
    made = Control(tmp_path, port, admin_port)
    for module in (artifacts, signers, steps, request):
        monkeypatch.setattr(module, "SIGNER_ADMIN_PORT", admin_port)
    for module in (signers, steps):
        monkeypatch.setattr(module, "signer_supervisor", made.supervisor)
    monkeypatch.setattr(steps, "SIGNER_START_S", 30)
    yield made
    supervisor(made.supervisor()).stop(30)


async def test_a_signer_is_certified_started_and_says_what_it_has_in_force(
    control: Control,
) -> None:
    certificate = await control.certify()
    await control.run("start", record("web"))
    status = control.status()
    assert status["release"] == RELEASE
    assert status["signer"]["serial"] == f"{certificate.serial_number:x}"
    assert control.kept.read() == {"ctl": (certificate,)}
    assert Path(control.layout.signer).readlink() == Path(control.layout.release(RELEASE))


async def test_a_new_certificate_is_taken_without_a_restart(control: Control) -> None:
    first = await control.certify()
    await control.run("start", record("web"))
    started = control.status()["started_at"]
    second = await control.certify()
    status = control.status()
    assert status["signer"]["serial"] == f"{second.serial_number:x}"
    assert status["started_at"] == started
    # Leaves of the first go on being good until it ends.
    assert control.kept.read()["ctl"] == (second, first)  # type: ignore[index]


async def test_it_is_told_who_may_have_identities_and_knows_when_that_returns(
    control: Control,
) -> None:
    await control.certify()
    await control.run("start", record("web"))
    before = control.status()["record_digest"]
    assert await signers.tell(control.remote, record("web", "api"))
    file = artifacts.signer_record(control.host, record("web", "api"))
    assert control.status()["record_digest"] == artifacts.signer_digest(file.content) != before


async def test_a_host_without_a_signer_is_told_nothing(control: Control) -> None:
    Path(control.layout.signer_etc).rmdir()
    assert not await signers.tell(control.remote, record("web"))
    assert not Path(control.layout.signer_etc).exists()


async def test_a_release_that_does_not_get_ready_gives_way_to_the_one_before(
    control: Control,
) -> None:
    await control.certify()
    await control.run("start", record("web"))
    with pytest.raises(StepFailed) as refused:
        await control.run("restart", record("api"), BROKEN)
    assert refused.value.outcome == "rolled-back"
    assert "there.is.no.such" in refused.value.output  # the reason, from its own log
    assert control.status()["release"] == RELEASE
    assert control.services() == ["web"]


async def test_a_first_one_that_does_not_get_ready_is_stopped_and_leaves_no_link(
    control: Control,
) -> None:
    await control.certify()
    with pytest.raises(StepFailed) as refused:
        await control.run("start", record("web"), BROKEN)
    assert refused.value.outcome == "stopped"
    assert not Path(control.layout.signer).is_symlink()
    assert not Path(control.layout.signer_etc, "signer.json").exists()
    await control.run("start", record("web"))
    assert control.status()["release"] == RELEASE


async def test_a_plan_that_was_made_for_another_release_is_refused(control: Control) -> None:
    await control.certify()
    await control.run("start", record("web"))
    stale = model.RunSigner(
        verb="restart",
        release=BROKEN,
        expected="3" * 16,
        files=(),
        unit=None,
        record_digest="",
        bundle_digest="",
    )
    with pytest.raises(StepFailed) as refused:
        await control.perform(Action.RESTART_SIGNER, stale)
    assert (refused.value.code, refused.value.outcome) == ("moved", "")
    assert control.status()["release"] == RELEASE


async def test_a_removed_signer_leaves_neither_a_process_nor_a_key(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    await control.certify()
    await control.run("start", record("web"))
    monkeypatch.setattr(steps, "SIGNER_USER", "no-such-user-of-a-test")
    for _ in range(2):  # the second time there is nothing to do
        await control.perform(Action.REMOVE_SIGNER, model.RemoveSigner())
    with pytest.raises(OSError, match="refused"):
        control.status()
    for path in (control.layout.signer, control.layout.signer_etc, control.layout.signer_state):
        assert not Path(path).exists()
    assert control.kept.read() == {}


async def test_nothing_is_installed_that_the_trust_bundle_does_not_lead_to(
    control: Control,
) -> None:
    await control.certify()
    await control.run("start", record("web"))
    serial = control.status()["signer"]["serial"]
    stranger = create_root(DOMAIN, datetime.now(UTC) + timedelta(seconds=-5))
    before, control.root = control.root, stranger
    with pytest.raises(Exception, match="failed on ctl"):
        await control.certify()
    control.root = before
    assert control.status()["signer"]["serial"] == serial


def test_the_files_of_a_signer_are_for_it_to_read_and_for_root_to_write(control: Control) -> None:
    host = dataclasses.replace(control.host, root="")
    files = artifacts.signer_files(
        control.inventory,
        host,
        trust_domain=DOMAIN,
        trust_bundle=control.bundle,
        record=record("web"),
        release=RELEASE,
    )
    assert {(file.owner, file.group, file.mode) for file in files} == {
        ("root", "meshctl-signer", 0o640)
    }
    assert [file.path for file in files] == [
        f"/etc/meshctl/signer/{name}" for name in ("signer.json", "trust-bundle.pem", "record.json")
    ]


async def test_signers_restart_one_after_the_other_and_reload_at_once(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    release = asyncio.Event()

    async def run_signer(payload: model.RunSigner, remote: Remote) -> None:
        order.append(payload.verb)
        await release.wait()
        order.append(f"{payload.verb} done")

    monkeypatch.setattr(steps, "_run_signer", run_signer)
    means = Means(control)

    def step(verb: str) -> Step:
        payload = model.RunSigner(
            verb=verb, release="", expected="", files=(), unit=None, record_digest="",
            bundle_digest="",
        )  # fmt: skip
        return Step(
            host=control.host.name,
            action=Action.RESTART_SIGNER,
            title="",
            why="",
            payload=payload,
        )

    tasks = [
        asyncio.create_task(steps.perform(step(verb), control.remote, means))  # type: ignore[arg-type]
        for verb in ("restart", "restart", "reload", "reload")
    ]
    while len(order) < 3:
        await asyncio.sleep(0)
    assert order == ["restart", "reload", "reload"]
    release.set()
    await asyncio.gather(*tasks)
    assert order.index("restart done") < len(order) - 1 - order[::-1].index("restart")


class Gone:
    """Connects to nobody."""

    async def connect(self, host: HostName) -> Any:
        raise Unreachable(f"{host} went away")


async def test_a_signer_that_cannot_be_told_stops_nobody_and_is_named(control: Control) -> None:
    failed = await signers.tell_all(
        control.inventory, [control.host], record("web"), Gone(), owner="me"
    )
    assert {name: str(error) for name, error in failed.items()} == {"ctl": "ctl went away"}
