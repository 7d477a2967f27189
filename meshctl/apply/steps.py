"""How each kind of step is done on a host: a function from its payload to commands there."""

import asyncio
import contextlib
from typing import Any, assert_never
from urllib.parse import urlsplit

from meshctl.apply.issue import issue
from meshctl.apply.means import Means
from meshctl.apply.operate import Remote, file_argument
from meshctl.apply.signers import certify, signer_supervisor
from meshctl.artifacts import (
    SIGNER_START_S,
    SIGNER_STOP_S,
    START_TIMEOUT_S,
    STOP_MARGIN_S,
)
from meshctl.bundle.install import install
from meshctl.facts.request import layout_of, pid_file, uses_systemd
from meshctl.inventory.model import Host
from meshctl.layout import (
    CONSUL_UNIT,
    PROXY_UNIT,
    SIGNER_ADMIN_PORT,
    SIGNER_UNIT,
    SIGNER_USER,
)
from meshctl.plan import model
from meshctl.plan.model import Step
from meshctl.rpctls import server_name
from meshctl.transport import files

CONSUL_READY_S = 30.0
LEADER_S = 60.0
CONSUL_KEYS_S = 30.0


async def perform(step: Step, remote: Remote, means: Means) -> None:
    """Raises MeshError. Whatever was done before it raised is done again harmlessly."""
    layout = layout_of(remote.host)
    match step.payload:
        case model.Prepare(users=users, directories=directories):
            await remote.operate(
                "prepare",
                users=users,
                directories=[
                    {
                        "path": made.path,
                        "mode": made.mode,
                        "owner": made.owner,
                        "group": made.group,
                    }
                    for made in directories
                ],
            )
        case model.PushConsul(consul=consul, path=path):
            data = await asyncio.to_thread(consul.binary.read_bytes)
            await files.put(remote.transport, path, data, 0o755, parents=True)
            means.observer.pushed(remote.host.name, len(data))
        case model.WriteFiles(files=written, link=link):
            await remote.operate(
                "write",
                files=[file_argument(remote.host, file) for file in written],
                link=link,
            )
            means.observer.pushed(remote.host.name, sum(len(file.content) for file in written))
        case model.CertifyConsul() as payload:
            await _certify_consul(payload, remote, means)
        case model.StartConsul() as payload:
            await _start_consul(payload, remote, means)
        case model.PushWheels(wheels=wheels, directory=directory):
            for wheel in wheels:  # one by one: what arrived stays, when the rest does not
                data = await asyncio.to_thread(wheel.path.read_bytes)
                await files.put(remote.transport, f"{directory}/{wheel.name}", data)
                means.observer.pushed(remote.host.name, len(data))
        case model.InstallRelease(bundle=bundle, python=python):
            await install(
                remote.transport,
                bundle,
                python=python,
                wheels_dir=layout.wheels,
                release=layout.release(bundle.digest),
            )
        case model.IssueLeaf() as payload:
            await issue(
                means.issuance, remote, payload.service,
                release=payload.release, config=payload.config,
            )  # fmt: skip
        case model.RemoveLeaf(service=service):
            await remote.operate("remove-leaf", path=layout.identity(service))
        case model.Service() as payload:
            if payload.verb == "restart":
                async with means.taking_turns(remote.host):
                    await _bring_up(payload, remote)
            else:
                await _bring_up(payload, remote)
        case model.CertifySigner(release=digest):
            await _certify(digest, remote, means)
        case model.RunSigner() as payload:
            # A reload refuses nobody; while one restarts, the others are there.
            gate = means.one_signer if payload.verb == "restart" else contextlib.nullcontext()
            async with gate:
                await _run_signer(payload, remote)
        case model.RemoveSigner():
            await _remove_signer(remote, means)
        case model.Prune(releases=releases, configs=configs, wheels=names, consul=binaries):
            await remote.operate(
                "prune",
                current=layout.current,
                previous=layout.previous,
                configs=f"{layout.prefix}/configs",
                signer=layout.signer,
                names={
                    f"{layout.prefix}/releases": releases,
                    f"{layout.prefix}/configs": configs,
                    layout.wheels: names,
                    layout.consul_dir: binaries,
                },
            )
        case model.StartRegistry() | model.Publish() | model.SetUpAccess() | model.TrimAccess():
            raise AssertionError("a step of the mesh is not done on a host")
        case _ as never:
            assert_never(never)


def proxy_supervisor(host: Host) -> dict[str, Any]:
    """How ``meshctl.onhost.supervisor`` finds the proxy of ``host``."""
    if uses_systemd(host):
        return {"kind": "systemd", "unit": PROXY_UNIT}
    layout = layout_of(host)
    return {
        "kind": "process",
        "argv": [layout.python, "-I", "-m", "proxy", "--settings", layout.settings],
        "pid_file": pid_file(host),
        "log_file": log_file(host),
        "marker": layout.settings,
    }


def proxy_log(host: Host) -> str:
    """Where an operator reads what the proxy of ``host`` says."""
    if uses_systemd(host):
        return f"`journalctl -u {PROXY_UNIT}` on {host.name}"
    return log_file(host)


