"""A plan: per host an ordered tuple of steps, each with its reason and its precondition."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from meshctl.acl import Grant, HostTokens
from meshctl.artifacts import ManagedConsul, RenderedFile
from meshctl.bundle.model import Bundle, Wheel
from meshctl.facts.preflight import Finding
from meshctl.pki.record import DeployRecord
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy
from proxy.model.settings import Settings


class Action(StrEnum):
    """What a step does; stable names, for programs that read ``-o json``."""

    START_REGISTRY = "start-registry"
    REMOVE_SIGNER = "remove-signer"
    CERTIFY_SIGNER = "certify-signer"
    START_SIGNER = "start-signer"
    RESTART_SIGNER = "restart-signer"
    RELOAD_SIGNER = "reload-signer"
    PREPARE = "prepare"
    PUSH_CONSUL = "push-consul"
    WRITE_CONSUL = "write-consul"
    CERTIFY_CONSUL = "certify-consul"
    START_CONSUL = "start-consul"
    PUSH_WHEELS = "push-wheels"
    INSTALL_RELEASE = "install-release"
    WRITE_CONFIG = "write-config"
    ISSUE_LEAF = "issue-leaf"
    REMOVE_LEAF = "remove-leaf"
    ACTIVATE = "activate"
    START = "start"
    RESTART = "restart"
    RELOAD = "reload"
    PRUNE = "prune"
    SET_UP_ACCESS = "set-up-access"
    ENFORCE_ACCESS = "enforce-access"
    ENFORCE_TLS = "enforce-tls"
    TRIM_ACCESS = "trim-access"
    PUBLISH = "publish"


class Phase(IntEnum):
    """Hosts wait for each other between two phases, within one they do not."""

    SIGNER = 0
    """Before Consul, which it needs nothing of: that a host may renew no more is not put off by a
    Consul that does not come up. Before the proxies, so that who is new is known when it asks."""
    CONSUL = 1
    """The servers of a managed one. After it they are told who may do what."""
    AGENT = 2
    """The clients, which know their tokens from the start."""
    PROXY = 3
    ENFORCE = 4
    """Every proxy has its token, every server its certificate: from here on those without one are
    refused. Only in the deploy that brings this to a Consul that ran without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    path: str
    mode: int
    owner: str
    group: str = ""
    """Empty: the owner's."""

    @property
    def ownership(self) -> str:
        return f"{self.owner}:{self.group}" if self.group else self.owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """System users, then directories, that are missing or have another mode or owner."""

    users: tuple[str, ...]
    directories: tuple[Directory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConsul:
    consul: ManagedConsul
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFiles:
    """Files that are missing or differ; ``link``: a symbolic link (path, target) put last."""

    files: tuple[RenderedFile, ...]
    link: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifyConsul:
    """A new key on a server of a managed Consul, and a certificate for it; it takes them when it
    is started."""

    release: str
    """Digest of the signer's release, which makes the key."""
    datacenter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartConsul:
    """Start or restart the agent; a server that restarts does so alone."""

    is_restart: bool
    is_server: bool
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PushWheels:
    wheels: tuple[Wheel, ...]
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRelease:
    bundle: Bundle
    python: str
    """The host's interpreter, absolute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueLeaf:
    service: ServiceName
    release: str
    config: str
    """Digests of what the leaf is made with, which ``current`` may not point to yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveLeaf:
    service: ServiceName


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Bring the proxy to run ``settings``: switch, unit, start; go back if it does not get ready.

    ``verb`` is ``start``, ``restart`` or ``reload``. The step's precondition is ``expected``.
    """

    verb: str
    settings: Settings
    expected: str
    """Digest that ``current`` points to before; empty: no link."""
    unit: RenderedFile | None = None
    """Set where it is missing or differs."""
    files: tuple[RenderedFile, ...] = ()
    """Written right before the reload: a new trust bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifySigner:
    """A new key on the host and the root's certificate for it; needs the root's key."""

    release: str
    """Digest of the release that makes the key, which may not be the one that runs yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSigner:
    """Bring the signer to run ``release`` with these files; go back if it does not get ready.

    ``verb`` is ``start``, ``restart`` or ``reload``. The step's precondition is ``expected``.
    """

    verb: str
    release: str
    expected: str
    """Digest that the signer's link points to before; empty: no link."""
    files: tuple[RenderedFile, ...]
    """Those that are missing or differ."""
    unit: RenderedFile | None
    record_digest: str
    bundle_digest: str
    """What it has to say of itself afterwards."""


@dataclass(frozen=True, slots=True)
class RemoveSigner:
    """Its unit, files, user, key and link; the release goes with ``Prune``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    releases: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    consul: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRegistry:
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUpAccess:
    """What hosts may do now and what they may do then, as the plan changes that."""

    grants: tuple[Grant, ...]
    tokens: Mapping[HostName, HostTokens]
    is_fresh: bool
    """No agent of the mesh ran before."""
    is_tls_enforced: bool = False
    """Every agent was started to talk to servers with a certificate only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimAccess:
    grants: tuple[Grant, ...]
    hosts: frozenset[HostName]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    policy: Policy


HostPayload = (
    Prepare | PushConsul | WriteFiles | StartConsul | PushWheels | InstallRelease
    | IssueLeaf | RemoveLeaf | Service | Prune | CertifySigner | RunSigner | RemoveSigner
    | CertifyConsul
)  # fmt: skip
MeshPayload = StartRegistry | Publish | SetUpAccess | TrimAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of one host (or of the mesh, where ``host`` is None)."""

    host: HostName | None
    action: Action
    title: str
    why: str
    details: tuple[str, ...] = ()
    """What is shown of the payload: nothing secret is in here."""
    precondition: str = ""
    """What must still hold when the step's turn comes, as shown; empty: the step is idempotent."""
    push_bytes: int = 0
    phase: Phase = Phase.PROXY
    payload: HostPayload | MeshPayload = field(repr=False)


class Verdict(StrEnum):
    INSTALL = "install"
    CHANGE = "change"
    UNCHANGED = "unchanged"
    BLOCKED = "blocked"
    UNREACHABLE = "unreachable"
    SKIPPED = "skipped"
    """Left out by ``--limit``. A signer's host may have steps even so: it has to be told who may
    have identities, whatever hosts the change is limited to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    host: HostName
    address: str
    verdict: Verdict
    python: str = ""
    """The host's interpreter that runs operations there."""
    steps: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()
    error: str = ""
    """Why the host could not be asked."""
    hint: str = ""
    exit_code: int = 0
    """That of the error that made it unreachable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    hosts: tuple[HostPlan, ...]
    before: tuple[Step, ...] = ()
    """Of the mesh, before any host."""
    between: tuple[Step, ...] = ()
    """Of the mesh, once Consul's servers run and before anything else asks them."""
    after: tuple[Step, ...] = ()
    """Of the mesh, once the proxies are ready."""
    record: DeployRecord = field(default_factory=DeployRecord)
    """Which identities each host may have once the plan is carried out."""
    warnings: tuple[str, ...] = ()
    """What it does not do that matters, each with its consequence and the next command."""

    @property
    def is_empty(self) -> bool:
        is_quiet = not self.before and not self.between and not self.after
        return is_quiet and not any(host.steps for host in self.hosts)

    @property
    def has_obstacles(self) -> bool:
        """Whether a host that was asked for is left out."""
        return any(host.verdict in (Verdict.BLOCKED, Verdict.UNREACHABLE) for host in self.hosts)

    @property
    def push_bytes(self) -> int:
        return sum(step.push_bytes for host in self.hosts for step in host.steps)

    def count(self, verdict: Verdict) -> int:
        return sum(host.verdict is verdict for host in self.hosts)

    @property
    def summary(self) -> str:
        """``3 to install, 1 to change, 0 unchanged`` and, where there are any, the others."""
        parts = [
            f"{self.count(Verdict.INSTALL)} to install",
            f"{self.count(Verdict.CHANGE)} to change",
            f"{self.count(Verdict.UNCHANGED)} unchanged",
        ]
        parts += [
            f"{self.count(verdict)} {verdict}"
            for verdict in (Verdict.BLOCKED, Verdict.UNREACHABLE, Verdict.SKIPPED)
            if self.count(verdict)
        ]
        return ", ".join(parts)
