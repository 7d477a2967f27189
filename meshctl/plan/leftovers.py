"""What a host keeps of its releases, configurations and wheels, and what goes. Pure."""

from collections.abc import Iterator

from meshctl.facts.model import HostFacts
from meshctl.inventory.model import Host
from meshctl.plan import model
from meshctl.plan.desired import Desired, runs_signer
from meshctl.plan.model import Action, Step
from proxy.model.settings import Settings


def steps(
    desired: Desired, host: Host, facts: HostFacts, settings: Settings | None
) -> Iterator[Step]:
    """``settings``: what its proxy is brought to; None: the host is to carry none, and one that
    still runs there keeps what it runs with."""
    seen = facts.seen
    current = seen.current if settings is None else settings.config
    is_switching = bool(seen.current) and seen.current != current
    previous = seen.current if is_switching else seen.previous
    kept_configs = {current, previous}
    kept_releases = {seen.configs[name].release for name in kept_configs if name in seen.configs}
    kept_wheels: set[str] = set()
    if settings is not None:
        kept_releases.add(settings.release)
        kept_wheels |= {wheel.name for wheel in desired.bundles[host.name].wheels}
    if runs_signer(desired, host):
        bundle = desired.signer_bundles[host.name]
        kept_releases.add(bundle.digest)
        kept_wheels |= {wheel.name for wheel in bundle.wheels}
    payload = model.Prune(
        configs=tuple(sorted(set(seen.configs) - kept_configs)),
        releases=tuple(
            sorted({name for name in seen.releases if not name.endswith(".lock")} - kept_releases)
        ),
        wheels=tuple(sorted(set(seen.wheels) - kept_wheels)),
    )
    count = len(payload.configs) + len(payload.releases) + len(payload.wheels)
    if count:
        yield Step(
            host=host.name,
            action=Action.PRUNE,
            title=f"remove {count} old release(s), configuration(s) and wheel(s)",
            why="only what runs and what ran before is kept",
            details=(*payload.configs, *payload.releases, *payload.wheels),
            payload=payload,
        )
