"""What the decoder cannot see in a policy: numbers that defeat each other, names that lead nowhere.

The same rules for ``meshctl``, before anything is published, and for each proxy, before anything
is put in force. They need the policy and nothing else; what also needs the inventory is
``meshctl``'s own. Paths are those of ``mesh.yaml``: ``services.api.routes[2].timeouts.request``.
"""

from proxy.core.soundness.finding import Finding
from proxy.core.soundness.policy import check, findings, pieces

__all__ = ["Finding", "check", "findings", "pieces"]
