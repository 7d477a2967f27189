"""The index of a Consul blocking query: what to send next, given what came back.

Consul, "Blocking Queries": reset to 0 when the index goes backwards (a restored or wiped
cluster); send at least 1 after the first answer, or a server that says 0 turns the client into a
busy loop.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a blocking query stands."""

    index: int = 0
    """To send with the next query; 0: answer at once."""
    seen: int = 0
    """Of the last answer."""
    went_back: bool = False
    """The last answer's index was below the one before: the registry has lost history."""

    def after(self, answered: int) -> "Cursor":
        """``answered``: X-Consul-Index of the answer; 0 if it was absent."""
        answered = max(0, answered)
        if answered < self.seen:
            return Cursor(index=0, seen=answered, went_back=True)
        return Cursor(index=max(1, answered), seen=answered)

    def after_failure(self) -> "Cursor":
        """Ask anew: a registry that was restarted with less history would otherwise let a query
        with the old index wait for its whole time."""
        return replace(self, index=0, went_back=False)
