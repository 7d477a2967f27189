"""Everything has ended: the mesh back over SSH alone, by the CA alone.

What is expired of the CA is made anew first, on this side. Then every host at the same time: its
trust bundle, its signer's certificate, its leaves; what does not run is started; and what it
serves then is looked at on the wire. Consul is asked for nothing. Harmless where nothing is wrong.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from meshctl.apply import trust
from meshctl.apply.issue import Issuance
from meshctl.apply.members import Member, members
from meshctl.apply.placed import Reached, reached
from meshctl.apply.root_rotation import certify
from meshctl.apply.rotate import renew
from meshctl.apply.steps import proxy_supervisor, stop_timeout_s
from meshctl.errors import MeshError, RemoteFailure
from meshctl.facts.request import layout_of, uses_systemd
from meshctl.inventory.model import Inventory
from meshctl.layout import SIGNER_UNIT
from meshctl.pki import rotation as machine
from meshctl.pki import successor
from meshctl.pki.authority import LEAF_LIFE_MIN_S, Issuer, pem
from meshctl.pki.passphrase import Source
from meshctl.pki.rotation import ROTATION_FILE, Confirmation, Phase, Rotation
from meshctl.pki.signers import Certificate
from meshctl.pki.store import CaStore
from meshctl.state import StateDir
from meshctl.transport import Connector
from proxy.model.names import HostName, ServiceName

_ENDS_SOON = timedelta(seconds=2 * LEAF_LIFE_MIN_S)
"""A CA this close to its end signs nothing that would be of use."""
_READY_S = 40.0
_START_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RescuedHost:
    host: HostName
    leaves: tuple[ServiceName, ...] = ()
    """Issued, and seen on the wire."""
    has_signer: bool = False
    """Certified anew, and seen on the wire."""
    error: str = ""
    output: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    is_root_new: bool
    is_issuing_new: bool
    hosts: tuple[RescuedHost, ...]
    not_deployed: tuple[HostName, ...]

    @property
    def is_good(self) -> bool:
        return not any(host.error for host in self.hosts)


@dataclass(slots=True, kw_only=True)
class Rescue:
    """Hold the state's lock for as long as this is used."""

    inventory: Inventory
    state: StateDir
    connector: Connector
    passphrase: Source
    """May be called several times (``store.remembered``)."""
    owner: str
    parallel: int
    now: Callable[[], datetime]
    say: Callable[[str], None]
    _ca: CaStore = field(init=False)
    _root: Issuer = field(init=False)
    _issuance: Issuance = field(init=False)

    async def run(self) -> Rescued:
        """Raises MeshError for what is wrong with the CA; a host that fails is in the report."""
        self._ca = CaStore.open(self.state)
        is_root_new = self._renew_root()
        is_issuing_new = is_root_new or self._renew_issuing()
        self._root = self._ca.unlock_root(self.passphrase)
        self._issuance = Issuance(
            signer=self._ca.unlock(self.passphrase),
            record=self.state.read_record(),
            trust_domain=self.state.trust_domain,
            now=self.now,
            life_s=self.inventory.leaf_life_s,
        )
        found = members(self.inventory, self.state.read_record())
        self.say(f"{len(found.deployed)} host(s): trust bundle, signers, leaves")
        gate = asyncio.Semaphore(self.parallel)

        async def one(member: Member) -> RescuedHost:
            async with gate:
                return await self._host(member)

        hosts = await asyncio.gather(*(one(member) for member in found.deployed))
        self._note(hosts)
        return Rescued(
            is_root_new=is_root_new,
            is_issuing_new=is_issuing_new,
            hosts=tuple(hosts),
            not_deployed=found.not_deployed,
        )

    # The CA.

    def _renew_root(self) -> bool:
        """As a rotation that begins in the middle: nobody could be asked to trust both roots.

        Cut off in between, the next call does it again from what it finds.
        """
        if not self._is_ending(self._ca.root):
            return False
        now, old = self.now(), self._ca.root
        if successor.retiring_root(self._ca) is not None:
            # A rotation was under way and its new root has ended too: the one before is long gone.
            self._ca = successor.retire(successor.switch(self.state))
        following = successor.next_root(self._ca)
        if following is not None and self._is_ending(following):
            self._ca = successor.abandon(self._ca)
        self.state.write(ROTATION_FILE, machine.begin(successor.sha256(old), now))
        new = successor.prepare(self._ca, self.passphrase, now)
        self._ca = self._ca.with_trust_bundle(old, new)
        self._ca = successor.switch(self.state)
        self.state.write(
            ROTATION_FILE, machine.switched(successor.sha256(old), successor.sha256(new), now)
        )
        self.say(f"the root had ended: a new one, SHA-256 {successor.sha256(new)}")
        return True

    def _renew_issuing(self) -> bool:
        if not self._is_ending(self._ca.issuing):
            return False
        self._ca = self._ca.renew_issuing(self.passphrase, self.now())
        self.say("the issuing CA had ended: a new one under the same root")
        return True

    def _is_ending(self, certificate: Certificate) -> bool:
        return self.now() + _ENDS_SOON >= certificate.not_valid_after_utc

    # A host.

    async def _host(self, member: Member) -> RescuedHost:
        name = member.host.name
        leaves: tuple[ServiceName, ...] = ()
        has_signer = False
        failures: list[MeshError] = []
        try:
            async with reached(member.host, self.connector, self.owner) as there:
                try:
                    has_signer = await self._signer(member, there)
                except MeshError as error:
                    failures.append(error)
                if member.has_proxy:
                    leaves = await self._proxy(member, there)
        except MeshError as error:
            failures.insert(0, error)
        if not failures:
            self.say(f"{name}: {len(leaves)} certificate(s), seen on the wire")
            return RescuedHost(host=name, leaves=leaves, has_signer=has_signer)
        first = failures[0]
        self.say(f"{name}: {first}")
        return RescuedHost(
            host=name,
            leaves=leaves,
            has_signer=has_signer,
            error="; ".join(str(error) for error in failures),
            output=first.output if isinstance(first, RemoteFailure) else "",
            hint=first.hint or "correct that, then run meshctl certs rescue again",
        )

    async def _signer(self, member: Member, there: Reached) -> bool:
        if not (member.is_signer and there.placed.signer):
            return False
        await certify(there, self._ca, self._root, self.now())
        # It may have given up: without a certificate that is good now it does not start.
        for verb in ("reset-failed", "start"):
            done = await there.transport.run(
                ("systemctl", verb, "--", SIGNER_UNIT), timeout_s=_START_S
            )
        if done.exit_status != 0:
            raise RemoteFailure(
                f"the signer on {member.host.name} does not start",
                output=done.stderr.decode("utf-8", "replace"),
                hint=f"on {member.host.name}: journalctl -u {SIGNER_UNIT}",
            )
        port = self.inventory.certificates.signer_port
        await trust.look_at_signer(
            member.host, there.transport, self.state.trust_domain, port, pem(self._ca.root)
        )
        return True

    async def _proxy(self, member: Member, there: Reached) -> tuple[ServiceName, ...]:
        if not there.placed.config:
            raise MeshError(
                f"{member.host.name} has no proxy yet",
                hint=f"meshctl deploy --limit {member.host.name}",
            )
        await trust.write_bundle(there, self._ca.trust_bundle_pem)
        if not member.services:
            await _take(there)
            return ()
        done = await renew(there, member.services, self._issuance, pem(self._ca.root), take=_take)
        for entry in done:
            if entry.error:
                raise RemoteFailure(
                    f"{entry.service}: {entry.error}", output=entry.output, hint=entry.hint
                )
        return tuple(entry.service for entry in done)

    def _note(self, hosts: list[RescuedHost]) -> None:
        """What was seen is a confirmation, for a rotation that goes on after this."""
        rotation = self.state.read(ROTATION_FILE, Rotation)
        if rotation is None or rotation.phase is not Phase.REISSUE:
            return
        for host in hosts:
            if not host.error:
                rotation = machine.confirm(rotation, host.host, Confirmation.SERVES, self.now())
        self.state.write(ROTATION_FILE, rotation)


async def _take(there: Reached) -> None:
    """The proxy of the host uses what is on its disk; one that does not run is started."""
    try:
        await trust.reload_proxy(there.remote)
    except RemoteFailure:
        await start_proxy(there)
        await trust.reload_proxy(there.remote)


async def start_proxy(there: Reached) -> None:
    """Ready when it returns; nothing is done to one that runs. Raises StepFailed."""
    host, layout = there.host, layout_of(there.host)
    stop_s = stop_timeout_s(host)
    await there.remote.operate(
        "bring-up",
        supervisor=proxy_supervisor(host),
        uses_units=uses_systemd(host),
        current=layout.current,
        previous=layout.previous,
        configs=f"{layout.prefix}/configs",
        config=there.placed.config,
        expected=there.placed.config,
        verb="start",
        unit=None,
        files=[],
        admin=f"127.0.0.1:{host.proxy.admin_port}",
        stop_s=stop_s,
        ready_s=_READY_S,
        timeout_s=stop_s + 2 * _READY_S,
    )
