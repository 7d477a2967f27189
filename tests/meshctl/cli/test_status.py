"""What ``meshctl status`` shows of a call."""

import pytest

from meshctl.cli.status import _call
from meshctl.status import UpstreamView
from proxy.model.names import ServiceName


@pytest.mark.parametrize(
    ("listen", "shown"),
    [("127.0.0.1:15001", "api:15001 (2)"), ("::1:9001", "api:9001 (2)"), ("", "api (2)")],
)
def test_a_call_is_shown_with_the_port_that_leads_there(listen: str, shown: str) -> None:
    assert _call(UpstreamView(service=ServiceName("api"), listen=listen, endpoints=2)) == shown
