"""A release made on a host through its transport."""

from pathlib import Path

import pytest

from meshctl.bundle import Bundle, install
from meshctl.errors import RemoteFailure
from meshctl.transport.local import LocalTransport
from proxy.model.names import parse_host


@pytest.fixture
def transport() -> LocalTransport:
    return LocalTransport(parse_host("web-1"))


async def test_the_hosts_own_sentence_reaches_the_operator(
    transport: LocalTransport, small_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(RemoteFailure, match=r"web-1: the release [0-9a-f]{16} could not") as caught:
        await install(
            transport,
            small_bundle,
            wheels_dir=str(tmp_path / "empty"),
            release=str(tmp_path / "releases" / "x"),
        )
    assert caught.value.output.startswith("the wheel ")
    assert caught.value.output.endswith(" is missing")
