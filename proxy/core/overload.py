"""When the proxy refuses work so that it stays alive: too many connections, too much memory. Pure.

It sheds from the cap on until there is a tenth less, or it would answer and refuse by turns.
"""

from proxy.model.settings import Capacity

RESUME_SHARE = 0.9


class Overload:
    """The state of one worker (or of one side of it)."""

    __slots__ = ("_capacity", "is_full", "is_out_of_memory")

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self.is_full = False
        """New connections are refused."""
        self.is_out_of_memory = False
        """New requests are answered 503 OM."""

    def admits(self, connections: int) -> bool:
        """Whether one more connection may come; ``connections``: those open now."""
        cap = self._capacity.connections
        self.is_full = connections >= (cap * RESUME_SHARE if self.is_full else cap)
        return not self.is_full

    def observe_memory(self, rss_bytes: int) -> bool:
        """Whether ``is_out_of_memory`` changed. Call about once a second.

        Freed memory stays with the process for a while: on a change to True the caller should
        collect garbage, close idle connections and hand free pages back (``malloc_trim``), or the
        state may outlast its cause.
        """
        cap = self._capacity.memory_bytes
        before = self.is_out_of_memory
        self.is_out_of_memory = rss_bytes > (cap * RESUME_SHARE if before else cap)
        return before is not self.is_out_of_memory
