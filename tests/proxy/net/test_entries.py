"""What the registry says of instances becomes endpoints; its view of nodes never takes the last."""

import pytest

from proxy.model import registration as reg
from proxy.model.names import ServiceName, TrustDomain
from proxy.net.consul import Check, Health, HealthEntry, Node, Service
from proxy.net.entries import read

API, DOMAIN = ServiceName("api"), TrustDomain("mesh.test")


def entry(host: str, *, node: str = "passing", proxy: str = "passing") -> HealthEntry:
    meta = {
        reg.META_MESH: "meshctl", reg.META_TRUST_DOMAIN: DOMAIN, reg.META_HOST: host,
    }  # fmt: skip
    name = f"mesh-api-{host}"
    return HealthEntry(
        node=Node(node=host, address="10.0.0.1"),
        service=Service(id=name, service="mesh-api", address="10.0.0.1", port=15006, meta=meta),
        checks=[
            Check(check_id="serfHealth", status=node),
            Check(check_id=f"{name}:proxy", service_id=name, status=proxy),
        ],
    )


def hosts(*entries: HealthEntry) -> list[str]:
    seen = read(Health(index=1, entries=entries, unreadable=0), API, DOMAIN, went_back=False)
    assert len(seen.healthy) + len(seen.ill) == len(entries)
    return [endpoint.host for endpoint in seen.healthy]


@pytest.mark.parametrize(
    ("entries", "used"),
    [
        ((entry("a"), entry("b")), ["a", "b"]),
        ((entry("a", node="critical"), entry("b")), ["b"]),
        ((entry("a", node="critical"), entry("b", node="critical")), ["a", "b"]),
        ((entry("a", node="critical"), entry("b", proxy="critical")), ["a"]),
        ((entry("a", node="critical", proxy="critical"),), []),
        ((entry("a", proxy="critical"), entry("b", proxy="critical")), []),
        ((entry("a", proxy="warning"),), ["a"]),
    ],
)
def test_a_node_called_ill_is_left_unless_it_is_all_there_is(
    entries: tuple[HealthEntry, ...], used: list[str]
) -> None:
    assert hosts(*entries) == used
