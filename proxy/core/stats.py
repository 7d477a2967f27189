"""What a proxy has counted and what it thinks of endpoints, for ``meshctl top`` and its like."""

from proxy.core.exposition import FamilyTally
from proxy.model.codec import Value
from proxy.model.names import HostName
from proxy.model.status import ClusterState


class Stats(Value, frozen=True, kw_only=True):
    """The admin port's answer to ``GET /stats``: since the proxy's start, over all workers."""

    host: HostName
    at: float
    """Unix seconds, by the host's clock."""
    uptime_s: float
    """A smaller one than before: the counters began anew."""
    version: str
    generation: int
    families: tuple[FamilyTally, ...]
    clusters: tuple[ClusterState, ...]
    """Of one worker."""
