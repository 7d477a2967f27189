"""From single probe results to the health that is reported."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of one application or endpoint."""

    is_known: bool = False
    """False until the first result, which counts at once."""
    is_healthy: bool = False
    failures: int = 0
    """Consecutive."""
    successes: int = 0
    """Consecutive, while unhealthy."""
    detail: str = "not checked yet"

    def after(
        self, failure: str | None, *, unhealthy_after: int, healthy_after: int = 1
    ) -> "Health":
        """``failure``: None if the probe succeeded, else why not."""
        if failure is None:
            successes = self.successes + 1
            if self.is_known and not self.is_healthy and successes < healthy_after:
                return replace(self, failures=0, successes=successes)
            return Health(is_known=True, is_healthy=True, detail="ok")
        failures = self.failures + 1
        if self.is_healthy and failures < unhealthy_after:
            return replace(self, failures=failures, detail=failure)
        return Health(is_known=True, is_healthy=False, failures=failures, detail=failure)

    def says_the_same(self, other: "Health") -> bool:
        """True if a change from one to the other is not worth a report before its time."""
        return (self.is_known, self.is_healthy) == (other.is_known, other.is_healthy)


ASSUMED = Health(is_known=True, is_healthy=True)
"""To start with where the registry already vouches: the first failure does not count at once."""
