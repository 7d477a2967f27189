"""The steps that are not a host's: what is published to all proxies, and their answer to it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from meshctl.apply.means import Means
from meshctl.apply.report import MeshStepReport
from meshctl.errors import MeshError
from meshctl.facts.model import RunningProxy
from meshctl.facts.request import admin_query
from meshctl.inventory.model import Host
from meshctl.plan import model
from meshctl.plan.desired import carries_proxy
from meshctl.plan.model import Step
from proxy.model.codec import Malformed, decode
from proxy.model.names import HostName

ACKNOWLEDGE_S = 15.0
_POLL_S = 0.3


async def publish(
    step: Step, means: Means, alive: Sequence[HostName]
) -> tuple[MeshStepReport, tuple[str, ...]]:
    """The report of the step, and a warning for each proxy that does not run the new generation
    within ``ACKNOWLEDGE_S``. One host's agent failing is no reason not to ask the next."""
    assert isinstance(step.payload, model.Publish), "the caller chose the step"
    failure: MeshError | None = None
    for host in alive:
        try:
            generation = await means.publish(step.payload.policy, host)
            break
        except MeshError as error:
            failure = error
    else:
        hint = (failure.hint if failure else "") or "see meshctl check; then deploy again"
        return (
            MeshStepReport(action=step.action, title=step.title, error=str(failure), hint=hint),
            (),
        )
    means.observer.note(f"policy generation {generation} is published")
    late = await acknowledged(means, alive, generation)
    warnings = tuple(
        f"the proxy on {host} does not run policy generation {generation} yet" for host in late
    )
    done = MeshStepReport(action=step.action, title=step.title, note=f"generation {generation}")
    return done, warnings


async def change_access(step: Step, means: Means) -> tuple[MeshStepReport, MeshError | None]:
    """Of a managed Consul; with the error, if it could not be done."""
    acl = means.consul_acl
    assert acl is not None, "planned for a managed Consul only"
    failure: MeshError | None = None
    means.observer.step_began(step)
    began = time.monotonic()
    try:
        match step.payload:
            case model.SetUpAccess(
                grants=grants, tokens=tokens, is_fresh=is_fresh, is_tls_enforced=is_tls_enforced
            ):
                if is_fresh and means.consul_ca is not None and is_tls_enforced:
                    means.consul_ca.note_enforced()
                await acl.establish(grants, tokens, is_fresh=is_fresh)
            case model.TrimAccess(grants=grants, hosts=hosts):
                await acl.trim(grants, hosts)
            case _:
                raise AssertionError("the caller chose the step")
    except MeshError as error:
        failure = error
    means.observer.step_ended(step, time.monotonic() - began)
    done = MeshStepReport(action=step.action, title=step.title)
    if failure is not None:
        hint = failure.hint or "run the same command again"
        done = replace(done, error=str(failure), hint=hint)
    return done, failure


async def acknowledged(
    means: Means, alive: Sequence[HostName], generation: int
) -> tuple[HostName, ...]:
    """Hosts whose proxy does not run ``generation`` in time."""
    hosts = [host for host in means.inventory.hosts if host.name in alive and carries_proxy(host)]
    results = await asyncio.gather(*(_wait_for(means, host, generation) for host in hosts))
    return tuple(host.name for host, is_there in zip(hosts, results, strict=True) if not is_there)


async def _wait_for(means: Means, host: Host, generation: int) -> bool:
    argv = admin_query(host, "GET", "/status")
    try:
        async with asyncio.timeout(ACKNOWLEDGE_S):
            transport = await means.connector.connect(host.name)
            while True:
                done = await transport.run(argv, timeout_s=ACKNOWLEDGE_S)
                if done.exit_status == 0 and _generation(done.stdout) >= generation:
                    return True
                await asyncio.sleep(_POLL_S)
    except (TimeoutError, MeshError):
        return False


def _generation(body: bytes) -> int:
    try:
        return decode(body, RunningProxy).generation
    except Malformed:
        return 0
