"""Denied calls are counted once, and explained by the policy in force."""

from telemetry.made import Proxy

from meshctl.dashboard.denials import Denials
from proxy.core.stats import Stats
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy


def look(total: int, uptime_s: float) -> dict[HostName, Stats]:
    proxy = Proxy("one")
    proxy.denials("web", "api", "api/default-deny", total)
    return {HostName("one"): proxy.stats(uptime_s)}


def test_each_denial_counts_once_from_the_first_look_on() -> None:
    denials = Denials()
    for second, total in enumerate((7, 7, 9, 9, 12)):
        denials.count(look(total, 100.0 + second), at=float(second))
    (row,) = denials.document()["rows"]
    assert (row["caller"], row["service"], row["count"], row["last_at"]) == ("web", "api", 5, 4.0)


def test_a_proxy_that_began_anew_counts_from_zero() -> None:
    denials = Denials()
    denials.count(look(50, 100.0), at=1.0)
    denials.count(look(3, 1.0), at=2.0)
    assert denials.document()["rows"][0]["count"] == 3


def test_it_is_told_in_a_sentence() -> None:
    denials = Denials()
    denials.policy = Policy()
    denials.count(look(0, 1.0), at=1.0)
    denials.count(look(1, 2.0), at=2.0)
    assert denials.document()["rows"][0]["why"] == f"no intention of {ServiceName('api')} allows it"
