"""What was decided, and by which rule: every refusal can be traced to one."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """What decided, where it was no intention: the last part of the policy's id."""

    DECLARED = "declared"
    """There are no intentions, and the inventory declares the call."""
    UNDECLARED = "undeclared"
    """The inventory does not declare the call; no intention can allow it."""
    DEFAULT_DENY = "default-deny"
    """There are intentions, and none allows it."""
    NO_POLICY = "no-policy"
    """No policy that could be verified has arrived yet: what it would deny is not known."""
    STRICT = "strict"
    """The caller has no identity, and the service's mode asks for one."""
    PERMISSIVE = "permissive"
    """The caller has no identity, and the service's mode does not ask for one."""
    TOKEN = "token"  # noqa: S105  # no secret
    """An intention would allow it if only its token were good."""
    AMBIGUOUS_PATH = "ambiguous-path"
    """Applications may read the path in different ways."""
    AMBIGUOUS_HEADER = "ambiguous-header"
    """The same of a header that rules look at."""
    AMBIGUOUS_QUERY = "ambiguous-query"
    """The same of a query parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    is_allowed: bool
    policy: str
    """``<service>/<name of the intention>``, or ``<service>/<Reason>``."""
    why: str
    """For people: ``no intention of api allows it``."""
    audited: tuple[str, ...] = ()
    """Ids of audit intentions that would have decided otherwise."""
