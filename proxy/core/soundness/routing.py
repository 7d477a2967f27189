"""The routes of one service: what they match, where they lead, what they change."""

from collections.abc import Callable, Collection

from proxy.core.soundness import words
from proxy.core.soundness.finding import Finding, Findings, at, judged, shown
from proxy.core.soundness.lists import at_most, each_of, unique
from proxy.core.soundness.matching import MAX_CONDITIONS, check_hash, check_match
from proxy.core.soundness.numbers import check_numbers
from proxy.model.names import ServiceName
from proxy.model.policy import Route, ServicePolicy
from proxy.model.routing import (
    Destination,
    HeaderChanges,
    Match,
    Mirror,
    PathMatch,
    Redirect,
    Rewrite,
)

MAX_ROUTES = 1000
MAX_DESTINATIONS = 100
MAX_BODY = 64 * 1024
"""Kept in memory by each proxy."""

REDIRECTS = (301, 302, 303, 307, 308)
_WITHOUT_BODY = (204, 205, 304)

Subsets = Callable[[ServiceName], Collection[str] | None]
"""Those of a service; None: not known here, so any may be there."""


def check_routes(
    path: str, service: ServiceName, policy: ServicePolicy, subsets: Subsets
) -> Findings:
    at_routes = f"{path}.routes"
    yield from at_most(at_routes, policy.routes, MAX_ROUTES)
    yield from unique(at_routes, [route.name for route in policy.routes])
    everything: Route | None = None
    for number, route in enumerate(policy.routes[:MAX_ROUTES]):
        here = f"{at_routes}[{number}]"
        if everything is not None:
            yield at(
                here,
                f"no request gets here: {everything.name!r} before it matches everything",
                "the first route that matches is taken: put it further up",
            )
        elif route.match == Match():
            everything = route
        yield from _route(here, service, route, policy, subsets)


def _route(
    path: str, service: ServiceName, route: Route, policy: ServicePolicy, subsets: Subsets
) -> Findings:
    yield from judged(f"{path}.name", words.name(route.name))
    yield from check_match(f"{path}.match", route.match)
    yield from _one_action(path, route)
    yield from _destinations(path, service, route, subsets)
    if route.redirect is not None:
        yield from _redirect(f"{path}.redirect", route.redirect)
    if route.respond is not None:
        here = f"{path}.respond"
        yield from check_numbers(here, route.respond)
        yield from judged(f"{here}.content_type", words.header_value(route.respond.content_type))
        yield from _body(f"{here}.body", route.respond.body, route.respond.status)
    if route.rewrite is not None:
        yield from _rewrite(f"{path}.rewrite", route.rewrite, route.match.path)
    if route.request_headers is not None:
        yield from _changes(f"{path}.request_headers", route.request_headers)
    if route.response_headers is not None:
        yield from _changes(f"{path}.response_headers", route.response_headers)
    if route.mirror is not None:
        yield from _mirror(f"{path}.mirror", service, route.mirror, subsets)
    if route.timeouts is not None:
        yield from check_numbers(f"{path}.timeouts", route.timeouts)


def _one_action(path: str, route: Route) -> Findings:
    actions = [key for key in ("to", "redirect", "respond") if getattr(route, key)]
    if len(actions) > 1:
        yield Finding(
            paths=(f"{path}.{actions[1]}", path),
            message=f"it has {' and '.join(actions)}, of which a request can have one",
            hint="keep one of them, and make a route of its own for the other",
        )
    if route.redirect is None and route.respond is None:
        return
    done = "redirect" if route.redirect is not None else "respond"
    for key in ("sticky", "rewrite", "request_headers", "mirror", "timeouts", "retries"):
        if getattr(route, key) is not None:
            yield at(f"{path}.{key}", f"it does nothing where there is '{done}'", "remove it")


