"""The facts of one host, decoded: observations only, no opinion on whether they are good."""

from dataclasses import dataclass, field

from proxy.model.codec import Value
from proxy.model.names import ServiceName
from proxy.model.status import IdentityStatus


class Interpreter(Value, frozen=True, kw_only=True):
    executable: str
    version: tuple[int, int, int]
    implementation: str


class Systemd(Value, frozen=True, kw_only=True):
    version: int
    state: str
    """``running`` or ``degraded`` are fine; empty: it does not answer."""


class Listener(Value, frozen=True, kw_only=True):
    port: int
    pid: int
    """0: a process that we may not look at."""
    process: str
    group: str
    """Control group, which ends in the name of the systemd unit."""


class WheelFile(Value, frozen=True, kw_only=True):
    size: int
    sha256: str


class ConfigDirectory(Value, frozen=True, kw_only=True):
    files: dict[str, str]
    """SHA-256 by file name."""
    release: str
    """Digest of the release it runs with; empty: no link."""


class PathFact(Value, frozen=True, kw_only=True):
    mode: int
    owner: str
    sha256: str
    """Empty for what is not a regular file."""
    group: str = ""


class Unit(Value, frozen=True, kw_only=True):
    load: str
    active: str
    sub: str
    enabled: str
    since: str
    needs_reload: bool
    pid: int

    @property
    def is_active(self) -> bool:
        return self.active in ("active", "reloading")


class Identity(Value, frozen=True, kw_only=True):
    """A leaf on the host's disk."""

    service: ServiceName
    identity: IdentityStatus | None
    error: str = ""
    host: str = ""
    """That the leaf says it was made for; empty: it does not."""
    chain: tuple[str, ...] = ()
    """SHA-256 of each certificate's DER: the leaf, then its issuer."""


class RunningIdentity(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    serial: str


class Renewal(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """How a proxy renews an identity by itself."""

    next_at: str = ""
    """RFC 3339; empty: not known yet."""
    last_error: str = ""
    failures: int = 0
    """Since it worked last."""
    is_revoked: bool = False
    """The signers know of no such identity on that host."""


class RunningWorkload(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    service: ServiceName
    identity: RunningIdentity | None = None
    renewal: Renewal | None = None
    """None: nobody but an operator renews it."""


class RunningProxy(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The part of ``ProxyStatus`` that a plan depends on; lenient, because the proxy that runs
    may be older or newer than this meshctl."""

    release: str
    config: str
    state: str
    generation: int = 0
    workloads: tuple[RunningWorkload, ...] = ()
    policy_keys: tuple[str, ...] | None = None
    """None: of a release that says nothing of them."""


class SignerCa(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The certificate that a signer signs under."""

    serial: str
    trust_domain: str
    issuer_key_id: str
    """Hex of the key identifier of the root that certified it."""
    fingerprint: str
    """SHA-256 of the DER, hex."""
    not_before: str
    not_after: str
    """RFC 3339."""


class SignerKeys(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What ``meshctl.signer.keys show`` prints."""

    signer: SignerCa | None = None
    error: str = ""


class RunningSigner(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The part of ``SignerStatus`` that a plan depends on; lenient as ``RunningProxy`` is."""

    release: str
    record_digest: str
    bundle_digest: str
    signer: SignerCa
    reload_error: str = ""
    signed: int = 0
    refused: int = 0


class SignerFact(Value, frozen=True, kw_only=True):
    """What of a signer is on a host, whatever the inventory says."""

    release: str = ""
    """Digest of the release that its link points to; empty: no link."""
    is_there: bool = False
    """Anything of it: a unit, files, a key, the link."""
    keys: bytes = b""
    status: bytes = b""
    """The body of its own ``/status``; empty: it did not answer."""


class ConsulFact(Value, frozen=True, kw_only=True):
    is_answering: bool = False
    leader: str = ""
    is_snapshot_known: bool = False
    """False: it could not be read, which says nothing of whether there is one."""
    snapshot: bytes = b""
    """The published policy as this host's agent has it."""
    is_denied: bool = False
    """Consul refuses the token of this host."""


class LockFact(Value, frozen=True, kw_only=True):
    owner: str
    until: float
    """The host's own clock."""
    is_busy: bool
    """An operation of it is running on the host right now."""


class Observation(Value, frozen=True, kw_only=True):
    """What ``probe`` prints."""

    python: Interpreter | None
    """None: no CPython 3.11 or later; then only ``found``, ``machine`` and ``os`` are known."""
    found: str
    """Version of the Python that is there; empty: none."""
    machine: str
    libc: str
    os: str
    systemd: Systemd | None
    is_root: bool
    started: float
    ended: float
    disks: dict[str, int] = {}
    listeners: tuple[Listener, ...] = ()
    users: dict[str, int] = {}
    wheels: dict[str, WheelFile] = {}
    releases: dict[str, bool] = {}
    """Whether each is complete."""
    configs: dict[str, ConfigDirectory] = {}
    consul_binaries: tuple[str, ...] = ()
    """SHA-256 of each, which is the name of its directory."""
    current: str = ""
    previous: str = ""
    policy_keys: bytes = b""
    """``policy-keys.json`` of the current configuration."""
    paths: dict[str, PathFact] = {}
    units: dict[str, Unit] = {}
    identities: tuple[Identity, ...] = ()
    proxy: bytes = b""
    """The body of the proxy's own ``/status``; empty: it did not answer."""
    signer: SignerFact = SignerFact()
    consul: ConsulFact = ConsulFact()
    lock: LockFact | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """An observation and what follows from when it was made."""

    seen: Observation
    clock_offset_s: float
    """Host's clock minus ours; half the round trip uncertain."""
    proxy: RunningProxy | None
    signer_keys: SignerKeys = field(default_factory=SignerKeys)
    signer: RunningSigner | None = None
    """None: it does not run, or does not answer."""

    @property
    def release(self) -> str:
        """Digest of the release that ``current`` runs with; empty: nothing installed."""
        config = self.seen.configs.get(self.seen.current)
        return config.release if config is not None else ""

    def unit(self, name: str) -> Unit | None:
        unit = self.seen.units.get(name)
        return unit if unit is not None and unit.load != "not-found" else None
