"""Whether a caller may do what it asks for: declared callers, intentions, paths. Pure."""

from proxy.core.authorization.decision import Decision, Reason
from proxy.core.authorization.paths import forwarded_target
from proxy.core.authorization.rules import Authorizer, CallerRules

__all__ = ["Authorizer", "CallerRules", "Decision", "Reason", "forwarded_target"]
