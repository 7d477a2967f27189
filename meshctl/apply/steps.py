"""How each kind of step is done on a host: a function from its payload to commands there."""

import asyncio
import base64
from typing import Any, assert_never
from urllib.parse import urlsplit

from meshctl.apply.issue import issue
from meshctl.apply.means import Means
from meshctl.apply.operate import Remote
from meshctl.artifacts import START_TIMEOUT_S, STOP_MARGIN_S, RenderedFile
from meshctl.bundle.install import install
from meshctl.facts.request import layout_of, pid_file, uses_systemd
from meshctl.inventory.model import Host
from meshctl.layout import CONSUL_UNIT, PROXY_UNIT
from meshctl.plan import model
from meshctl.plan.model import Step
from meshctl.transport import files

CONSUL_READY_S = 30.0
LEADER_S = 60.0


async def perform(step: Step, remote: Remote, means: Means) -> None:
    """Raises MeshError. Whatever was done before it raised is done again harmlessly."""
    layout = layout_of(remote.host)
    match step.payload:
        case model.Prepare(users=users, directories=directories):
            await remote.operate(
                "prepare",
                users=users,
                directories=[
                    {"path": made.path, "mode": made.mode, "owner": made.owner}
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
                files=[_file(remote.host, file) for file in written],
                link=link,
            )
            means.observer.pushed(remote.host.name, sum(len(file.content) for file in written))
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
        case model.Prune(releases=releases, configs=configs, wheels=names, consul=binaries):
            await remote.operate(
                "prune",
                current=layout.current,
                previous=layout.previous,
                configs=f"{layout.prefix}/configs",
                names={
                    f"{layout.prefix}/releases": releases,
                    f"{layout.prefix}/configs": configs,
                    layout.wheels: names,
                    layout.consul_dir: binaries,
                },
            )
        case model.StartRegistry() | model.Publish():
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


def _file(host: Host, file: RenderedFile) -> dict[str, Any]:
    is_owned = uses_systemd(host)
    return {
        "path": file.path,
        "content": base64.b64encode(file.content).decode(),
        "mode": file.mode,
        "owner": file.owner if is_owned else "",
        "group": file.group if is_owned else "",
    }


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

    if not (payload.is_restart and payload.is_server):
        await start()
        return
    async with means.one_server:
        await start()
        await wait_leader(remote, payload.address, servers=1)


async def wait_leader(remote: Remote, address: str, *, servers: int) -> None:
    """Raises StepFailed when ``remote``'s agent knows no leader in time."""
    await remote.operate(
        "wait-leader",
        api=authority(address),
        servers=servers,
        ready_s=LEADER_S,
        timeout_s=LEADER_S + 10,
    )


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
        unit=_file(host, payload.unit) if payload.unit else None,
        files=[_file(host, file) for file in payload.files],
        admin=f"127.0.0.1:{host.proxy.admin_port}",
        stop_s=stop_s,
        ready_s=START_TIMEOUT_S,
        # There and, if it does not get ready, back.
        timeout_s=2 * (stop_s + 2 * START_TIMEOUT_S),
    )
