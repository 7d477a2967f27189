"""The registry's state as a file, so that a restart keeps keys and services.

Written whole and switched into place; a crash leaves the old file or the new one. Indexes start
above the old ones by a margin: the last changes before a crash may be missing from the file, and
an index must not come back for something else.
"""

import contextlib
import os
from pathlib import Path
from typing import Literal

from meshctl.errors import StateCorrupt
from meshctl.registry.catalogue import Check, CheckDefinition, Service, Status
from meshctl.registry.kv import Entry
from meshctl.registry.state import Node, State
from proxy.model.codec import Malformed, Value, decode, encode

_MARGIN = 1024


class _Entry(Value, frozen=True, kw_only=True):
    key: str
    value: bytes
    flags: int
    create_index: int
    modify_index: int


class _Check(Value, frozen=True, kw_only=True):
    id: str
    name: str
    ttl_s: float
    notes: str
    deregister_after_s: float
    tags: tuple[str, ...]
    status: Status
    output: str
    published_output: str
    create_index: int
    modify_index: int


class _Service(Value, frozen=True, kw_only=True):
    id: str
    name: str
    tags: tuple[str, ...]
    address: str
    port: int
    meta: dict[str, str]
    enable_tag_override: bool
    weights: tuple[int, int]
    create_index: int
    modify_index: int
    checks: tuple[_Check, ...]


class _Document(Value, frozen=True, kw_only=True):
    version: Literal[1]
    index: int
    entries: tuple[_Entry, ...]
    services: tuple[_Service, ...]


def dump(state: State) -> bytes:
    """Everything but the node's own checks and checks without a service."""
    return encode(
        _Document(
            version=1,
            index=state.index,
            entries=tuple(
                _Entry(
                    key=entry.key,
                    value=entry.value,
                    flags=entry.flags,
                    create_index=entry.create_index,
                    modify_index=entry.modify_index,
                )
                for entry in state.kv.entries()
            ),
            services=tuple(
                _Service(
                    id=service.id,
                    name=service.name,
                    tags=service.tags,
                    address=service.address,
                    port=service.port,
                    meta=dict(service.meta),
                    enable_tag_override=service.enable_tag_override,
                    weights=service.weights,
                    create_index=service.create_index,
                    modify_index=service.modify_index,
                    checks=tuple(map(_check, state.catalogue.checks_of(service.id))),
                )
                for service in state.catalogue.services.values()
                if service.is_local
            ),
        )
    )


def restore(data: bytes, node: Node, *, check_update_interval_s: float, now: float) -> State:
    """Raises Malformed. All checks keep their status and get a whole TTL to renew it."""
    document = decode(data, _Document)
    state = State(
        node, check_update_interval_s=check_update_interval_s, index=document.index + _MARGIN
    )
    state.kv.restore_floor(document.index)
    for entry in document.entries:
        state.kv.restore(
            Entry(
                key=entry.key,
                value=entry.value,
                flags=entry.flags,
                create_index=entry.create_index,
                modify_index=entry.modify_index,
            )
        )
    for saved in document.services:
        service = Service(
            id=saved.id,
            name=saved.name,
            tags=saved.tags,
            address=saved.address,
            port=saved.port,
            meta=saved.meta,
            enable_tag_override=saved.enable_tag_override,
            weights=saved.weights,
            create_index=saved.create_index,
            modify_index=saved.modify_index,
        )
        checks = tuple(_restored(check, service) for check in saved.checks)
        state.catalogue.restore(service, checks, now=now, index=state.index)
    return state


def read(path: Path, node: Node, *, check_update_interval_s: float, now: float) -> State:
    """The state in ``path``, or a new one if there is no such file. Raises StateCorrupt."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return State(node, check_update_interval_s=check_update_interval_s)
    except OSError as error:
        raise StateCorrupt(f"{path} cannot be read: {error.strerror}") from error
    try:
        return restore(data, node, check_update_interval_s=check_update_interval_s, now=now)
    except Malformed as error:
        raise StateCorrupt(
            f"{path} is not a registry's data file: {error}",
            hint=f"restore it, or remove {path} to start empty; proxies register again by "
            "themselves, policy needs another `meshctl deploy`",
        ) from error


def write(path: Path, data: bytes) -> None:
    """Atomic; the file is the owner's alone, as policy and addresses are nobody else's."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        raise


def _check(check: Check) -> _Check:
    return _Check(
        id=check.definition.id,
        name=check.definition.name,
        ttl_s=check.definition.ttl_s,
        notes=check.definition.notes,
        deregister_after_s=check.definition.deregister_after_s,
        tags=check.service_tags,
        status=check.status,
        output=check.output,
        published_output=check.published_output,
        create_index=check.create_index,
        modify_index=check.modify_index,
    )


def _restored(saved: _Check, service: Service) -> Check:
    return Check(
        definition=CheckDefinition(
            id=saved.id,
            name=saved.name,
            ttl_s=saved.ttl_s,
            notes=saved.notes,
            deregister_after_s=saved.deregister_after_s,
        ),
        service_id=service.id,
        service_name=service.name,
        service_tags=saved.tags,
        status=saved.status,
        output=saved.output,
        published_output=saved.output,
        create_index=saved.create_index,
        modify_index=saved.modify_index,
    )
