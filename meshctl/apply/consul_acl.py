"""Brings the access control of a managed Consul to what a plan says, through one of its servers.

The order, in which no request of the mesh fails: servers know of access control; there is a
management token; every host's policies and tokens are there, the rights of before still among
them; agents, then proxies, use theirs; whoever has none is refused; what is not needed any more
goes. A step that was interrupted is done again harmlessly.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import urlsplit

from meshctl.acl import POLICY_PREFIX, TOKEN_MARK, Grant, HostTokens, Token, digest, grants
from meshctl.apply.consul_tokens import ConsulTokens
from meshctl.artifacts import consul_servers
from meshctl.consul.access import AccessEdge, NotReady, Spent
from meshctl.errors import MeshError, RemoteFailure, Unreachable
from meshctl.facts.request import layout_of
from meshctl.inventory.model import Host, Inventory
from meshctl.pki.consul import ConsulCa
from meshctl.pki.record import DeployRecord
from meshctl.transport import Connector, files
from proxy.model.names import HostName
from proxy.model.settings import Address

READY_S = 60.0
"""For the servers to agree that all of them know of access control, once they have a leader."""
_POLL_S = 0.3
_PARALLEL = 8
_RESET_FILE = "acl-bootstrap-reset"
_FIRST_TOKEN = "Bootstrap Token"  # noqa: S105 - how Consul describes what a bootstrap makes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ConsulAcl:
    inventory: Inventory
    connector: Connector
    tokens: ConsulTokens

    async def establish(
        self, wanted: Collection[Grant], hosts: Mapping[HostName, HostTokens], *, is_fresh: bool
    ) -> None:
        """Every grant is in force; none that was is taken away. Raises MeshError.

        ``is_fresh``: no agent of this mesh ever let anybody in without a token.
        """
        if is_fresh:
            self.tokens.note_enforced()
        management = await self._management()
        await self._through_server(lambda edge: _bring(edge, wanted), management)
        # A server was started with a token that did not exist yet. Asking anew takes it half a
        # minute by itself; what its host registers would be refused until then.
        for server in consul_servers(self.inventory):
            try:
                async with self._edge(server, management) as edge:
                    await edge.use_agent_token(hosts[server.name].agent)
            except (Unreachable, RemoteFailure):
                continue  # it finds out by itself

    async def trim(self, wanted: Collection[Grant], hosts: Collection[HostName]) -> None:
        """Nothing but the grants is left of what the mesh ever made. Raises MeshError."""
        management = await self._management()
        await self._through_server(lambda edge: _trim(edge, wanted), management)
        self.tokens.forget_others(hosts)
        self.tokens.note_applied(digest(wanted))

    async def forget(self, gone: Collection[HostName], record: DeployRecord) -> None:
        """Hosts that were taken out: what they had is worth nothing any more. Raises MeshError."""
        staying = [host.name for host in self.inventory.hosts if host.name not in gone]
        if not any(server.name in staying for server in consul_servers(self.inventory)):
            if not staying:
                self.tokens.forget_all()
                ConsulCa(self.tokens.folder).forget_all()
            return
        if self.tokens.management is None:
            return  # a mesh that no deploy has brought access control to yet
        hosts = [host for host in self.inventory.hosts if host.name in staying]
        left = replace(self, inventory=replace(self.inventory, hosts=tuple(hosts)))
        services = {host: entry.services for host, entry in record.hosts.items()}
        await left.trim(grants(self.tokens.read(staying), services), staying)

    async def _management(self) -> Token:
        """The one that is kept, if Consul knows it; else a new one, by Consul's own way: whoever
        can write to the leader's data folder may have one."""
        kept = self.tokens.management
        if kept is not None:
            accessor = await self._when_ready(lambda edge: edge.own_accessor(), kept)
            if accessor is not None:
                return kept
        try:
            made = await self._when_ready(lambda edge: edge.bootstrap(), None)
        except Spent as spent:
            made = await self._another(spent.reset_index)
        self.tokens.keep_management(made)
        return made

    async def _another(self, reset_index: int) -> Token:
        """As Consul's documentation says for a lost management token."""
        reached = []
        for server in consul_servers(self.inventory):
            path = f"{layout_of(server).consul_state}/{_RESET_FILE}"
            try:
                transport = await self.connector.connect(server.name)
                # Nobody but Consul gets into the folder; the leader removes the file.
                await files.put(transport, path, str(reset_index).encode(), 0o644)
            except Unreachable:
                continue
            reached.append((transport, path))
        try:
            return await self._when_ready(lambda edge: edge.bootstrap(), None)
        finally:
            for transport, path in reached:
                with contextlib.suppress(MeshError):
                    await transport.run(["rm", "-f", "--", path], timeout_s=15.0)

    async def _when_ready(
        self, act: Callable[[AccessEdge], Awaitable[T]], token: Token | None
    ) -> T:
        """Raises NotReady when it is not in time."""
        deadline = asyncio.get_running_loop().time() + READY_S
        while True:
            try:
                return await self._through_server(act, token)
            except NotReady:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_POLL_S)

    async def _through_server(
        self, act: Callable[[AccessEdge], Awaitable[T]], token: Token | None
    ) -> T:
        """By the first server that can be reached."""
        failure: MeshError = Unreachable("no control host of the inventory can be reached")
        for server in consul_servers(self.inventory):
            try:
                async with self._edge(server, token) as edge:
                    return await act(edge)
            except Unreachable as error:
                failure = error
        raise failure

    @asynccontextmanager
    async def _edge(self, server: Host, token: Token | None) -> AsyncIterator[AccessEdge]:
        url = urlsplit(self.inventory.consul.address)
        transport = await self.connector.connect(server.name)
        target = Address(host=url.hostname or "127.0.0.1", port=url.port or 8500)
        async with (
            transport.tunnel(target) as near,
            AccessEdge(f"http://{near.host}:{near.port}", token) as edge,
        ):
            yield edge


async def _bring(edge: AccessEdge, wanted: Collection[Grant]) -> None:
    policies = await edge.policies()
    tokens = {token.accessor: token for token in await edge.tokens()}
    at_once = asyncio.Semaphore(_PARALLEL)

    async def one(grant: Grant) -> None:
        async with at_once:
            known = policies.get(grant.name)
            if known is None or known.description != grant.mark:
                await edge.put_policy(grant, known)
            token = tokens.get(grant.token.accessor)
            if token is None or token.policies != (grant.name,):
                await edge.put_token(grant, is_known=token is not None, mark=TOKEN_MARK)

    await asyncio.gather(*map(one, wanted))


async def _trim(edge: AccessEdge, wanted: Collection[Grant]) -> None:
    await _bring(edge, wanted)
    accessors = {grant.token.accessor for grant in wanted} | {await edge.own_accessor()}
    for token in await edge.tokens():
        is_ours = token.description.startswith((TOKEN_MARK, _FIRST_TOKEN))
        if is_ours and token.accessor not in accessors:
            await edge.delete_token(token.accessor)
    names = {grant.name for grant in wanted}
    for policy in (await edge.policies()).values():
        if policy.name.startswith(POLICY_PREFIX) and policy.name not in names:
            await edge.delete_policy(policy)