def _destinations(path: str, service: ServiceName, route: Route, subsets: Subsets) -> Findings:
    here = f"{path}.to"
    yield from at_most(here, route.to, MAX_DESTINATIONS)
    seen: dict[tuple[ServiceName, str], int] = {}
    for number, place in enumerate(route.to[:MAX_DESTINATIONS]):
        each = f"{here}[{number}]"
        yield from check_numbers(each, place)
        yield from check_place(each, service, place, subsets)
        first = seen.setdefault((place.service or service, place.subset), number)
        if first != number:
            yield at(each, f"it is the same as {here}[{first}]", "add up their weights in one")
    if route.to and not any(place.weight > 0 for place in route.to):
        yield Finding(
            paths=(f"{here}[0].weight", here),
            message="all weights are 0, so requests have nowhere to go",
            hint="give one at least a weight above 0",
        )
    if route.sticky is not None:
        yield from check_hash(f"{path}.sticky", route.sticky)
        if len(route.to) < 2 and route.redirect is None and route.respond is None:
            message = "it does nothing with one destination"
            hint = "remove it, or see load_balancing.hash_on"
            yield at(f"{path}.sticky", message, hint)


def check_place(
    path: str, service: ServiceName, place: Destination | Mirror, subsets: Subsets
) -> Findings:
    """A service of the mesh, or ``service`` itself, and one of its subsets if it names one."""
    if place.service is not None:
        yield from judged(f"{path}.service", words.service_name(place.service))
    yield from check_subset(f"{path}.subset", place.service or service, place.subset, subsets)


def check_subset(path: str, service: ServiceName, subset: str, subsets: Subsets) -> Findings:
    known = subsets(service)
    if not subset or known is None or subset in known:
        return
    hint = f"add it to services.{service}.subsets"
    if known:
        hint += f"; there are: {', '.join(sorted(known)[:10])}"
    yield at(path, f"{service} has no subset {shown(subset)}", hint)


def _redirect(path: str, redirect: Redirect) -> Findings:
    if redirect.status not in REDIRECTS:
        hint = f"use one of: {', '.join(map(str, REDIRECTS))}"
        yield at(f"{path}.status", f"{redirect.status} does not redirect", hint)
    if redirect.scheme:
        yield from judged(f"{path}.scheme", words.scheme(redirect.scheme))
    if redirect.authority:
        yield from judged(f"{path}.authority", words.host_port(redirect.authority))
    if redirect.path:
        yield from judged(f"{path}.path", words.path(redirect.path))
    if not (redirect.scheme or redirect.authority or redirect.path):
        yield at(path, "it leads back to itself", "give scheme, authority or path")


def _body(path: str, body: str, status: int) -> Findings:
    if body and status in _WITHOUT_BODY:
        yield at(path, f"an answer with status {status} has no body", "remove it")
    try:
        size = len(body.encode())
    except UnicodeError:
        yield at(path, "it cannot be written as UTF-8", "remove the surrogates")
        return
    if size > MAX_BODY:
        yield at(path, f"it has {size} bytes", f"use at most {MAX_BODY}")


def _rewrite(path: str, rewrite: Rewrite, matched: PathMatch | None) -> Findings:
    if rewrite.path:
        template = matched.template if matched is not None else None
        names = words.template_names(template) if template is not None else frozenset()
        yield from judged(f"{path}.path", words.rewritten_path(rewrite.path, names))
    if rewrite.authority:
        yield from judged(f"{path}.authority", words.host_port(rewrite.authority))
    if not rewrite.path and not rewrite.authority:
        yield at(path, "it changes nothing", "give path or authority, or remove it")


def _changes(path: str, changes: HeaderChanges) -> Findings:
    if not (changes.remove or changes.set or changes.add):
        yield at(path, "it changes nothing", "give set, add or remove, or remove it")
    yield from each_of(f"{path}.remove", changes.remove, words.changed_header, MAX_CONDITIONS)
    for key, values in (("set", changes.set), ("add", changes.add)):
        yield from at_most(f"{path}.{key}", values, MAX_CONDITIONS)
        for name, value in values.items():
            here = f"{path}.{key}.{name}"
            wrong = words.changed_header(name) or words.header_value(value)
            yield from judged(here, wrong)


def _mirror(path: str, service: ServiceName, mirror: Mirror, subsets: Subsets) -> Findings:
    yield from check_numbers(path, mirror)
    yield from check_place(path, service, mirror, subsets)
    if (mirror.service or service) == service and not mirror.subset:
        message = f"{service} would get each of its requests twice"
        yield at(path, message, "mirror to a subset, or to another service")