def log_file(host: Host) -> str:
    """Of a proxy without systemd."""
    return f"{host.root}/var/log/meshctl-proxy.log"


def consul_supervisor() -> dict[str, Any]:
    return {"kind": "systemd", "unit": CONSUL_UNIT}


def stop_timeout_s(host: Host) -> float:
    return host.proxy.drain_s + STOP_MARGIN_S


def authority(url: str) -> str:
    """``host:port`` of an HTTP URL."""
    return urlsplit(url).netloc


async def _start_consul(payload: model.StartConsul, remote: Remote, means: Means) -> None:
    api = authority(payload.address)

    async def start() -> None:
        await remote.operate(
            "start-consul",
            supervisor=consul_supervisor(),
            api=api,
            ready_s=CONSUL_READY_S,
            timeout_s=CONSUL_READY_S + 180,
        )
        if means.consul_ca is not None:
            means.consul_ca.confirm(remote.host.name)

    if not (payload.is_restart and payload.is_server):
        await start()
        return
    async with means.one_server:
        await start()
        await wait_leader(remote, payload.address, servers=1)


async def _certify_consul(payload: model.CertifyConsul, remote: Remote, means: Means) -> None:
    assert means.consul_ca is not None, "planned for a managed Consul only"
    layout = layout_of(remote.host)
    python = f"{layout.release(payload.release)}/bin/python"
    keys = (python, "-I", "-m", "meshctl.signer.consul_keys")
    where = ("--directory", layout.consul_tls)
    request = await remote.run(*keys, "request", *where, timeout_s=CONSUL_KEYS_S)
    made = means.consul_ca.certify(remote.host.name, request, payload.datacenter, means.now())
    name = ("--name", server_name(payload.datacenter))
    await remote.run(*keys, "install", *where, *name, stdin=made, timeout_s=CONSUL_KEYS_S)


async def wait_leader(remote: Remote, address: str, *, servers: int) -> None:
    """Raises StepFailed when ``remote``'s agent knows no leader in time."""
    await remote.operate(
        "wait-leader",
        api=authority(address),
        servers=servers,
        ready_s=LEADER_S,
        timeout_s=LEADER_S + 10,
    )


async def _certify(release: str, remote: Remote, means: Means) -> None:
    assert means.root is not None, "a plan that certifies is carried out with an unlocked root"
    now, kept = means.now(), means.signer_certificates
    await certify(
        remote,
        means.root,
        trust_bundle=means.trust_bundle,
        trust_domain=means.trust_domain,
        now=now,
        keep=None if kept is None else lambda host, made: kept.keep(host, made, now),
        release=release,
    )


async def _run_signer(payload: model.RunSigner, remote: Remote) -> None:
    layout = layout_of(remote.host)
    digests = {"record_digest": payload.record_digest, "bundle_digest": payload.bundle_digest}
    await remote.operate(
        "run-signer",
        supervisor=signer_supervisor(),
        link=layout.signer,
        release=layout.release(payload.release),
        expected=payload.expected,
        verb=payload.verb,
        files=[file_argument(remote.host, file) for file in payload.files],
        unit=file_argument(remote.host, payload.unit) if payload.unit else None,
        admin=f"127.0.0.1:{SIGNER_ADMIN_PORT}",
        wanted={
            "release": payload.release,
            **{name: digest for name, digest in digests.items() if digest},
        },
        ready_s=SIGNER_START_S + SIGNER_STOP_S,
        stop_s=2 * SIGNER_STOP_S,
        # There and, if it does not get ready, back.
        timeout_s=4 * (SIGNER_START_S + SIGNER_STOP_S),
    )


async def _remove_signer(remote: Remote, means: Means) -> None:
    layout = layout_of(remote.host)
    await remote.operate(
        "remove-signer",
        supervisor=signer_supervisor(),
        paths=[
            layout.signer_state,
            layout.signer_etc,
            layout.signer,
            f"{layout.units}/{SIGNER_UNIT}",
        ],
        user=SIGNER_USER,
        stop_s=2 * SIGNER_STOP_S,
        timeout_s=60 + 2 * SIGNER_STOP_S,
    )
    if means.signer_certificates is not None:
        means.signer_certificates.forget(remote.host.name)


async def _bring_up(payload: model.Service, remote: Remote) -> None:
    host, layout = remote.host, layout_of(remote.host)
    stop_s = stop_timeout_s(host)
    await remote.operate(
        "bring-up",
        supervisor=proxy_supervisor(host),
        uses_units=uses_systemd(host),
        current=layout.current,
        previous=layout.previous,
        configs=f"{layout.prefix}/configs",
        config=payload.settings.config,
        expected=payload.expected,
        verb=payload.verb,
        unit=file_argument(host, payload.unit) if payload.unit else None,
        files=[file_argument(host, file) for file in payload.files],
        admin=f"127.0.0.1:{host.proxy.admin_port}",
        stop_s=stop_s,
        ready_s=START_TIMEOUT_S,
        # There and, if it does not get ready, back.
        timeout_s=2 * (stop_s + 2 * START_TIMEOUT_S),
    )
