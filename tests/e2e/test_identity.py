"""Identities on three systemd hosts: renewed while nobody watches, under one root and the next,
and made anew when everything has ended.

Leaves live a minute. MESHCTL_SOAK_S is how long the mesh is watched while it renews them; the
figure that the documentation gives was measured with 600.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.consul, pytest.mark.timeout(3600)]

SOAK_S = float(os.environ.get("MESHCTL_SOAK_S", "75"))
LEAF_S = 60
WORKLOADS = 5
PHASES = ("prepare", "distribute", "switch", "reissue", "prove", "retire")
ROOT_LIFE_S = 150
RESCUE_S = 60.0


@pytest.fixture(scope="module")
def operator(
    lab: Any, agents: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """Two control hosts, so two signers; agents that are not the mesh's."""
    operator = Operator(lab=lab, directory=tmp_path_factory.mktemp("identity"))
    operator.run("init", ".", "--trust-domain", "lab.mesh", "--no-passphrase")
    operator.inventory(inventory(lab))
    ops.fetch_wheels(operator)
    operator.run("deploy", "--yes")
    try:
        operator.wait_well()
        yield operator
    finally:
        operator.run("uninstall", "--yes", expect=None)


def inventory(lab: Any) -> str:
    certificates = f"certificates: {{leaf_life: {LEAF_S}s}}\n"
    return ops.inventory(lab, "  mode: existing", control=2, extra=certificates)


def leaves(operator: Operator) -> dict[tuple[str, str], str]:
    """Serials by service and host, as served on the wire."""
    listed = operator.json("certs", "list")
    assert all(not entry["fault"] for entry in listed), listed
    return {(entry["service"], entry["host"]): entry["serial"] for entry in listed}


