"""What peak EWMA remembers of an endpoint besides the observations themselves (``observe``).

Peak EWMA (Finagle, Linkerd): a cost rises to a slower answer at once, and comes down to a faster
one, or without any to nothing, by ``exp(-time / decay_s)``. So a stall is seen by the next
request, and forgotten at leisure; and whoever was slow gets another request some day.
"""

from collections.abc import Sequence
from math import exp

from proxy.core.balance.state import EndpointState

PENALTY = 4.0
"""A failure counts as a latency of four times the endpoint's cost or the usual one, whichever is
more. EWMA alone rewards whoever fails fast. A factor, not Linkerd's fixed time, because 1 s means
nothing to a service that takes 2 s, and to one that takes 1 ms it means no request for a minute:
with the default decay one odd failure turns requests away for 14 s (10 s * ln 4), and each
further one for as long again."""

PENALTY_MOST = 64.0
"""Times the usual cost: three failures in a row. Beyond that, outlier detection is in charge, and
whoever recovers should not be shunned for longer than 42 s."""

SMALL = 0.0625
"""Of ``decay_s``: up to here 1 - exp(-x) is x within 3 %, and a decay is not worth its exp."""

_SAMPLE = 64


def penalise(state: EndpointState, elapsed_s: float, usual_s: float, now: float) -> None:
    penalty = min(PENALTY * max(state.cost_s, usual_s), PENALTY_MOST * usual_s)
    state.cost_s = max(state.cost_s, penalty, elapsed_s)
    state.is_measured = True
    state.stamp_s = now


def decay(states: Sequence[EndpointState], rate: float, now: float) -> None:
    for state in states:
        past = (now - state.stamp_s) * rate
        if past > SMALL:
            state.cost_s *= exp(-past)
            state.stamp_s = now


def usual(states: Sequence[EndpointState], default_s: float) -> float:
    """The median cost of those measured (of two, the lower), by a sample if there are many."""
    step = len(states) // _SAMPLE + 1
    costs = sorted(state.cost_s for state in states[::step] if state.is_measured)
    return costs[(len(costs) - 1) // 2] if costs else default_s


def assume(states: Sequence[EndpointState], usual_s: float) -> None:
    """Whoever is not measured yet is no worse than its equals: where these take 1 ms, the assumed
    30 ms would keep it without a request for half a minute."""
    for state in states:
        if not state.is_measured and state.cost_s > usual_s:
            state.cost_s = usual_s
