"""The documents of the slow sources: what the page's views of hosts and history read."""

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from meshctl.consul.history import Entry, History
from meshctl.dashboard.mesh import MeshSources, Watched, history_document
from meshctl.errors import MeshError
from meshctl.inventory.model import Inventory
from meshctl.inventory.parse import parse
from meshctl.policy import parse as parse_policy
from meshctl.policy.origins import Places
from meshctl.transport.connect import Connections
from proxy.model.names import TrustDomain
from proxy.model.policy import Policy
from proxy.model.policy_keys import PolicyTrust

INVENTORY = """\
version: 1
consul: {mode: embedded}
hosts:
  - name: one
    transport: local
    root: /tmp/one
    services:
      - {name: web, port: 18080, protocol: http, upstreams: [{service: api, port: 19001}]}
      - {name: api, port: 18081, protocol: http}
"""
DOMAIN = TrustDomain("mesh.test")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    return parse(INVENTORY, tmp_path / "inventory.yaml")


def entries(inventory: Inventory) -> tuple[Entry, ...]:
    texts = {2: "version: 1\nservices: {api: {timeouts: {request: 5s}}}\n", 1: "version: 1\n"}
    return tuple(
        Entry(
            generation=generation,
            trust_domain=DOMAIN,
            policy=parse_policy(text, "mesh.yaml", inventory, NOW),
        )
        for generation, text in texts.items()
    )


def test_each_entry_of_the_history_has_its_difference_to_the_one_before(
    inventory: Inventory,
) -> None:
    history = History(entries=entries(inventory), unverified=())
    found = json.loads(msgspec.json.encode(history_document(history, inventory)))
    newest, oldest = found["entries"]
    assert newest["generation"] == 2
    assert newest["changes"] == [
        {"path": "services.api.timeouts.request", "before": "", "after": "5s"}
    ]
    assert (newest["services"], newest["hosts"]) == (["api"], ["one"])
    assert oldest["changes"] == []


def test_any_two_generations_can_be_compared_and_unknown_ones_are_told(
    inventory: Inventory, tmp_path: Path
) -> None:
    sources = MeshSources(
        Watched(
            inventory=inventory,
            trust_domain=DOMAIN,
            trust=PolicyTrust(keys={}),
            connector=Connections((), known_hosts=tmp_path / "known_hosts"),
            at_hand=lambda: (Policy(), Places(None, "")),
            every_s=1.0,
            window_s=10.0,
            parallel=1,
        )
    )
    sources._history = History(entries=entries(inventory), unverified=())
    ask = sources.asks()["difference"]
    there, back = ask({"from": "1", "to": "2"}), ask({"from": "2", "to": "1"})
    assert there["changes"][0].after == back["changes"][0].before == "5s"
    with pytest.raises(MeshError, match="'9' is not in the history"):
        ask({"from": "1", "to": "9"})