def watch_renewals(operator: Operator, lab: Any, seconds: float) -> None:
    """Mixed load for so long: no request fails, and each leaf is renewed again and again."""
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    with ops.mixed_load(lab.hosts[0]) as results:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for workload, serial in leaves(operator).items():
                seen[workload].add(serial)
            time.sleep(min(10.0, max(0.0, ends - time.monotonic())))
    print(
        f"\nin {seconds:g} s: " + ", ".join(f"{s} on {h}: {len(v)}" for (s, h), v in seen.items())
    )
    print(", ".join(f"{name}: {r['total']} ({r['failed']} failed)" for name, r in results.items()))
    for name, result in results.items():
        assert result["failed"] == 0, (name, result)
        assert result["total"] > seconds, (name, "there was load")
    # A leaf serves for 90 % of its life at most; the first one had begun before.
    least = int(seconds // (0.9 * LEAF_S + 5)) + 1
    assert len(seen) == WORKLOADS
    assert all(len(serials) >= least for serials in seen.values()), (least, seen)


def test_leaves_of_a_minute_renew_themselves_under_load(lab: Any, operator: Operator) -> None:
    watch_renewals(operator, lab, SOAK_S)


def test_one_of_two_signers_is_enough(lab: Any, operator: Operator) -> None:
    lab.hosts[0].run("systemctl stop meshctl-signer")
    try:
        watch_renewals(operator, lab, SOAK_S)
    finally:
        lab.hosts[0].run("systemctl start meshctl-signer")
    operator.wait_well()


def test_a_new_root_takes_over_under_load_though_each_phase_is_interrupted(
    lab: Any, operator: Operator
) -> None:
    """Killed in each phase, and blocked twice by a host that cannot be reached."""
    before = operator.json("certs", "status")
    old = before["roots"][0]["sha256"]
    last = lab.hosts[2]
    seen = []
    with ops.mixed_load(lab.hosts[0]) as results:
        seen += [interrupt_in(operator, phase) for phase in PHASES[:2]]
        with out_of_reach(last):
            blocked = operator.run("certs", "rotate", "root", "--yes", expect=1)
            assert last.name in blocked.stderr
            assert "meshctl certs rotate root" in blocked.stderr
        for phase in PHASES[2:]:
            seen.append(interrupt_in(operator, phase))
            shown = operator.json("certs", "status", expect=None)
            assert shown["rotation"]["phase"] == seen[-1]
            assert shown["rotation"]["next"] == "meshctl certs rotate root"
        with out_of_reach(last):
            blocked = operator.run("certs", "rotate", "root", "--yes", "--retire-now", expect=1)
            assert last.name in blocked.stderr
        assert old in {root["sha256"] for root in operator.json("certs", "status")["roots"]}
        done = operator.json("certs", "rotate", "root", "--yes", "--retire-now")
    print(f"\nkilled in {', '.join(seen)}")
    # The quickest phases take some milliseconds: one or two may be over before the kill.
    assert len(set(seen)) >= len(PHASES) - 2
    assert done["is_done"], done
    print(", ".join(f"{n}: {r['total']} ({r['failed']} failed)" for n, r in results.items()))
    for name, result in results.items():
        assert result["failed"] == 0, (name, result)
    after = operator.json("certs", "status")
    assert after["is_well"]
    assert [root["sha256"] for root in after["roots"]] == [done["new_root"]]
    assert done["new_root"] != done["old_root"] == old
    hosts = operator.json("deploy", "--dry-run")["plan"]["hosts"]
    assert [step for host in hosts for step in host["steps"]] == []


def test_new_intermediates_fail_no_request(lab: Any, operator: Operator) -> None:
    with ops.mixed_load(lab.hosts[0]) as results:
        done = operator.json("certs", "rotate", "intermediates", "--yes")
    assert {signer["host"] for signer in done["signers"]} == {h.name for h in lab.hosts[:2]}
    assert done["failed"] == []
    for name, result in results.items():
        assert result["failed"] == 0, (name, result)
    assert operator.json("certs", "status")["is_well"]


def interrupt_in(operator: Operator, phase: str) -> str:
    """Kill ``certs rotate root`` as soon as it is in ``phase``; where it was then."""
    state = operator.directory / ".meshctl" / "rotation.json"
    process = operator.start("certs", "rotate", "root", "--yes", "--retire-now")
    deadline = time.monotonic() + 120
    now = ""
    try:
        while now not in PHASES[PHASES.index(phase) :]:
            assert process.poll() is None, f"it ended before {phase}"
            assert time.monotonic() < deadline, f"it never came to {phase}"
            time.sleep(0.002)
            with contextlib.suppress(FileNotFoundError):
                now = json.loads(state.read_text())["phase"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    return str(json.loads(state.read_text())["phase"])


@contextlib.contextmanager
def out_of_reach(host: Any) -> Iterator[None]:
    """No SSH to it for 20 s at least; its services are still called, and still answer."""
    host.run("systemd-run --quiet --on-active=20s systemctl start ssh; systemctl stop ssh")
    try:
        yield
    finally:
        ops.wait_for(
            lambda: host.run("true", check=False).returncode == 0, "SSH is there again", 90
        )


@pytest.fixture
def mortal(
    lab: Any, operator: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """Another mesh on the same hosts, whose root ends in a few minutes. For the last test."""
    operator.run("uninstall", "--yes")
    mortal = Operator(lab=lab, directory=tmp_path_factory.mktemp("mortal"))
    mortal.run(
        "init", ".", "--trust-domain", "lab.mesh", "--no-passphrase",
        program=ops.PROGRAMS / "mortal.py", ROOT_LIFE_S=str(ROOT_LIFE_S),
    )  # fmt: skip
    mortal.inventory(inventory(lab))
    ops.fetch_wheels(mortal)
    mortal.run("deploy", "--yes")
    try:
        # Not well, for its root is about to end; but it serves.
        ops.wait_for(lambda: fetch(lab).returncode == 0, "a call succeeds")
        yield mortal
    finally:
        mortal.run("uninstall", "--yes", expect=None)


def test_one_command_brings_back_a_mesh_in_which_everything_has_ended(
    lab: Any, mortal: Operator
) -> None:
    """The root, the signers, each leaf; Consul does not run, nor does one of the proxies."""
    ends = [datetime.fromisoformat(root["not_after"]) for root in roots(mortal)]
    for host in lab.hosts[:3]:
        host.run("systemctl stop consul")
    ops.wait_for(lambda: datetime.now(UTC) > max(ends), "everything ends", ROOT_LIFE_S + 10)
    lab.hosts[1].run("systemctl stop meshctl-proxy")
    assert fetch(lab).returncode != 0
    began = time.monotonic()
    try:
        rescued = mortal.json("certs", "rescue", "--yes")
        took = time.monotonic() - began
        ops.wait_for(lambda: fetch(lab).returncode == 0, "a call succeeds", RESCUE_S - took)
        print(f"\nrescued after {time.monotonic() - began:.1f} s")
        assert rescued["is_good"]
        assert rescued["root_is_new"]
        assert mortal.json("certs", "status")["is_well"]
        assert {e["fault"] for e in mortal.json("certs", "list")} == {""}
    finally:
        for host in lab.hosts[:3]:
            host.run("systemctl start --no-block consul")
    mortal.wait_well(120)
    # The endpoint whose proxy was stopped is ejected for longer with each failure (30 s x count).
    ops.wait_for(lambda: set(ops.many(lab, 60)) == {"v1", "v2"}, "both versions serve again", 150)


def roots(operator: Operator) -> Any:
    return operator.json("certs", "status", expect=None)["roots"]


def fetch(lab: Any) -> subprocess.CompletedProcess[str]:
    """One call of web to api."""
    url = f"http://127.0.0.1:{ops.WEB_TO_API}/"
    return lab.hosts[0].run(f"curl -sS --max-time 20 -f {url}", check=False)  # type: ignore[no-any-return]
