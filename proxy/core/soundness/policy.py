"""A whole policy: its defaults, and each service over them."""

from collections.abc import Collection, Iterator
from itertools import chain

from proxy.core.soundness import authorization, resilience, routing, telemetry, words
from proxy.core.soundness.finding import Findings, at, judged
from proxy.core.soundness.lists import at_most
from proxy.core.soundness.numbers import check_numbers
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, ServicePolicy
from proxy.model.violation import Violation

MAX_SERVICES = 10_000
MAX_SUBSETS = 100

_OWN = ("rate_limits", "faults", "subsets", "routes", "failover", "intentions", "mode")
"""What only makes sense for one service."""
_NOTHING_OWN = ServicePolicy()


def check(policy: Policy, *, left_out: Collection[ServiceName] = ()) -> tuple[Violation, ...]:
    """Every violation; empty if the policy can be put in force.

    ``left_out`` are services that the policy has more to say of than is here: their subsets are
    taken as given.
    """
    return tuple(finding.violation() for finding in findings(policy, left_out=left_out))


def findings(policy: Policy, *, left_out: Collection[ServiceName] = ()) -> Findings:
    """As ``check``, lazily, with each place that may be to blame."""
    return chain.from_iterable(pieces(policy, left_out=left_out))


def pieces(policy: Policy, *, left_out: Collection[ServiceName] = ()) -> Iterator[Findings]:
    """As ``findings``: of the defaults, then of one service after the other, so that who must not
    be held up can do something else between them."""

    def subsets(service: ServiceName) -> Collection[str] | None:
        if service in policy.services:
            return policy.services[service].subsets
        return None if service in left_out else ()

    yield _defaults(policy)
    yield authorization.check_tokens(policy.tokens)
    yield telemetry.check_telemetry(policy.telemetry)
    for service, own in policy.services.items():
        yield _service(service, own, policy, subsets)


def _defaults(policy: Policy) -> Findings:
    yield from _calling("defaults", policy.defaults, None)
    for key in _OWN:
        if getattr(policy.defaults, key) != getattr(_NOTHING_OWN, key):
            yield at(f"defaults.{key}", "it is for single services", "put it under services")
    yield from at_most("services", policy.services, MAX_SERVICES)


def _service(
    service: ServiceName, own: ServicePolicy, policy: Policy, subsets: routing.Subsets
) -> Findings:
    path = f"services.{service}"
    yield from judged(path, words.service_name(service))
    yield from _calling(path, own, policy.defaults)
    yield from _subsets(f"{path}.subsets", own)
    yield from routing.check_routes(path, service, own, subsets)
    yield from _routes_resilience(path, own)
    yield from resilience.check_rate_limits(f"{path}.rate_limits", own.rate_limits)
    yield from resilience.check_faults(f"{path}.faults", own.faults)
    yield from authorization.check_intentions(f"{path}.intentions", own.intentions, policy.tokens)
    yield from resilience.check_failover(f"{path}.failover", service, own.failover, subsets)


def _calling(path: str, own: ServicePolicy, base: ServicePolicy | None) -> Findings:
    """What may be in the defaults too; what is as it is there is not looked at twice."""
    if base is None or own.timeouts != base.timeouts:
        yield from resilience.check_timeouts(f"{path}.timeouts", own.timeouts)
    if base is None or own.retries != base.retries:
        yield from resilience.check_retries(f"{path}.retries", own.retries)
    if base is None or own.balancing != base.balancing:
        yield from resilience.check_balancing(f"{path}.load_balancing", own.balancing)
    if base is None or own.limits != base.limits:
        yield from check_numbers(f"{path}.limits", own.limits)
    if base is None or own.outlier_detection != base.outlier_detection:
        here = f"{path}.outlier_detection"
        yield from resilience.check_outliers(here, own.outlier_detection)
    if own.health_check is not None and (base is None or own.health_check != base.health_check):
        yield from resilience.check_health(f"{path}.health_check", own.health_check)
    if base is None or own.access_log != base.access_log:
        yield from telemetry.check_access_log(f"{path}.access_log", own.access_log)
    if base is None or own.tracing != base.tracing:
        yield from telemetry.check_tracing(f"{path}.tracing", own.tracing)


def _subsets(path: str, own: ServicePolicy) -> Findings:
    yield from at_most(path, own.subsets, MAX_SUBSETS)
    for name, subset in own.subsets.items():
        yield from judged(f"{path}.{name}", words.name(name))
        yield from judged(f"{path}.{name}.version", words.version(subset.version))


def _routes_resilience(path: str, own: ServicePolicy) -> Findings:
    for number, route in enumerate(own.routes[: routing.MAX_ROUTES]):
        here = f"{path}.routes[{number}]"
        if route.timeouts is not None:
            per_try_s, request_s = route.timeouts.per_try_s, route.timeouts.request_s
            yield from resilience.check_tries(
                (f"{here}.timeouts", f"{path}.timeouts"),
                own.timeouts.per_try_s if per_try_s is None else per_try_s,
                own.timeouts.request_s if request_s is None else request_s,
            )
        if route.retries is not None and route.retries != own.retries:
            yield from resilience.check_retries(f"{here}.retries", route.retries)
