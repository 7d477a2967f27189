"""Whether something grows, from looks at it over time. Pure.

Of the time that was watched, the first half is left out: caches fill, connections are made, labels
are met for the first time. Over the second half a line is fitted to each figure; what it rises by
from its begin to its end is the growth. Fitted, so that one look at a bad moment decides nothing.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    at_s: float
    figures: Mapping[str, float]
    """By name; every look has the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Growth beyond both is too much."""

    share: float
    """Of the figure's own level."""
    least: float
    """In the figure's unit: what is below is noise, whatever the level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    name: str
    level: float
    """The median."""
    by: float
    """Over the time that was judged; negative: it shrank."""
    is_within: bool


MIN_LOOKS = 4
"""In the half that is judged."""


class TooShort(Exception):
    """So few looks that any line could be drawn through them."""


def judge(looks: Sequence[Look], limits: Mapping[str, Limit]) -> list[Growth]:
    """Of each figure that has a limit, in their order. Raises TooShort."""
    if not looks:
        raise TooShort("nothing was looked at")
    middle = (looks[0].at_s + looks[-1].at_s) / 2
    judged = [look for look in looks if look.at_s >= middle]
    if len(judged) < MIN_LOOKS:
        raise TooShort(f"{len(judged)} looks in the second half, {MIN_LOOKS} are needed")
    return [_growth(name, limit, judged) for name, limit in limits.items()]


def _growth(name: str, limit: Limit, looks: Sequence[Look]) -> Growth:
    times = [look.at_s for look in looks]
    values = [look.figures[name] for look in looks]
    slope = statistics.linear_regression(times, values).slope
    by, level = slope * (times[-1] - times[0]), statistics.median(values)
    return Growth(
        name=name, level=level, by=by, is_within=by <= limit.least or by <= limit.share * level
    )
