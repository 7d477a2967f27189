"""Whether a caller may do what it asks for: declared callers, intentions, paths. Pure."""

from proxy.core.authorization.decision import Decision, Reason
from proxy.core.authorization.paths import forwarded_target
from proxy.core.authorization.rules import Authorizer, CallerRules
from proxy.core.authorization.tokens import Claims, Untrusted, Verify

__all__ = [
    "Authorizer",
    "CallerRules",
    "Claims",
    "Decision",
    "Reason",
    "Untrusted",
    "Verify",
    "forwarded_target",
]
