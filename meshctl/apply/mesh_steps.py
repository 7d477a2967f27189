"""The steps that are not a host's: what is published to all proxies, and their answer to it."""

import asyncio
from collections.abc import Sequence

from meshctl.apply.means import Means
from meshctl.apply.report import MeshStepReport
from meshctl.errors import MeshError
from meshctl.facts.model import RunningProxy
from meshctl.facts.request import layout_of
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


async def acknowledged(
    means: Means, alive: Sequence[HostName], generation: int
) -> tuple[HostName, ...]:
    """Hosts whose proxy does not run ``generation`` in time."""
    hosts = [host for host in means.inventory.hosts if host.name in alive and carries_proxy(host)]
    results = await asyncio.gather(*(_wait_for(means, host, generation) for host in hosts))
    return tuple(host.name for host, is_there in zip(hosts, results, strict=True) if not is_there)


async def _wait_for(means: Means, host: Host, generation: int) -> bool:
    argv = (
        layout_of(host).python, "-I", "-m", "proxy.query",
        "--admin", f"127.0.0.1:{host.proxy.admin_port}", "GET", "/status",
    )  # fmt: skip
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
