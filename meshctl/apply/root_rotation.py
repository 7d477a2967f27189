"""The rotation of the root, phase by phase, on real hosts (``pki.rotation`` says which phase).

What is true of a host is found out on the wire and written down at once, so that an interruption
costs at most the work on the hosts that were under way. A host that does not come along holds the
rotation up where it is: nothing is lost by that, and nothing is retired.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from meshctl import durable
from meshctl.apply import signers, trust
from meshctl.apply.issue import Issuance
from meshctl.apply.members import Member, Members, members
from meshctl.apply.placed import Reached, reached
from meshctl.apply.rotate import renew
from meshctl.errors import MeshError, Refused, RemoteFailure
from meshctl.inventory.model import Inventory
from meshctl.pki import rotation as machine
from meshctl.pki import successor
from meshctl.pki.authority import Issuer, pem
from meshctl.pki.passphrase import Source
from meshctl.pki.probe import probing
from meshctl.pki.rotation import AGAIN, ROTATION_FILE, Confirmation, Phase, Rotation
from meshctl.pki.signers import Certificate, SignerCertificates
from meshctl.pki.store import CaStore
from meshctl.state import StateDir
from meshctl.transport import Connector
from proxy.model.names import HostName


class Blocked(RemoteFailure):
    """Hosts hold the rotation up. Everything that was done stays done."""

    def __init__(self, phase: Phase, failures: dict[HostName, MeshError]) -> None:
        (first, error), *_ = failures.items()
        names = ", ".join(failures)
        super().__init__(
            f"the rotation of the root stops at {phase}: {names} did not come along;"
            f" {first}: {error}",
            output=error.output if isinstance(error, RemoteFailure) else "",
            hint=f"bring {names} back and run {AGAIN} again; or take it out of the inventory, run"
            f" meshctl deploy, then {AGAIN}",
        )
        self.phase = phase
        self.failures = failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    rotation: Rotation
    is_done: bool
    """False: it ended well, but the old root has to stay for a while."""
    not_deployed: tuple[HostName, ...]


@dataclass(slots=True, kw_only=True)
class RootRotation:
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
    """One line about what is being done."""
    _rotation: Rotation = field(init=False)
    _ca: CaStore = field(init=False)
    _members: Members = field(init=False)
    _is_proven: bool = False
    """In this run: hosts that were just asked are not asked again."""

    async def run(self, *, retire_now: bool = False) -> Outcome:
        """To the end, or to where the old root has to be waited for.

        Raises Blocked, and MeshError for what is wrong on this side; then, as after a kill, the
        same call goes on.
        """
        self._open()
        self._members = members(self.inventory, self.state.read_record())
        if self._rotation.phase is Phase.ABORT:
            raise Refused(
                "the rotation of the root is being abandoned",
                hint=f"{AGAIN} --abort finishes that; then {AGAIN} begins anew",
            )
        work: dict[Phase, Callable[[], Awaitable[None]]] = {
            Phase.PREPARE: self._prepare,
            Phase.DISTRIBUTE: self._distribute,
            Phase.SWITCH: self._switch,
            Phase.REISSUE: self._reissue,
            Phase.PROVE: self._prove,
        }
        while self._rotation.phase is not Phase.RETIRE:
            await work[self._rotation.phase]()
            self._save(machine.advance(self._rotation, self._members.names, self.now()))
        is_done = await self._retire(retire_now=retire_now)
        return Outcome(
            rotation=self._rotation, is_done=is_done, not_deployed=self._members.not_deployed
        )

    async def abort(self) -> dict[HostName, MeshError]:
        """Back to the old root alone; which hosts could not be told. They are no danger: the new
        root's key is gone, and the next deploy tells them.

        Raises Refused where there is nothing to abandon, or no way back.
        """
        if self.state.read(ROTATION_FILE, Rotation) is None:
            raise Refused("no rotation of the root is under way")
        self._open()
        self._members = members(self.inventory, self.state.read_record())
        self._save(machine.abort(self._rotation, self.now()))
        self._ca = successor.abandon(self._ca)
        bundle = self._ca.trust_bundle_pem
        self.say(f"abort: the old root alone, to {len(self._members.deployed)} host(s)")

        async def one(_: Member, there: Reached) -> None:
            await trust.give_bundle(there, bundle)

        failures = await self._each(self._members.deployed, one)
        self._end()
        return failures

    def _open(self) -> None:
        self._ca = CaStore.open(self.state)
        found = self.state.read(ROTATION_FILE, Rotation)
        if found is None:
            # Before anything is made: what is made without it would be nobody's.
            found = machine.begin(successor.sha256(self._ca.root), self.now())
            self._rotation = found
        self._rotation = found

    # The phases. Each may have been done already, in part or altogether.

    async def _prepare(self) -> None:
        self._save(self._rotation)
        root = successor.prepare(self._ca, self.passphrase, self.now())
        fingerprint = successor.sha256(root)
        self.say(f"prepare: a new root, SHA-256 {fingerprint}")
        self._save(machine.prepared(self._rotation, fingerprint))

    async def _distribute(self) -> None:
        root = successor.unlock_next(self._ca, self.passphrase)
        self._ca = self._ca.with_trust_bundle(self._ca.root, root.certificate)
        bundle, probe = self._ca.trust_bundle_pem, probing(root, self.now())
        left = self._without(Confirmation.TRUSTS)
        self.say(f"distribute: both roots to {len(left)} host(s), then seen on the wire")

        async def one(member: Member, there: Reached) -> None:
            await trust.give_bundle(there, bundle)
            await self._require_trust(member, there, probe, is_trusted=True)
            self._confirm(member, Confirmation.TRUSTS)

        await self._each_must(left, one)

    async def _switch(self) -> None:
        self._ca = successor.switch(self.state)
        found = [member for member in self._members.deployed if member.is_signer]
        self.say(f"switch: the new issuing CA signs; {len(found)} signer(s) certified anew")
        if found:
            root = self._ca.unlock_root(self.passphrase)
            await self._certify(found, root)

    async def _certify(self, found: list[Member], root: Issuer) -> None:
        failures: dict[HostName, MeshError] = {}
        for member in found:  # one after the other: the others renew meanwhile
            try:
                async with reached(member.host, self.connector, self.owner) as there:
                    await certify(there, self._ca, root, self.now())
            except MeshError as error:
                failures[member.host.name] = error
        if failures:
            raise Blocked(self._rotation.phase, failures)

    async def _reissue(self) -> None:
        left = self._without(Confirmation.SERVES)
        count = sum(len(member.services) for member in left)
        self.say(f"reissue: {count} certificate(s) on {len(left)} host(s)")
        issuance = self._issuance()

        async def one(member: Member, there: Reached) -> None:
            await self._renew(member, there, issuance)
            self._confirm(member, Confirmation.SERVES)

        await self._each_must(left, one)
        self._save(machine.scheduled(self._rotation, self.now(), self.inventory.leaf_life_s))

    async def _prove(self) -> None:
        every = self._members.deployed
        self.say(f"prove: {len(every)} host(s) trust the new root and serve under it")
        probe = probing(self._ca.unlock_root(self.passphrase), self.now())
        issuance: Issuance | None = None

        async def one(member: Member, there: Reached) -> None:
            nonlocal issuance
            for what in (Confirmation.TRUSTS, Confirmation.SERVES):
                self._save(machine.withdraw(self._rotation, member.host.name, what))
            try:
                await self._require_served(member, there)
            except MeshError:
                # A renewal that was under way when the issuers were switched came in after ours;
                # or somebody has deployed from a backup.
                issuance = issuance or self._issuance()
                await self._renew(member, there, issuance)
                await self._require_served(member, there)
            self._confirm(member, Confirmation.SERVES)
            await self._require_trust(member, there, probe, is_trusted=True)
            self._confirm(member, Confirmation.TRUSTS)

        await self._each_must(every, one)
        self._is_proven = True

    async def _retire(self, *, retire_now: bool) -> bool:
        old = successor.retiring_root(self._ca)
        # One that has ended proves nothing to anybody: there is nothing to wait for.
        has_ended = old is None or self.now() >= old.not_valid_after_utc
        if not (retire_now or has_ended or machine.is_due(self._rotation, self.now())):
            self.say(f"retire: the old root stays until {self._rotation.retire_after}")
            return False
        if old is not None:
            if not self._is_proven:
                await self._prove()
            await self._withdraw_trust(old)
        late = machine.missing(self._rotation, self._members.names)
        if late:  # the key is gone already, and somebody has put a host in meanwhile
            self.say(f"retire: {', '.join(late)} came in later; deploy gives it what it needs")
        self._ca = successor.retire(self._ca)
        self.say("retire: no host trusts the old root any more; its key is deleted")
        self._end()
        return True

    async def _withdraw_trust(self, old: Certificate) -> None:
        self._ca = self._ca.with_trust_bundle(self._ca.root)
        bundle, now = self._ca.trust_bundle_pem, self.now()
        every = self._members.deployed
        # One that has ended is refused whether it is trusted or not; there is nothing to see.
        probe = (
            probing(successor.unlock_retiring(self._ca, self.passphrase), now)
            if now < old.not_valid_after_utc
            else None
        )
        self.say(f"retire: the new root alone to {len(every)} host(s), then seen on the wire")

        async def one(member: Member, there: Reached) -> None:
            await trust.give_bundle(there, bundle)
            if probe is not None:
                await self._require_trust(member, there, probe, is_trusted=False)
            self._confirm(member, Confirmation.RETIRED)

        await self._each_must(every, one)

    # What they are made of.

    def _issuance(self) -> Issuance:
        return Issuance(
            signer=self._ca.unlock(self.passphrase),
            record=self.state.read_record(),
            trust_domain=self.state.trust_domain,
            now=self.now,
            life_s=self.inventory.leaf_life_s,
        )

    async def _renew(self, member: Member, there: Reached, issuance: Issuance) -> None:
        if not member.services:
            return
        for done in await renew(there, member.services, issuance, pem(self._ca.root)):
            if done.error:
                raise RemoteFailure(
                    f"{done.service}: {done.error}", output=done.output, hint=done.hint
                )

    async def _require_served(self, member: Member, there: Reached) -> None:
        domain, root = self.state.trust_domain, pem(self._ca.root)
        for service in member.services:
            await trust.look(member.host, there.transport, domain, service, root)
        if there.placed.signer:
            port = self.inventory.certificates.signer_port
            await trust.look_at_signer(member.host, there.transport, domain, port, root)

    async def _require_trust(
        self, member: Member, there: Reached, probe: ssl.SSLContext, *, is_trusted: bool
    ) -> None:
        await trust.require_trust(
            member.host,
            there.transport,
            self.state.trust_domain,
            member.services,
            probe,
            is_trusted=is_trusted,
        )

    def _without(self, what: Confirmation) -> list[Member]:
        return [
            member
            for member in self._members.deployed
            if not machine.has_confirmed(self._rotation, member.host.name, what)
        ]

    async def _each_must(
        self,
        hosts: list[Member] | tuple[Member, ...],
        work: Callable[[Member, Reached], Awaitable[None]],
    ) -> None:
        failures = await self._each(hosts, work)
        if failures:
            raise Blocked(self._rotation.phase, failures)

    async def _each(
        self,
        hosts: list[Member] | tuple[Member, ...],
        work: Callable[[Member, Reached], Awaitable[None]],
    ) -> dict[HostName, MeshError]:
        """One host's failure keeps no other from its work."""
        gate = asyncio.Semaphore(self.parallel)

        async def one(member: Member) -> MeshError | None:
            async with gate:
                try:
                    async with reached(member.host, self.connector, self.owner) as there:
                        if member.has_proxy and not there.placed.config:
                            raise MeshError("it has no proxy yet", hint="meshctl deploy")
                        await work(member, there)
                except MeshError as error:
                    return error
            return None

        results = await asyncio.gather(*(one(member) for member in hosts))
        return {
            member.host.name: error
            for member, error in zip(hosts, results, strict=True)
            if error is not None
        }

    def _confirm(self, member: Member, what: Confirmation) -> None:
        self._save(machine.confirm(self._rotation, member.host.name, what, self.now()))

    def _save(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self.state.write(ROTATION_FILE, rotation)

    def _end(self) -> None:
        path = self.state.path / ROTATION_FILE
        with durable.translated(path, "removed"):
            path.unlink(missing_ok=True)
            durable.flush_folder(path.parent)


async def certify(there: Reached, ca: CaStore, root: Issuer, now: datetime) -> Certificate | None:
    """The signer of a host under ``root``; None: no signer is installed there yet, and the deploy
    that installs it certifies it."""
    if not there.placed.signer:
        return None
    kept = SignerCertificates(ca.folder)
    return await signers.certify(
        there.remote,
        root,
        trust_bundle=ca.trust_bundle_pem,
        trust_domain=ca.trust_domain,
        now=now,
        keep=lambda host, certificate: kept.keep(host, certificate, now),
    )
