"""The whole product on three systemd hosts, with Consul installed and run by meshctl.

The tests build on one deployed mesh, each leaves it well, and the last one takes it away.
"""

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.consul, pytest.mark.timeout(1800)]

SYSTEM_SNAPSHOT = (
    # What a deploy may touch: files, users, units; not what a system writes by itself.
    "{ find /etc /opt /usr /srv /var/lib -xdev "
    r"\( -path /var/lib/systemd -o -path /var/lib/dbus -o -path '/var/lib/nginx' "
    r"-o -name 'passwd-' -o -name 'group-' -o -name 'shadow-' -o -name 'gshadow-' "
    r"-o -name 'subuid*' -o -name 'subgid*' -o -name '.pwd.lock' -o -name '__pycache__' \) -prune "
    r"-o \( -type f -o -type l \) -printf '%p %m %u %g %l\n'; cut -d: -f1 /etc/passwd /etc/group; "
    "systemctl list-unit-files --no-legend --no-pager | cut -c1-60; } | sort"
)


@pytest.fixture(scope="module")
def before(lab: Any) -> dict[str, str]:
    """What the hosts were like before anything was deployed to them."""
    ops.install_applications(lab)
    return {host.name: host.run(SYSTEM_SNAPSHOT).stdout for host in lab.hosts[:3]}


