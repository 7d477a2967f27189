"""What is known about one endpoint from here, in one flat record that survives a new table.

The connection pool of an endpoint is a subclass, so that the balancer hands out the very object
that the request goes to. The balancer, the outlier detector, the health checks and the pool each
own the fields that say so, and nobody else writes them.
"""

from proxy.model.endpoint import Endpoint


class EndpointState:
    """All times are seconds of one monotonic clock."""

    __slots__ = (
        "avoid_until",
        "consecutive_failures",
        "cost_s",
        "ejected_until",
        "ejections",
        "endpoint",
        "inflight",
        "is_failing",
        "is_measured",
        "is_probing",
        "joined_s",
        "probe_out",
        "stamp_s",
        "tier",
        "why",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.inflight = 0
        """Requests or TCP sessions on it now. The pool's."""
        self.cost_s = 0.0
        """Peak EWMA of the latency as of ``stamp_s``. The balancer's, as all up to ``tier``."""
        self.stamp_s = 0.0
        self.is_measured = False
        """Whether ``cost_s`` comes from an observation; before, it is assumed."""
        self.joined_s = 0.0
        """When slow start began; 0: not seen by a balancer yet; -inf: there from the beginning."""
        self.avoid_until = 0.0
        """Connecting failed lately: until then it is tried last. 0: nothing against it."""
        self.probe_out = False
        """The request that decides over a probing endpoint has been handed out."""
        self.tier = 0
        """Its place in the failover list."""
        self.is_failing = False
        """By active health check, whose field it is."""
        self.ejected_until = 0.0
        """0: not ejected. The outlier detector's, as all below."""
        self.consecutive_failures = 0
        self.ejections = 0
        self.is_probing = False
        """Its ejection's time is over; one request decides."""
        self.why = ""
        """What was last held against it, in a short sentence; whoever judges it says so."""
