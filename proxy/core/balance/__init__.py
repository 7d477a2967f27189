"""Which endpoint a request goes to. Pure: time and chance are arguments.

    records (state) --refresh, on a change and once a second-->
        who is available (standing) -> weights as slots (slots) or a circle of hashes (hashing)
        -> one function that picks (choice)
    request -> tiers -> balancer -> that function -> endpoint
    outcome -> balancer.observe -> record

Nothing on the way of a request depends on the number of endpoints. What an endpoint has shown
stays in its record when the set of endpoints changes.
"""

from proxy.core.balance.balancer import AVOID_S, LoadBalancer
from proxy.core.balance.state import EndpointState
from proxy.core.balance.tiers import Tiers

__all__ = ["AVOID_S", "EndpointState", "LoadBalancer", "Tiers"]