@pytest.fixture(scope="module")
def operator(
    lab: Any, before: dict[str, str], consul_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    directory = tmp_path_factory.mktemp("managed")
    operator = Operator(lab=lab, directory=directory, environment={"MESHCTL_PASSPHRASE": "correct"})
    operator.run("init", ".", "--trust-domain", "lab.mesh")
    operator.inventory(managed(lab, consul_binary))
    ops.fetch_wheels(operator)
    operator.run(
        "deploy", "--yes", program=ops.PROGRAMS / "recording.py", RECORD=str(record_of(operator))
    )
    try:
        operator.wait_well()
        yield operator
    finally:
        operator.run("uninstall", "--yes", expect=None)
        ops.remove_applications(lab)


def managed(lab: Any, binary: str, **options: str) -> str:
    return ops.inventory(lab, f"  mode: managed\n  package: {{binary: {binary}}}", **options)


def record_of(operator: Operator) -> Path:
    return operator.directory.parent / f"{operator.directory.name}.ssh-record"


def test_a_request_crosses_two_proxies_that_prove_both_ends(lab: Any, operator: Operator) -> None:
    answer = ops.call(lab)
    assert answer["service"] == "api"
    assert "URI=spiffe://lab.mesh/svc/web" in answer["caller"]
    assert "By=spiffe://lab.mesh/svc/api" in answer["caller"]


def test_nginx_is_reached_through_the_mesh(lab: Any, operator: Operator) -> None:
    page = lab.hosts[0].run(f"curl -sS -f http://127.0.0.1:{ops.WEB_TO_NGINX}/").stdout
    assert "nginx" in page.lower()


def test_tcp_crosses_the_mesh_with_half_close(lab: Any, operator: Operator) -> None:
    code = (
        "import socket; "
        f"s = socket.create_connection(('127.0.0.1', {ops.WEB_TO_CACHE}), 10); "
        "s.sendall(b'one\\ntwo\\n'); s.shutdown(1); "
        "print(b''.join(iter(lambda: s.recv(4096), b'')).decode(), end='')"
    )
    assert lab.hosts[0].run(f"python3 -c {shlex.quote(code)}").stdout == "ONE\nTWO\n2 lines\n"


def test_both_instances_get_their_share(lab: Any, operator: Operator) -> None:
    # Not halves: at this little load the quicker one is preferred.
    assert set(ops.many(lab, 120)) == {"v1", "v2"}


def test_plaintext_is_refused_on_the_mtls_port(lab: Any, operator: Operator) -> None:
    address = lab.hosts[1].address
    done = lab.operator(
        ["curl", "-sS", "--max-time", "10", f"http://{address}:{ops.INBOUND}/"], check=False
    )
    assert done.returncode != 0
    assert done.stdout == ""


def test_a_stranger_with_tls_but_no_certificate_is_refused(lab: Any, operator: Operator) -> None:
    address = lab.hosts[1].address
    to = f"api.lab.mesh:443:{address}:{ops.INBOUND}"
    done = lab.operator(
        ["curl", "-sSk", "--max-time", "10", "--connect-to", to, "https://api.lab.mesh/"],
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == ""


def test_status_shows_a_mesh_that_is_well(lab: Any, operator: Operator) -> None:
    status = operator.json("status")
    assert status["is_well"]
    assert {host["state"] for host in status["hosts"]} == {"ready"}
    assert {host["generation"] for host in status["hosts"]} == {status["generation"]}
    assert len(status["workloads"]) == 5
    assert {workload["registered"] for workload in status["workloads"]} == {"passing"}


def test_status_fails_when_an_application_is_down(lab: Any, operator: Operator) -> None:
    lab.hosts[2].run("systemctl stop app-cache")
    ops.wait_for(
        lambda: operator.run("status", expect=None).returncode == 1, "the stopped app shows"
    )
    status = operator.json("status", expect=1)
    assert any(finding["subject"] == "cache on mesh3" for finding in status["findings"])
    lab.hosts[2].run("systemctl start app-cache")
    operator.wait_well()


def test_a_second_deploy_changes_nothing_and_pushes_nothing(lab: Any, operator: Operator) -> None:
    started = {host.name: proxy_start(host) for host in lab.hosts[:3]}
    plan = operator.json("deploy", "--yes")["plan"]
    assert all(host["verdict"] == "unchanged" and not host["steps"] for host in plan["hosts"])
    assert plan["push_bytes"] == 0
    assert {host.name: proxy_start(host) for host in lab.hosts[:3]} == started


def test_certificates_rotate_under_load_without_a_failed_request(
    lab: Any, operator: Operator
) -> None:
    before = {entry["fault"] or entry["serial"] for entry in operator.json("certs", "list")}
    with ops.load(lab.hosts[0], requests=10_000) as result:
        for _ in range(2):
            rotated = operator.json("certs", "rotate", "--yes")
            assert len(rotated["rotated"]) == 5
            assert rotated["failed"] == []
    assert result["failed"] == 0, result
    assert result["total"] >= 10_000
    after = operator.json("certs", "list")
    assert all(not entry["fault"] for entry in after)
    assert {entry["serial"] for entry in after} == {e["serial"] for e in rotated["rotated"]}
    assert before.isdisjoint({entry["serial"] for entry in after})


def test_a_policy_is_acknowledged_by_every_proxy_and_can_be_taken_back(
    lab: Any, operator: Operator
) -> None:
    mesh_file = operator.directory / "mesh.yaml"
    before = mesh_file.read_text()
    mesh_file.write_text("version: 1\nservices: {api: {timeouts: {request: 7s}}}\n")
    try:
        made = operator.json("apply", "--yes")
        assert made["difference"]["hosts"] == [host.name for host in lab.hosts[:3]]
        assert made["acknowledged"] == [host.name for host in lab.hosts[:3]]
        assert made["late"] == {}
        in_force = lab.hosts[0].run("curl -sS http://127.0.0.1:15000/config").stdout
        services = json.loads(in_force)["policy"]["services"]
        assert services["api"]["timeouts"]["request_s"] == 7.0
    finally:
        mesh_file.write_text(before)
        operator.run("config", "rollback", "--yes")
    operator.run("config", "diff")
    assert operator.json("deploy", "--dry-run")["plan"]["after"] == []


POLICY = """\
version: 1
services:
  api:
    subsets: {{stable: v1, next: v2}}
    routes:
      - {{name: limited, match: {{path: /limited}}, to: {{subset: next}}}}
      - name: canary
        to: [{{subset: stable, weight: {stable}}}, {{subset: next, weight: {next}}}]
    rate_limits: [{{name: few, requests: 5, per: 1h, match: {{path: /limited}}}}]
"""


def test_a_canary_shifts_through_the_port_that_is_routed_by_host(
    lab: Any, operator: Operator
) -> None:
    """And a rate limit holds at the called side; all of it from one file, on real hosts."""
    mesh_file = operator.directory / "mesh.yaml"
    before = mesh_file.read_text()
    by_host = "-x http://127.0.0.1:15001 http://api.mesh/"
    try:
        for stable, canary in ((100, 0), (50, 50), (0, 100)):
            mesh_file.write_text(POLICY.format(stable=stable, next=canary))
            made = operator.json("apply", "--yes")
            assert made["late"] == {}
            done = lab.hosts[0].run(f"seq 100 | xargs -P 8 -I+ curl -sS --max-time 20 {by_host}")
            share = done.stdout.count('"v2"')
            assert share == canary if canary in (0, 100) else 25 <= share <= 75
        limited = ops.many(lab, 20, f"http://127.0.0.1:{ops.WEB_TO_API}/limited")
        assert sorted(limited).count("429") == 15
        refused = lab.hosts[0].run(
            f"curl -sS -D- -o /dev/null http://127.0.0.1:{ops.WEB_TO_API}/limited"
        )
        assert "x-mesh-flag: RL" in refused.stdout
        assert "retry-after: " in refused.stdout
    finally:
        mesh_file.write_text(before)
        operator.run("apply", "--yes")
    operator.run("config", "diff")


def test_consul_gone_for_a_minute_and_a_proxy_restarted_meanwhile(
    lab: Any, operator: Operator
) -> None:
    for host in lab.hosts[:3]:
        host.run("systemctl stop meshctl-consul")
    stopped = time.monotonic()
    try:
        lab.hosts[0].run("systemctl restart meshctl-proxy", timeout_s=120)
        with ops.load(lab.hosts[0], requests=5_000) as result:
            # The point is a minute without Consul; the load runs through all of it.
            ops.wait_for(lambda: time.monotonic() - stopped > 60, "a minute passes", 90)
    finally:
        for host in lab.hosts[:3]:
            host.run("systemctl start --no-block meshctl-consul")
    assert result["failed"] == 0, result
    assert result["total"] >= 5_000
    operator.wait_well(120)


def test_a_killed_proxy_comes_back_by_itself(lab: Any, operator: Operator) -> None:
    lab.hosts[1].run("systemctl kill --signal=KILL meshctl-proxy")
    operator.wait_well()
    assert ops.call(lab)["service"] == "api"


def test_a_host_reboots_into_the_mesh(lab: Any, operator: Operator) -> None:
    serials = {(e["service"], e["host"]): e["serial"] for e in operator.json("certs", "list")}
    lab.hosts[2].reboot()
    operator.wait_well(120)
    after = {(e["service"], e["host"]): e["serial"] for e in operator.json("certs", "list")}
    assert after == serials
    ops.wait_for(lambda: set(ops.many(lab, 60)) == {"v1", "v2"}, "both instances answer")


def test_no_private_key_made_for_a_host_ever_left_it(lab: Any, operator: Operator) -> None:
    """On the operator's side, in the recorded SSH traffic, in Consul: nothing to be found."""
    on_hosts = set()
    for host in lab.hosts[:3]:
        text = host.run(
            "for key in $(find /var/lib/meshctl/identities /etc/meshctl/consul-tls/current/ "
            "-name key.pem); do "
            "sed -n 2p $key; stat -c '%a %U' $key; done"
        ).stdout.split("\n")
        on_hosts |= {line for line in text if len(line) == 64}
        owners = [line for line in text if line and len(line) != 64]
        assert set(owners) <= {"600 meshctl", "600 meshctl-consul"}
        assert owners.count("600 meshctl-consul") == 1, "of its Consul server"
    assert len(on_hosts) >= 5 + 3, "there are keys to look for"

    recorded = record_of(operator).read_bytes()
    assert b"BEGIN CERTIFICATE REQUEST" in recorded, "the recording has what it should have"
    assert ops.count_keys(recorded) == 0

    own, plain = {"root.key", "issuing.key", "policy.key"}, {"ca.key"}
    files = [path for path in operator.directory.rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        assert path.name in own | plain or ops.count_keys(data) == 0, path
        assert b"ENCRYPTED" in data or path.name not in own, f"{path} is not encrypted"
        assert not any(line.encode() in data for line in on_hosts), path

    # With all rights, or Consul would show only a part.
    token = (operator.directory / ".meshctl" / "consul" / "management.token").read_text().strip()
    ask = f"curl -sS -H 'X-Consul-Token: {token}' http://127.0.0.1:8500/v1"
    dump = lab.hosts[0].run(
        f"{ask}/kv/?recurse=; {ask}/agent/services; "
        "echo; echo RAFT; find /var/lib/meshctl-consul -type f -exec cat {} + "
        r"| tr -cd '[:print:]\n'"
    )
    catalogue, _, raft = dump.stdout.partition("RAFT")
    assert "mesh-web" in catalogue
    assert "mesh-web" in raft, "what Consul keeps on disk was looked at too"
    assert "PRIVATE KEY" not in dump.stdout
    assert not any(line in dump.stdout for line in on_hosts)


def test_keys_and_state_are_closed_to_other_users(lab: Any, operator: Operator) -> None:
    modes = (
        lab.hosts[0]
        .run(
            "stat -c '%a %U %n' /var/lib/meshctl /var/lib/meshctl/identities "
            "/var/lib/meshctl/identities/web /var/lib/meshctl/identities/web/current/"
        )
        .stdout.splitlines()
    )
    assert [line.split()[:2] for line in modes] == [["700", "meshctl"]] * 4
    refused = lab.hosts[0].run(
        "cat /var/lib/meshctl/identities/web/current/key.pem", user="nosudo", check=False
    )
    assert refused.returncode != 0


def test_a_user_of_a_host_sees_nothing_in_consul_and_changes_nothing(
    lab: Any, operator: Operator
) -> None:
    host = lab.hosts[0]
    modes = host.run("stat -c '%a %U:%G' /etc/meshctl/consul.token /etc/meshctl/consul.json").stdout
    assert modes.splitlines() == ["640 root:meshctl", "640 root:meshctl-consul"]
    for path in ("consul.token", "consul.json"):
        assert host.run(f"cat /etc/meshctl/{path}", user="nosudo", check=False).returncode != 0
    ask = "curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:8500/v1"
    for call in ("kv/meshctl/snapshot", "-X PUT kv/meshctl/snapshot", "-X PUT agent/leave"):
        words = call.split()
        done = host.run(f"{ask}/{words[-1]} {' '.join(words[:-1])}", user="nosudo")
        assert done.stdout == "403", call
    seen = host.run("curl -sS http://127.0.0.1:8500/v1/catalog/services", user="nosudo").stdout
    assert json.loads(seen) == {}


WITHOUT_ACCESS = (
    "import json; path = '/etc/meshctl/consul.json'; config = json.load(open(path)); "
    "config.pop('acl', None); open(path, 'w').write(json.dumps(config))"
)


@pytest.mark.parametrize("lost", ["access", "tokens", "data"])
def test_consuls_access_control_is_brought_back_without_a_failed_request(
    lab: Any, operator: Operator, lost: str
) -> None:
    """To a cluster that runs without, as one that an earlier release deployed; after the operator
    lost every token, the one with all rights included; after Consul lost everything."""
    tokens = operator.directory / ".meshctl" / "consul"
    if lost == "tokens":
        shutil.rmtree(tokens)
    elif lost == "data":
        for host in lab.hosts[:3]:
            host.run("systemctl stop meshctl-consul; rm -rf /var/lib/meshctl-consul/*")
        for host in lab.hosts[:3]:
            host.run("systemctl start --no-block meshctl-consul")
        for host in lab.hosts[:3]:
            ops.wait_for(lambda host=host: leads(host), f"a leader at {host.name}", 60)
    else:
        (tokens / "applied").unlink()
        (tokens / "enforced").unlink()
        for host in lab.hosts[:3]:
            host.run(f'python3 -c "{WITHOUT_ACCESS}"; systemctl restart meshctl-consul')
            ops.wait_for(lambda host=host: leads(host), f"a leader at {host.name}", 60)
        operator.wait_well(120)
    # With the tokens goes the CA: agents first insist on the old one's certificates no more.
    for _ in range(2 if lost == "tokens" else 1):
        with ops.load(lab.hosts[0], requests=3_000) as result:
            operator.run("deploy", "--yes")
        assert result["failed"] == 0, result
        operator.wait_well(120)
    plan = operator.json("deploy", "--dry-run")["plan"]
    assert plan["between"] == plan["after"] == []
    assert all(not host["steps"] for host in plan["hosts"]), plan
    for host in lab.hosts[:3]:
        refused = "curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:8500/v1/kv/x"
        assert host.run(refused).stdout == "403"


WITHOUT_TLS = (
    "import json; path = '/etc/meshctl/consul.json'; config = json.load(open(path)); "
    "[config.pop(key, None) for key in ('ca_file', 'cert_file', 'key_file', 'verify_outgoing', "
    "'verify_server_hostname', 'verify_incoming')]; open(path, 'w').write(json.dumps(config))"
)


def test_tls_comes_to_a_consul_that_ran_without_and_no_request_fails(
    lab: Any, operator: Operator
) -> None:
    """As an earlier release left it: no CA, no certificates."""
    state = operator.directory / ".meshctl" / "consul"
    for name in ("ca.key", "ca.pem", "tls-enforced"):
        (state / name).unlink()
    for host in lab.hosts[:3]:
        host.run(f'python3 -c "{WITHOUT_TLS}"; systemctl stop meshctl-consul')
        host.run("rm -rf /etc/meshctl/consul-ca.pem /etc/meshctl/consul-tls")
    for host in lab.hosts[:3]:
        host.run("systemctl start --no-block meshctl-consul")
    for host in lab.hosts[:3]:
        ops.wait_for(lambda host=host: leads(host), f"a leader at {host.name}", 60)
    operator.wait_well(120)
    with ops.load(lab.hosts[0], requests=3_000) as result:
        operator.run("deploy", "--yes")
    assert result["failed"] == 0, result
    operator.wait_well(120)
    for host in lab.hosts[:3]:
        config = json.loads(host.run("cat /etc/meshctl/consul.json").stdout)
        assert config["verify_outgoing"]
        assert config["verify_server_hostname"]
        modes = host.run(
            "stat -c '%a %U' /etc/meshctl/consul-tls /etc/meshctl/consul-tls/current/key.pem"
        ).stdout
        assert modes.splitlines() == ["700 meshctl-consul", "600 meshctl-consul"]
    plan = operator.json("deploy", "--dry-run")["plan"]
    assert all(not host["steps"] for host in plan["hosts"]), plan


def leads(host: Any) -> bool:
    """Whether the agent of ``host`` knows a leader and both other servers."""
    ask = "curl -s http://127.0.0.1:8500/v1/status"
    said = host.run(f"{ask}/leader; {ask}/peers", check=False).stdout
    return str(said).count(":8300") == 4


def test_units_are_hardened_and_verify(lab: Any, operator: Operator) -> None:
    for unit, exposure in (("meshctl-proxy.service", 16), ("meshctl-consul.service", 20)):
        lab.hosts[0].run(f"systemd-analyze security --no-pager --threshold={exposure} {unit}")
        said = (
            lab.hosts[0]
            .run(f"systemd-analyze verify --man=no /etc/systemd/system/{unit} 2>&1")
            .stdout
        )
        assert unit not in said


def test_the_proxy_logs_json_lines_to_the_journal(lab: Any, operator: Operator) -> None:
    lines = lab.hosts[0].run("journalctl -u meshctl-proxy -o cat --no-pager | grep '^{'").stdout
    assert lines
    said = [json.loads(line) for line in lines.splitlines()]
    assert any("msg" in each for each in said)
    assert all("msg" in each or each["log"] == "access" for each in said)


def test_interrupted_deploys_converge(lab: Any, operator: Operator, consul_binary: str) -> None:
    """Twenty changes, each cut off at another moment: meshctl killed, Ctrl-C, or the network."""
    rng = random.Random(20)
    interruptions = 0
    for turn in range(20):
        operator.inventory(managed(lab, consul_binary, drain=f"{5 + turn % 2}s"))
        process = operator.start("deploy", "--yes")
        victim = lab.hosts[turn % 3]
        way = ("kill", "interrupt", "kill", "cut")[turn % 4]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.5, 2.8))
        interruptions += process.poll() is None
        try:
            if way == "cut":
                victim.cut()
                process.wait(120)  # it has to notice by itself
            elif process.poll() is None:
                # meshctl and the wrapper around it; what runs on hosts runs on.
                os.killpg(process.pid, signal.SIGKILL if way == "kill" else signal.SIGINT)
                process.wait(120)
        finally:
            if way == "cut":
                victim.heal()
        operator.run("deploy", "--yes")
        plan = operator.json("deploy", "--dry-run")["plan"]
        assert all(not host["steps"] for host in plan["hosts"]), (turn, plan)
        # After a partition Consul needs a moment to find its members again.
        ops.wait_for(lambda: answers(lab), f"an answer after turn {turn}", 60)
    operator.wait_well(120)
    assert interruptions >= 15, "most deploys were interrupted while they ran"


def answers(lab: Any) -> bool:
    code = "curl -sS -o /dev/null -w '%{http_code}' --max-time 20"
    return bool(lab.hosts[0].run(f"{code} http://127.0.0.1:{ops.WEB_TO_API}/").stdout == "200")


def test_a_host_that_cannot_be_reached_stops_no_other(lab: Any, operator: Operator) -> None:
    lab.hosts[2].cut()
    try:
        done = operator.run("deploy", "--yes", "-o", "json", expect=None)
    finally:
        lab.hosts[2].heal()
    assert done.returncode == 4, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert [host["verdict"] for host in plan["hosts"]] == ["unchanged", "unchanged", "unreachable"]
    operator.wait_well(120)


def test_a_configuration_that_does_not_start_goes_back_by_itself(
    lab: Any, operator: Operator, consul_binary: str
) -> None:
    good = managed(lab, consul_binary)
    operator.inventory(good)
    operator.run("deploy", "--yes")
    # Consul may still waver about a host that was cut off a moment ago.
    running = operator.wait_well(120)["hosts"][0]["config"]
    # An address that the host does not have: the proxy cannot bind its port.
    address = f"address: {lab.hosts[0].address}\n"
    wrong = address + "    proxy: {inbound_address: 10.99.0.1}\n"
    operator.inventory(good.replace(address, wrong, 1))
    done = operator.run("deploy", "--yes", "-o", "json", expect=1)
    report = json.loads(done.stdout)["report"]["hosts"][0]
    assert report["outcome"] == "rolled-back", report
    assert "10.99.0.1" in report["output"], report
    assert ops.call(lab)["service"] == "api"
    operator.inventory(good)
    operator.run("deploy", "--yes")
    assert operator.wait_well(120)["hosts"][0]["config"] == running


def test_uninstall_leaves_the_hosts_as_they_were(
    lab: Any, operator: Operator, before: dict[str, str]
) -> None:
    operator.run("uninstall", "--yes")
    for host in lab.hosts[:3]:
        after = host.run(SYSTEM_SNAPSHOT).stdout
        assert set(after.splitlines()) ^ set(before[host.name].splitlines()) == set(), host.name
        assert host.run("pgrep -u meshctl || true").stdout == ""
    operator.run("uninstall", "--yes")  # once more: nothing to do is no failure


def proxy_start(host: Any) -> str:
    return str(host.run("systemctl show -p ActiveEnterTimestampMonotonic meshctl-proxy").stdout)
