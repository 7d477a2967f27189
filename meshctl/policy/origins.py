"""Where each setting in force was written: on a route, under the service, in the defaults, nowhere.

With the text of ``mesh.yaml`` each has its line; without it (a published policy) the origin is
concluded from the values.
"""

from collections.abc import Iterator
from typing import Any

from meshctl.policy.calling import CALLING
from meshctl.policy.explained import Setting
from meshctl.policy.section import Field, Section
from meshctl.policy.text import Text
from proxy.model.names import ServiceName
from proxy.model.policy import Policy, Route, ServicePolicy

_BUILT_IN = ServicePolicy()


class Places:
    """``text`` None: there is no text at hand."""

    def __init__(self, text: Text | None, source: str) -> None:
        self._text, self.source = text, source

    def at(self, path: str) -> str:
        line = None if self._text is None else self._text.line(path)
        return "" if line is None else f"{self.source}:{line}"

    def first(self, *paths: str) -> str:
        """The most special of what was written."""
        return next((at for path in paths if (at := self.at(path))), "")


def in_force(
    keys: tuple[str, ...],
    service: ServiceName,
    policy: Policy,
    places: Places,
    route: tuple[int, Route] | None = None,
) -> Iterator[Setting]:
    """The settings under ``keys`` (``timeouts``, ``retries``), key by key. ``route``: its place
    among the service's, and itself."""
    own = policy.of(service)
    for field in CALLING:
        if field.key not in keys:
            continue
        section = field.shape
        assert isinstance(section, Section), "each key of calling is one"
        values = [getattr(each, field.name) for each in (own, policy.defaults, _BUILT_IN)]
        if values[0] is None:
            yield Setting(
                key=field.key, value="none",
                origin="built-in" if values[1] is None else "service",
                at=places.at(f"services.{service}.{field.key}"),
            )  # fmt: skip
            continue
        hidden = section.hidden(values[0])
        for inner in section.fields:
            if inner.key not in hidden:
                yield from _setting(field, inner, service, values, places, route)


def _setting(
    outer: Field,
    inner: Field,
    service: ServiceName,
    values: list[Any],
    places: Places,
    route: tuple[int, Route] | None,
) -> Iterator[Setting]:
    key = f"{outer.key}.{inner.key}"
    found = [None if each is None else getattr(each, inner.name) for each in values]
    value, origin, at = found[0], "", ""
    if route is not None:
        index, declared = route
        section = getattr(declared, outer.name, None)
        changed = None if section is None else getattr(section, inner.name, None)
        here = f"services.{service}.routes[{index}].{key}"
        if changed is not None and (changed != value or places.at(here)):
            value, origin, at = changed, "route", places.at(here)
    if not origin:
        paths = (f"services.{service}.{key}", f"defaults.{key}")
        if (at := places.at(paths[0])) or found[0] != found[1]:
            origin, path = "service", paths[0]
        elif (at := places.at(paths[1])) or found[1] != found[2]:
            origin, path = "defaults", paths[1]
        else:
            origin, path = "built-in", ""
        if path and not at:  # a short form: the line of what it is part of
            at = places.at(path.rpartition(".")[0])
    if value in (None, (), "") and origin == "built-in":
        return
    shown = "none" if value in (None, ()) else inner.shape.show(value)
    yield Setting(key=key, value=shown, origin=origin, at=at)
