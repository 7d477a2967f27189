"""A mesh on hosts that have Consul agents already, and callers of their own in the catalogue."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.consul, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def operator(
    lab: Any, agents: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    operator = Operator(lab=lab, directory=tmp_path_factory.mktemp("existing"))
    operator.run("init", ".", "--trust-domain", "lab.mesh", "--no-passphrase")
    operator.inventory(ops.inventory(lab, "  mode: existing"))
    ops.fetch_wheels(operator)
    operator.run("deploy", "--yes")
    try:
        operator.wait_well()
        yield operator
    finally:
        operator.run("uninstall", "--yes", expect=None)


def catalogue(lab: Any) -> dict[str, Any]:
    text = lab.hosts[0].run("curl -sS http://127.0.0.1:8500/v1/catalog/services").stdout
    return dict(json.loads(text))


def test_traffic_flows_and_status_is_well(lab: Any, operator: Operator) -> None:
    ops.wait_for(lambda: set(ops.many(lab, 60)) == {"v1", "v2"}, "both instances answer")
    assert operator.json("status")["is_well"]


def test_the_catalogue_keeps_what_others_put_there(lab: Any, operator: Operator) -> None:
    services = catalogue(lab)
    assert {"api", "mesh-api", "mesh-web", "mesh-cache", "mesh-static"} <= set(services)
    plain = lab.hosts[0].run("curl -sS http://127.0.0.1:8500/v1/catalog/service/api").stdout
    assert {entry["ServicePort"] for entry in json.loads(plain)} == {8081}


def test_a_second_deploy_changes_nothing(lab: Any, operator: Operator) -> None:
    plan = operator.json("deploy", "--yes")["plan"]
    assert all(not host["steps"] for host in plan["hosts"])
    assert plan["push_bytes"] == 0


def test_an_agent_that_loses_everything_gets_its_services_again(
    lab: Any, operator: Operator
) -> None:
    lab.hosts[1].run("systemctl stop consul; rm -rf /var/lib/consul; systemctl start consul")
    operator.wait_well(90)
    ops.wait_for(lambda: set(ops.many(lab, 60)) == {"v1", "v2"}, "both instances answer")


def test_uninstall_takes_only_what_is_the_meshs(lab: Any, operator: Operator) -> None:
    operator.run("uninstall", "--yes")
    ops.wait_for(
        lambda: not any(name.startswith("mesh-") for name in catalogue(lab)),
        "the mesh's services leave the catalogue",
    )
    assert "api" in catalogue(lab)
    assert lab.hosts[0].run("systemctl is-active consul").stdout.strip() == "active"


def test_without_an_agent_a_first_deploy_says_what_to_do(lab: Any, operator: Operator) -> None:
    lab.hosts[2].run("systemctl stop consul")
    try:
        done: subprocess.CompletedProcess[str] = operator.run("check", "-o", "json", expect=1)
    finally:
        lab.hosts[2].run("systemctl start consul")
    entry = next(e for e in json.loads(done.stdout)["checked"] if e["subject"] == "mesh3")
    (finding,) = [found for found in entry["findings"] if "Consul" in found["message"]]
    assert "consul.mode: managed" in finding["fix"]
