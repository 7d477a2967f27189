"""Whether the files that an inventory names are there; apart, so that parsing stays pure."""

import os
from collections.abc import Iterator
from pathlib import Path

from meshctl.inventory.model import HostKeyPolicy, Inventory
from proxy.model.violation import Violation


def missing_files(inventory: Inventory) -> list[Violation]:
    """One violation for each file that cannot be read, in the order of the model."""
    seen: set[Path] = set()
    found = []
    for path, file in _named_files(inventory):
        if file in seen:
            continue
        seen.add(file)
        if not file.exists():
            found.append(
                Violation(path=path, message=f"there is no file {file}", hint="correct the path")
            )
        elif not (file.is_file() and os.access(file, os.R_OK)):
            found.append(
                Violation(
                    path=path,
                    message=f"{file} is not a file that can be read",
                    hint="correct the path or its permissions",
                )
            )
    return found


def _named_files(inventory: Inventory) -> Iterator[tuple[str, Path]]:
    if inventory.consul.operator_token_file is not None and inventory.consul.package is None:
        yield "consul.operator_token_file", inventory.consul.operator_token_file
    package = inventory.consul.package
    if package is not None:
        for key, file in (("binary", package.binary), ("archive", package.archive)):
            if file is not None:
                yield f"consul.package.{key}", file
    for number, host in enumerate(inventory.hosts):
        if host.ssh.key is not None:
            yield f"hosts[{number}].ssh.key", host.ssh.key
        # With accept-new it is made on first contact.
        if host.ssh.known_hosts is not None and host.ssh.host_keys is HostKeyPolicy.STRICT:
            yield f"hosts[{number}].ssh.known_hosts", host.ssh.known_hosts
