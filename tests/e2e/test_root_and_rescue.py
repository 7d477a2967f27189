"""A new root under load, and a mesh in which everything has ended, on hosts with signers."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.consul, pytest.mark.timeout(1800)]

LEAF_S = 60
RESCUED_WITHIN_S = 60


@pytest.fixture(scope="module")
def operator(
    lab: Any, consul_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    ops.install_applications(lab)
    directory = tmp_path_factory.mktemp("certificates")
    operator = Operator(lab=lab, directory=directory, environment={"MESHCTL_PASSPHRASE": "correct"})
    operator.run("init", ".", "--trust-domain", "lab.mesh")
    text = ops.inventory(lab, f"  mode: managed\n  package: {{binary: {consul_binary}}}")
    operator.inventory(f"{text}certificates: {{leaf_life: {LEAF_S}s}}\n")
    ops.fetch_wheels(operator)
    operator.run("deploy", "--yes")
    try:
        operator.wait_well()
        yield operator
    finally:
        operator.run("uninstall", "--yes", expect=None)
        ops.remove_applications(lab)


def test_the_root_is_rotated_under_load_without_a_failed_request(
    lab: Any, operator: Operator
) -> None:
    before = operator.json("certs", "status")
    with ops.load(lab.hosts[0], requests=10_000) as result:
        done = operator.json("certs", "rotate", "root", "--yes", "--retire-now")
    assert result["failed"] == 0, result
    assert done["is_done"] is True
    after = operator.json("certs", "status")
    assert after["rotation"] is None
    assert [root["role"] for root in after["roots"]] == ["current"]
    assert after["roots"][0]["sha256"] == done["new_root"] != before["roots"][0]["sha256"]
    assert {signer["serial"] for signer in after["signers"]}.isdisjoint(
        {signer["serial"] for signer in before["signers"]}
    )
    operator.wait_well()


def test_new_intermediates_fail_no_request(lab: Any, operator: Operator) -> None:
    with ops.load(lab.hosts[0], requests=5_000) as result:
        done = operator.json("certs", "rotate", "intermediates", "--yes")
    assert result["failed"] == 0, result
    assert {signer["host"] for signer in done["signers"]} == {h.name for h in lab.hosts[:3]}
    assert done["failed"] == []
    operator.json("certs", "status")


def test_a_host_without_power_holds_a_rotation_up(lab: Any, operator: Operator) -> None:
    lab.hosts[2].stop(hard=True)
    done = operator.run("certs", "rotate", "root", "--yes", "--retire-now", expect=1)
    assert "stops at distribute: mesh3 did not come along" in done.stderr
    assert "bring mesh3 back and run meshctl certs rotate root again" in done.stderr
    lab.hosts[2].start()
    operator.wait_well(120)
    assert operator.json("certs", "rotate", "root", "--yes", "--retire-now")["is_done"] is True


def test_everything_has_ended_and_consul_is_down(lab: Any, operator: Operator) -> None:
    for host in lab.hosts[:3]:
        host.run("systemctl stop meshctl-signer meshctl-consul")
    # Nobody renews any more: the leaves end, by the clock.
    ops.wait_for(
        lambda: all(
            "ended" in leaf["fault"]
            for leaf in operator.json("certs", "status", expect=1)["leaves"]
        ),
        "every leaf has ended",
        deadline_s=2 * LEAF_S,
    )
    lab.hosts[2].run("systemctl stop meshctl-proxy")
    began = time.monotonic()
    done = operator.json("certs", "rescue", "--yes")
    took = time.monotonic() - began
    print(f"rescued in {took:.1f} s: {json.dumps(done['hosts'])}")
    assert done["is_good"] is True
    assert took < RESCUED_WITHIN_S
    ops.wait_for(
        lambda: (
            lab.hosts[0]
            .run(f"curl -sS -f --max-time 5 http://127.0.0.1:{ops.WEB_TO_API}/", check=False)
            .returncode
            == 0
        ),
        "a request gets through",
    )
    assert time.monotonic() - began < RESCUED_WITHIN_S + 30
    status = operator.json("certs", "status")
    assert all(not signer["fault"] for signer in status["signers"])
    for host in lab.hosts[:3]:
        host.run("systemctl start meshctl-consul")
    operator.wait_well(120)
