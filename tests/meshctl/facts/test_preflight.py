"""Each obstacle is found, blocks alone, and comes with a fix; a good host has none."""

from dataclasses import replace
from typing import Any

import pytest

from meshctl.facts.model import ConsulFact, Interpreter, Listener, LockFact, Systemd
from meshctl.facts.preflight import Code, Finding, examine
from meshctl.inventory.model import MetricsPlacement
from meshctl.layout import PROXY_UNIT

ME = "me@here:/mesh/.meshctl"


def findings(world: Any, facts: Any, host: str = "front") -> tuple[Finding, ...]:
    return examine(world.inventory, world.host(host), facts, ME)


def test_a_good_host_has_no_finding(world: Any) -> None:
    assert findings(world, world.fresh("front")) == ()
    assert findings(world, world.deployed("front")) == ()


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"python": None, "found": "3.9.2"}, Code.PYTHON, "Python 3.9.2 only"),
        ({"python": None, "found": ""}, Code.PYTHON, "no Python"),
        ({"machine": "armv7l"}, Code.MACHINE, "armv7l"),
        ({"libc": ""}, Code.LIBC, "not glibc"),
        ({"libc": "musl 1.2"}, Code.LIBC, "musl 1.2"),
        ({"is_root": False}, Code.ROOT, "root"),
        ({"systemd": None}, Code.SYSTEMD, "does not run"),
        ({"systemd": Systemd(version=245, state="running")}, Code.SYSTEMD, "245"),
        ({"systemd": Systemd(version=252, state="maintenance")}, Code.SYSTEMD, "maintenance"),
        ({"disks": {"/opt/meshctl": 100 * 1024**2}}, Code.DISK, "100 MB"),
        ({"consul": ConsulFact()}, Code.CONSUL, "no Consul agent answers"),
    ],
)
def test_an_obstacle_is_found(world: Any, changes: dict[str, Any], code: Code, says: str) -> None:
    (finding,) = findings(world, world.fresh("front", **changes))
    assert finding.code is code
    assert says in finding.message
    assert finding.fix


@pytest.mark.parametrize("state", ["running", "degraded", "starting"])
def test_a_degraded_systemd_is_good_enough(world: Any, state: str) -> None:
    assert findings(world, world.fresh("front", systemd=Systemd(version=252, state=state))) == ()


@pytest.mark.parametrize(
    ("offset", "is_found", "side"),
    [
        (29.9, False, ""),
        (-29.9, False, ""),
        (31, True, "31 s ahead of"),
        (-90, True, "90 s behind"),
    ],
)
def test_the_clock_may_be_half_a_minute_off(
    world: Any, offset: float, is_found: bool, side: str
) -> None:
    found = findings(world, replace(world.fresh("front"), clock_offset_s=offset))
    assert [finding.code for finding in found] == ([Code.CLOCK] if is_found else [])
    assert all(side in finding.message for finding in found)


@pytest.mark.parametrize(
    ("port", "says"),
    [
        (15006, "port 15006, which the mesh proxy needs, is in use by nginx (process 77)"),
        (9001, "port 9001, which reaches api for web, is in use by nginx (process 77)"),
    ],
)
def test_a_port_of_somebody_else_is_found(world: Any, port: int, says: str) -> None:
    listener = Listener(port=port, pid=77, process="nginx", group="/system.slice/nginx.service")
    (finding,) = findings(world, world.fresh("front", listeners=(listener,)))
    assert (finding.code, finding.message) == (Code.PORT, says)


def test_a_metrics_port_of_somebody_else_is_found_with_what_to_set(world: Any) -> None:
    listener = Listener(port=15090, pid=77, process="nginx", group="/system.slice/nginx.service")
    facts = world.fresh("front", listeners=(listener,))
    metrics = MetricsPlacement(sources=("10.0.0.5/32",))
    host = replace(world.host("front"), metrics=metrics)
    (finding,) = examine(world.inventory, host, facts, ME)
    assert "port 15090, where the proxy's metrics are read, is in use by nginx" in finding.message
    assert "metrics.port" in finding.fix


