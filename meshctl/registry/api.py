"""Consul's HTTP API, without HTTP: a call to the state, an answer in Consul's own forms.

Synchronous and without I/O. A read that may have to wait comes back as a ``Query``: ``server``
waits, this says for what. What Consul has and the mesh does not use ends in a 501 that says so.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from meshctl.registry import definitions, rendering, transactions
from meshctl.registry.calls import (
    Answer,
    Call,
    Outcome,
    is_set,
    json_answer,
    plain,
    query,
    require,
    too_large,
    unimplemented,
    unsigned,
)
from meshctl.registry.catalogue import MAX_OUTPUT_BYTES, Status, UnknownCheck, UnknownService
from meshctl.registry.definitions import BadRequest, NotImplementedHere
from meshctl.registry.kv import MAX_VALUE_BYTES
from meshctl.registry.state import State

_NARROWING = ("filter", "near", "node-meta", "peer", "ns", "partition", "merge-central-config")
"""Parameters that would change the answer; ignoring them would be a wrong answer."""

_Handler: TypeAlias = Callable[[Call, str, float], Outcome]


class Api:
    """One state behind Consul's paths."""

    def __init__(self, state: State, *, version: str) -> None:
        self._state = state
        self._version = version
        # Longest path first where one is the beginning of another; a trailing slash means that
        # the rest of the path is an argument.
        self._routes: tuple[tuple[str, Mapping[str, _Handler]], ...] = (
            ("/v1/kv/", {"GET": self._kv_get, "PUT": self._kv_put, "DELETE": self._kv_delete}),
            ("/v1/txn", {"PUT": self._txn}),
            ("/v1/agent/service/register", {"PUT": self._service_register}),
            ("/v1/agent/service/deregister/", {"PUT": self._service_deregister}),
            ("/v1/agent/check/register", {"PUT": self._check_register}),
            ("/v1/agent/check/deregister/", {"PUT": self._check_deregister}),
            ("/v1/agent/check/pass/", {"PUT": self._check_note(Status.PASSING)}),
            ("/v1/agent/check/warn/", {"PUT": self._check_note(Status.WARNING)}),
            ("/v1/agent/check/fail/", {"PUT": self._check_note(Status.CRITICAL)}),
            ("/v1/agent/check/update/", {"PUT": self._check_update}),
            ("/v1/agent/services", {"GET": self._agent_services}),
            ("/v1/agent/checks", {"GET": self._agent_checks}),
            ("/v1/agent/self", {"GET": self._agent_self}),
            ("/v1/health/service/", {"GET": self._health_service}),
            ("/v1/health/checks/", {"GET": self._health_checks}),
            ("/v1/health/state/", {"GET": self._health_state}),
            ("/v1/catalog/services", {"GET": self._catalog_services}),
            ("/v1/catalog/service/", {"GET": self._catalog_service}),
            ("/v1/catalog/nodes", {"GET": self._catalog_nodes}),
            ("/v1/status/leader", {"GET": self._leader}),
        )

    def answer(self, call: Call, *, now: float) -> Outcome:
        for prefix, methods in self._routes:
            if call.path == prefix or (prefix.endswith("/") and call.path.startswith(prefix)):
                handler = methods.get(call.method)
                if handler is None:
                    allow = "OPTIONS," + ",".join(methods)
                    if call.method == "OPTIONS":
                        return Answer(status=200, headers=(("Allow", allow),))
                    return Answer(
                        status=405,
                        body=f"method {call.method} not allowed".encode(),
                        headers=(("Allow", allow),),
                    )
                return self._run(handler, call, call.path[len(prefix) :], now)
        return unimplemented(f"{call.method} {call.path}")

    def _run(self, handler: _Handler, call: Call, argument: str, now: float) -> Outcome:
        try:
            for name in _NARROWING:
                if call.get(name):
                    raise NotImplementedHere(f"the parameter ?{name}")
            if call.has("stale") and call.has("consistent"):
                raise BadRequest("Cannot specify ?stale with ?consistent, conflicting semantics.")
            if call.get("dc") not in ("", self._state.node.datacenter):
                return plain(500, "No path to datacenter")
            return handler(call, argument, now)
        except BadRequest as error:
            return plain(400, str(error))
        except NotImplementedHere as error:
            return unimplemented(str(error))
        except UnknownService as error:
            return plain(500, f'ServiceID "{error}" does not exist')
        except UnknownCheck as error:
            return plain(500, f'CheckID "{error}" does not have associated TTL')

    def _kv_get(self, call: Call, key: str, _now: float) -> Outcome:
        kv = self._state.kv
        if call.has("recurse") or call.has("keys"):
            separator = call.get("separator")

            def render() -> Answer:
                found: list[Any]
                if call.has("keys"):
                    found = list(kv.keys(key, separator))
                else:
                    found = [rendering.entry(entry) for entry in kv.under(key)]
                return json_answer(found) if found else Answer(status=404)

            return query(call, lambda: kv.index_under(key), lambda: kv.touched_under(key), render)
        if not key:
            raise BadRequest("Missing key name")

        def render_one() -> Answer:
            entry = kv.get(key)
            if entry is None:
                return Answer(status=404)
            if call.has("raw"):
                return Answer(
                    status=200,
                    body=entry.value,
                    content_type="text/plain",
                    headers=(
                        ("X-Content-Type-Options", "nosniff"),
                        ("Content-Security-Policy", "sandbox"),
                    ),
                )
            return json_answer([rendering.entry(entry)])

        return query(call, lambda: kv.index_of(key), lambda: kv.touched(key), render_one)

    def _kv_put(self, call: Call, key: str, _now: float) -> Outcome:
        _refuse_locks(call)
        if not key:
            raise BadRequest("Missing key name")
        flags, cas = unsigned(call, "flags"), unsigned(call, "cas")
        if isinstance(flags, Answer):
            return flags
        if isinstance(cas, Answer):
            return cas
        if len(call.body) > MAX_VALUE_BYTES:
            return too_large(len(call.body))
        return json_answer(self._state.put(key, call.body, flags=flags or 0, cas=cas))

    def _kv_delete(self, call: Call, key: str, _now: float) -> Outcome:
        if call.has("recurse"):
            if call.has("cas"):
                raise BadRequest(f"Conflicting flags: cas={call.get('cas')}&recurse=")
            self._state.delete_under(key)
            return json_answer(True)
        if not key:
            raise BadRequest("Missing key name")
        cas = unsigned(call, "cas")
        if isinstance(cas, Answer):
            return cas
        return json_answer(self._state.delete(key, cas=cas))

    def _txn(self, call: Call, _argument: str, _now: float) -> Outcome:
        operations = transactions.parse(call.body)
        if isinstance(operations, Answer):
            return operations
        results, failures = self._state.transact(operations)
        return json_answer(
            rendering.transaction(results, failures), status=409 if failures else 200
        )

    def _service_register(self, call: Call, _argument: str, now: float) -> Outcome:
        self._state.register(
            definitions.parse_service(call.body),
            replaces_checks=is_set(call, "replace-existing-checks"),
            now=now,
        )
        return Answer(status=200)

    def _service_deregister(self, _call: Call, service_id: str, _now: float) -> Outcome:
        self._state.deregister(service_id)
        return Answer(status=200)

    def _check_register(self, call: Call, _argument: str, now: float) -> Outcome:
        definition, service_id = definitions.parse_check(call.body)
        self._state.register_check(definition, service_id, now=now)
        return Answer(status=200)

    def _check_deregister(self, _call: Call, check_id: str, _now: float) -> Outcome:
        self._state.deregister_check(check_id)
        return Answer(status=200)

    def _check_note(self, status: Status) -> _Handler:
        def update(call: Call, check_id: str, now: float) -> Outcome:
            self._state.update_check(check_id, status, call.get("note"), now=now)
            return Answer(status=200)

        return update

    def _check_update(self, call: Call, check_id: str, now: float) -> Outcome:
        status, output = definitions.parse_update(call.body)
        size = len(output.encode("utf-8", "replace"))
        if size > MAX_OUTPUT_BYTES:
            kept = output.encode("utf-8", "replace")[:MAX_OUTPUT_BYTES].decode("utf-8", "replace")
            output = f"{kept} ... (captured {MAX_OUTPUT_BYTES} of {size} bytes)"
        self._state.update_check(check_id, status, output, now=now)
        return Answer(status=200)

    def _agent_services(self, _call: Call, _argument: str, _now: float) -> Outcome:
        services = self._state.catalogue.services.values()
        return json_answer({s.id: rendering.agent_service(s) for s in services if s.is_local})

    def _agent_checks(self, _call: Call, _argument: str, _now: float) -> Outcome:
        state = self._state
        return json_answer(
            {
                check.definition.id: rendering.agent_check(check, state.node)
                for check in state.catalogue.checks.values()
                if check.definition.ttl_s
            }
        )

    def _agent_self(self, _call: Call, _argument: str, _now: float) -> Outcome:
        return json_answer(rendering.agent_self(self._state.node, self._version))

    def _health_service(self, call: Call, name: str, _now: float) -> Outcome:
        require(name, "Missing service name")
        only_passing = is_set(call, "passing")
        state, tags = self._state, call.query.get("tag", ())

        def render() -> Answer:
            return json_answer(
                [
                    rendering.instance(service, checks, state.node)
                    for service, checks in state.health(name)
                    if set(tags) <= set(service.tags)
                    and not (only_passing and any(c.status is not Status.PASSING for c in checks))
                ]
            )

        catalogue = state.catalogue
        return query(
            call, lambda: catalogue.index_of(name), lambda: catalogue.touched(name), render
        )

    def _health_checks(self, call: Call, name: str, _now: float) -> Outcome:
        require(name, "Missing service name")
        catalogue, node = self._state.catalogue, self._state.node

        def render() -> Answer:
            checks = [c for _, c in sorted(catalogue.checks.items()) if c.service_name == name]
            return json_answer([rendering.catalogue_check(check, node) for check in checks])

        return query(
            call, lambda: catalogue.index_of(name), lambda: catalogue.touched(name), render
        )

    def _health_state(self, call: Call, status: str, _now: float) -> Outcome:
        require(status, "Missing check state")
        catalogue, node = self._state.catalogue, self._state.node

        def render() -> Answer:
            checks = [c for _, c in sorted(catalogue.checks.items()) if status in ("any", c.status)]
            return json_answer([rendering.catalogue_check(check, node) for check in checks])

        return query(call, lambda: catalogue.checks_index, lambda: catalogue.checks_index, render)

    def _catalog_services(self, call: Call, _argument: str, _now: float) -> Outcome:
        catalogue = self._state.catalogue

        def render() -> Answer:
            tags: dict[str, set[str]] = {}
            for service in catalogue.services.values():
                tags.setdefault(service.name, set()).update(service.tags)
            return json_answer({name: sorted(tags[name]) for name in sorted(tags)})

        return query(
            call, lambda: catalogue.services_index, lambda: catalogue.services_index, render
        )

    def _catalog_service(self, call: Call, name: str, _now: float) -> Outcome:
        require(name, "Missing service name")
        state, tags = self._state, call.query.get("tag", ())

        def render() -> Answer:
            return json_answer(
                [
                    rendering.catalogue_service(service, state.node)
                    for service in state.catalogue.instances(name)
                    if set(tags) <= set(service.tags)
                ]
            )

        return query(
            call,
            lambda: state.catalogue.instances_index_of(name),
            lambda: state.catalogue.instances_touched(name),
            render,
        )

    def _catalog_nodes(self, call: Call, _argument: str, _now: float) -> Outcome:
        node = self._state.node
        return query(
            call,
            lambda: node.index,
            lambda: node.index,
            lambda: json_answer([rendering.node(node)]),
        )

    def _leader(self, _call: Call, _argument: str, _now: float) -> Outcome:
        return json_answer(f"{self._state.node.address}:8300")


def _refuse_locks(call: Call) -> None:
    for name in ("acquire", "release"):
        if call.has(name):
            raise NotImplementedHere(f"the parameter ?{name} (sessions and locks)")
