"""The acts, in their order. Each module is one: its ``CLAIM``, and ``show``, which raises ActFailed
where that does not hold."""

from collections.abc import Callable

from demokit.acts import (
    at_a_glance,
    balancing,
    by_host,
    canary,
    crash,
    crossing,
    denial,
    ejection,
    first_deploy,
    no_plaintext,
    observed,
    rate_limit,
    retries,
    rotation,
    second_deploy,
    tcp,
    versions,
)
from demokit.scene import Scene

ACTS: tuple[tuple[str, Callable[[Scene], None]], ...] = tuple(
    (act.CLAIM, act.show)
    for act in (
        first_deploy,
        crossing,
        no_plaintext,
        by_host,
        balancing,
        tcp,
        crash,
        rotation,
        canary,
        retries,
        ejection,
        rate_limit,
        denial,
        versions,
        observed,
        at_a_glance,
        second_deploy,
    )
)