def test_an_outbound_port_of_somebody_else_is_found_with_what_to_set(world: Any) -> None:
    listener = Listener(port=15001, pid=77, process="nginx", group="/system.slice/nginx.service")
    (finding,) = findings(world, world.fresh("front", listeners=(listener,)))
    assert finding.message.startswith(
        "port 15001, which reaches web's upstreams by name, is in use"
    )
    assert "outbound_port of web" in finding.fix


def test_our_own_ports_are_no_obstacle(world: Any) -> None:
    listeners = (
        Listener(port=15006, pid=4711, process="python", group="/anything"),
        Listener(port=15000, pid=9, process="python", group=f"/system.slice/{PROXY_UNIT}"),
    )
    assert findings(world, world.deployed("front", listeners=listeners)) == ()


def test_a_running_mesh_can_be_repaired_with_consul_gone(world: Any) -> None:
    assert findings(world, world.deployed("front", consul=ConsulFact())) == ()


@pytest.mark.parametrize(
    ("owner", "left", "is_found"),
    [("other@there", 60, True), ("other@there", -1, False), (ME, 60, False), ("", 60, False)],
)
def test_another_operators_lock_blocks_while_it_lasts(
    world: Any, owner: str, left: float, is_found: bool
) -> None:
    now = world.fresh("front").seen.ended
    facts = world.fresh("front", lock=LockFact(owner=owner, until=now + left, is_busy=False))
    assert [finding.code for finding in findings(world, facts)] == ([Code.LOCK] if is_found else [])


def test_all_findings_come_at_once(world: Any) -> None:
    python = Interpreter(
        executable="/usr/bin/python3", version=(3, 12, 0), implementation="cpython"
    )
    facts = world.fresh("front", python=python, machine="s390x", is_root=False, disks={"/opt": 0})
    assert {finding.code for finding in findings(world, facts)} == {
        Code.MACHINE, Code.ROOT, Code.DISK,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("active", "pid", "is_found"),
    [("deactivating", 0, False), ("activating", 0, False), ("active", 0, True),
     ("deactivating", 77, True)],
)  # fmt: skip
def test_a_listener_that_vanishes_while_our_unit_restarts_is_no_obstacle(
    world: Any, make_unit: Any, active: str, pid: int, is_found: bool
) -> None:
    listener = Listener(port=15006, pid=pid, process="", group="")
    units = {PROXY_UNIT: make_unit(active=active)}
    facts = world.deployed("front", listeners=(listener,), units=units)
    assert bool(findings(world, facts)) is is_found


@pytest.mark.parametrize(
    ("port", "says"), [(15008, "where the signer listens"), (15009, "the signer's admin port")]
)
def test_a_port_of_the_signer_in_other_hands_is_found(
    signed_world: Any, port: int, says: str
) -> None:
    other = Listener(port=port, pid=99, process="nc", group="/user.slice")
    (finding,) = findings(signed_world, signed_world.fresh("front", listeners=(other,)))
    assert (finding.code, says in finding.message) == (Code.PORT, True)


def test_the_signers_own_ports_are_no_obstacle(signed_world: Any) -> None:
    own = Listener(
        port=15008, pid=99, process="python", group="/system.slice/meshctl-signer.service"
    )
    assert findings(signed_world, signed_world.deployed("front", listeners=(own,))) == ()


def test_a_host_with_a_signer_alone_needs_no_consul(world_of: Any) -> None:
    world = world_of(
        "version: 1\nconsul: {mode: existing}\n"
        "hosts: [{name: ctl, address: 10.0.0.1, roles: [control]}]\n"
    )
    assert findings(world, world.fresh("ctl", consul=ConsulFact()), "ctl") == ()
