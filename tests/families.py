"""The metrics of a whole proxy, from the code that registers them."""

import asyncio

import pytest

from proxy.core.exposition import Tally
from proxy.core.metrics import Metrics
from proxy.model.names import HostName, ServiceName, TrustDomain
from proxy.model.settings import Address, Consul, HealthCheck, Settings, Workload
from proxy.model.settings import Metrics as Scraped
from proxy.net import server


def proxy_tally() -> Tally:
    """Of one with everything that a proxy can have."""
    counted = Metrics()
    place = Address(host="127.0.0.1", port=1)
    settings = Settings(
        host=HostName("one"),
        trust_domain=TrustDomain("mesh.test"),
        advertise="127.0.0.1",
        release="r",
        admin=place,
        inbound=place,
        metrics=Scraped(listen=place, sources=("127.0.0.1/32",)),
        consul=Consul(url="http://127.0.0.1:1"),
        state_dir="/nowhere",
        trust_bundle="/nowhere",
        signers=(place,),
        workloads=(
            Workload(
                service=ServiceName("web"),
                protocol="http",
                version="v1",
                app=place,
                health=HealthCheck(),
                allow=(),
            ),
        ),
    )

    async def make() -> None:
        server.Server(settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "Metrics", lambda: counted)
        asyncio.run(make())
    return counted.tally()
