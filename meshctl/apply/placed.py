"""What of the mesh is on a host, by one small shell command; and the way to work on it.

Less than ``gather`` reads, and on purpose: it asks nobody but the file system, so that it works
when Consul is gone, the proxy crashes and every certificate has ended.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from meshctl.apply.operate import Remote
from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts.request import layout_of
from meshctl.inventory.model import Host
from meshctl.transport import Connector, Transport

_TIMEOUT_S = 30.0
_UNLOCK_TIMEOUT_S = 10.0
# Of a symbolic link only the last part counts, which is a digest.
_LOOK = """\
name() { target=$(readlink "$1") || target=; printf '%s %s\\n' "$2" "${target##*/}"; }
name "$1/current" config
name "$1/current/release" release
name "$1/signer" signer
for bundle in "$1"/configs/*/trust-bundle.pem; do
  if [ -f "$bundle" ]; then directory=${bundle%/*}; echo "bundle ${directory##*/}"; fi
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Digests; empty: not there."""

    config: str
    """That ``current`` leads to."""
    release: str
    """That it runs with."""
    signer: str
    """Release of the signer."""
    configs: tuple[str, ...]
    """All that have a trust bundle, those for going back included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A host under our deploy lock."""

    remote: Remote
    placed: Placed

    @property
    def host(self) -> Host:
        return self.remote.host

    @property
    def transport(self) -> Transport:
        return self.remote.transport


async def look(host: Host, transport: Transport) -> Placed:
    """Raises Unreachable or RemoteFailure."""
    argv = ("sh", "-c", _LOOK, "sh", layout_of(host).prefix)
    done = await transport.run(argv, timeout_s=_TIMEOUT_S)
    if done.exit_status != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise RemoteFailure(f"{host.name} could not be looked at", output=said)
    found: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        word, _, value = line.partition(" ")
        if value:
            found.setdefault(word, []).append(value)

    def only(word: str) -> str:
        return found.get(word, [""])[0]

    return Placed(
        config=only("config"),
        release=only("release"),
        signer=only("signer"),
        configs=tuple(found.get("bundle", ())),
    )


@contextlib.asynccontextmanager
async def reached(host: Host, connector: Connector, owner: str) -> AsyncIterator[Reached]:
    """The host, locked for us until the end. Raises MeshError: it cannot be reached, another
    deploy runs there, or nothing of the mesh is on it."""
    transport = await connector.connect(host.name)
    placed = await look(host, transport)
    layout = layout_of(host)
    if placed.config:
        python = layout.python
    elif placed.signer:
        python = f"{layout.signer}/bin/python"
    else:
        raise MeshError(
            f"nothing is installed on {host.name}", hint=f"meshctl deploy --limit {host.name}"
        )
    remote = Remote(host=host, transport=transport, python=python, owner=owner)
    await remote.operate("lock")
    try:
        yield Reached(remote=remote, placed=placed)
    finally:
        # The lease ends by itself; a host that went away in the middle is not waited for.
        with contextlib.suppress(MeshError, TimeoutError):
            async with asyncio.timeout(_UNLOCK_TIMEOUT_S):
                await remote.operate("unlock")
