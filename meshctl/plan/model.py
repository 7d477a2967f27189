"""A plan: per host an ordered tuple of steps, each with its reason and its precondition."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from meshctl.artifacts import ManagedConsul, RenderedFile
from meshctl.bundle.model import Bundle, Wheel
from meshctl.facts.preflight import Finding
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy
from proxy.model.settings import Settings


class Action(StrEnum):
    """What a step does; stable names, for programs that read ``-o json``."""

    START_REGISTRY = "start-registry"
    PREPARE = "prepare"
    PUSH_CONSUL = "push-consul"
    WRITE_CONSUL = "write-consul"
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
    PUBLISH = "publish"


class Phase(IntEnum):
    """Hosts wait for each other between two phases, within one they do not."""

    CONSUL = 1
    PROXY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    path: str
    mode: int
    owner: str


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
class Prune:
    releases: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    consul: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRegistry:
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    policy: Policy


HostPayload = (
    Prepare | PushConsul | WriteFiles | StartConsul | PushWheels | InstallRelease
    | IssueLeaf | RemoveLeaf | Service | Prune
)  # fmt: skip
MeshPayload = StartRegistry | Publish


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
    """Left out by ``--limit``."""


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
    after: tuple[Step, ...] = ()
    """Of the mesh, once the proxies are ready."""

    @property
    def is_empty(self) -> bool:
        return not self.before and not self.after and not any(host.steps for host in self.hosts)

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
