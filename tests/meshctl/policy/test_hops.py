"""Records of one request from several proxies come into the order in which it passed them."""

import pytest

from meshctl.policy.hops import denial, hops
from meshctl.policy.origins import Places
from meshctl.policy.text import Text
from meshctl.yamltree import load
from proxy.core.authorization import Reason
from proxy.model.authorization import Intention
from proxy.model.names import HostName, ServiceName
from proxy.model.policy import Policy, ServicePolicy
from proxy.model.recent import SeenRequest

TEXT = "services:\n  api:\n    intentions:\n      - {name: no, deny: web}\n"
PLACES = Places(Text(load(TEXT, "mesh.yaml")), "mesh.yaml")
POLICY = Policy(
    services={ServiceName("api"): ServicePolicy(intentions=(Intention(name="no", deny=("web",)),))}
)


def seen(
    side: str,
    host: str,
    caller: str,
    service: str,
    *endpoints: str,
    ended: int = 0,
    policy: str = "",
) -> SeenRequest:
    return SeenRequest(
        id="r", side=side, host=HostName(host), ended_at=f"2026-07-01T00:00:{ended:02}.000Z",  # type: ignore[arg-type]  # one of the two
        caller=caller, service=service, method="GET", path="/", route="", endpoints=endpoints,
        tries=len(endpoints), status=403 if policy else 200, flag="", policy=policy,
        duration_ms=1.0, first_byte_ms=0.0, request_bytes=0,
    )  # fmt: skip


FRONT = seen("source", "front", "web", "api", "api on b1", "api on b2", ended=1)
FIRST = seen("destination", "b1", "web", "api", ended=9)
SECOND = seen("destination", "b2", "web", "api", ended=2)
BACK = seen("source", "b2", "api", "orders", "orders on c", ended=8)
LAST = seen("destination", "c", "api", "orders", ended=3)


def test_who_called_whom_decides_whatever_the_clocks_say() -> None:
    given = (LAST, BACK, SECOND, FIRST, FRONT)
    assert [(hop.depth, hop.seen.host, hop.seen.side) for hop in hops(given, POLICY, PLACES)] == [
        (0, "front", "source"),
        (1, "b2", "destination"),
        (2, "b2", "source"),
        (3, "c", "destination"),
        (1, "b1", "destination"),
    ]


def test_a_called_side_alone_is_shown_all_the_same() -> None:
    (hop,) = hops((LAST,), POLICY, PLACES)
    assert (hop.depth, hop.seen) == (0, LAST)


def test_services_that_call_each_other_in_a_circle_end() -> None:
    there = seen("source", "a", "web", "api", "api on b")
    back = seen("source", "b", "api", "web", "web on a")
    given = (
        there,
        seen("destination", "b", "web", "api"),
        back,
        seen("destination", "a", "api", "web"),
    )
    assert len(hops(given, POLICY, PLACES)) == 4


def test_a_denial_has_its_sentence_and_the_line_of_its_intention() -> None:
    (hop,) = hops((seen("destination", "b", "web", "api", policy="api/no"),), POLICY, PLACES)
    assert (hop.why, hop.at) == ("the intention 'no' denies it", "mesh.yaml:4")
    assert denial("api/default-deny", POLICY, PLACES) == ("no intention of api allows it", "")
    assert denial("", POLICY, PLACES) == ("", "")
    assert "not in the policy at hand" in denial("api/gone", POLICY, PLACES)[0]


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.DECLARED, Reason.PERMISSIVE}))
def test_whatever_denies_has_a_sentence(reason: Reason) -> None:
    assert "not in the policy" not in denial(f"api/{reason}", POLICY, PLACES)[0]
