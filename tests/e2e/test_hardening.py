"""What the deployed units may do, and what a host's own users may do to them.

One mesh with everything that meshctl deploys: proxies, managed Consul, signers. ``web`` on the
first host has a unix user of its own.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.consul, pytest.mark.timeout(1800)]

USER = "www-data"
AT_MOST = {"meshctl-proxy.service": 16}
"""Ten times the exposure that `systemd-analyze security` may find; any other unit's is 20."""
OTHERS = 20
SECRET = ("encrypt", "agent", "default", "initial_management")
"""Names of what is one, in Consul's configuration."""
TO_API = f"http://127.0.0.1:{ops.WEB_TO_API}/"
ADMIN = "http://127.0.0.1:15000"


@pytest.fixture(scope="module")
def operator(
    lab: Any, consul_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    operator = Operator(lab=lab, directory=tmp_path_factory.mktemp("hardening"))
    operator.run("init", ".", "--trust-domain", "lab.mesh", "--no-passphrase")
    ops.install_applications(lab)
    ops.fetch_wheels(operator)
    operator.inventory(inventory(lab, consul_binary, USER))
    try:
        operator.run("deploy", "--yes")
        operator.wait_well()
        yield operator
    finally:
        operator.run("uninstall", "--yes", expect=None)
        ops.remove_applications(lab)


def inventory(lab: Any, binary: str, user: str) -> str:
    text = ops.inventory(lab, f"  mode: managed\n  package: {{binary: {binary}}}")
    web = "      - name: web\n"
    assert text.count(web) == 1
    return text.replace(web, f"{web}        user: {user}\n")


def test_the_exposure_of_every_unit_is_small(
    lab: Any, operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: set[str] = set()
    with capsys.disabled():
        print()
        for host in lab.hosts[:3]:
            listed = host.run(
                "systemctl list-units --no-legend --plain --state=active 'meshctl-*.service'"
            ).stdout
            for unit in (line.split()[0] for line in listed.splitlines() if line.strip()):
                seen.add(unit)
                limit = AT_MOST.get(unit, OTHERS)
                command = f"systemd-analyze security --no-pager --threshold={limit} {unit}"
                done = host.run(command, check=False)
                last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
                print(f"{host.name}: {last} (at most {limit / 10})")
                assert done.returncode == 0, done.stdout
    assert seen >= {"meshctl-proxy.service", "meshctl-consul.service", "meshctl-signer.service"}


def curl(host: Any, user: str, arguments: str) -> str:
    """The answer and, on a line of its own, its status."""
    command = f"runuser -u {user} -- curl -sS --max-time 20 -w '\\n%{{http_code}}' {arguments}"
    return str(host.run(command, check=False).stdout)


def test_only_its_user_calls_as_a_workload(lab: Any, operator: Operator) -> None:
    host = lab.hosts[0]
    assert curl(host, USER, TO_API).endswith("\n200")
    for other in ("nobody", "root"):
        answer = curl(host, other, TO_API)
        assert answer.endswith("\n403")
        assert f"may not call as web: only unix user {USER} may" in answer


def test_only_root_changes_anything_through_the_admin_port(lab: Any, operator: Operator) -> None:
    host = lab.hosts[0]
    for number, at in enumerate(lab.hosts[:2]):  # with the host's users in sight, and without
        assert curl(at, "nobody", f"-X POST {ADMIN}/reload").endswith("\n403"), number
        assert curl(at, "nobody", f"{ADMIN}/config").endswith("\n403")
        assert curl(at, "nobody", f"{ADMIN}/metrics").endswith("\n200")
        assert curl(at, "root", f"{ADMIN}/config").endswith("\n200")
        assert curl(at, "root", f"-X POST {ADMIN}/reload").endswith("\n200")
    assert 'mesh_local_callers_refused_total{source_workload="web"}' in curl(
        host, "nobody", f"{ADMIN}/metrics"
    )


def test_keys_are_for_their_owners_alone(lab: Any, operator: Operator) -> None:
    for host in lab.hosts[:3]:
        found = host.run(
            "find /var/lib/meshctl /var/lib/meshctl-signer /etc/meshctl /opt/meshctl "
            "-name '*key*.pem' -printf '%m %u %p\\n' 2>/dev/null || true"
        ).stdout.split("\n")
        keys = [line.split(" ", 2) for line in found if line]
        assert keys, host.name
        assert all(
            mode == "600" and owner in ("meshctl", "meshctl-signer", "meshctl-consul")
            for mode, owner, _ in keys
        ), keys
        modes = host.run(
            "stat -c %a /var/lib/meshctl/identities /var/lib/meshctl-signer 2>/dev/null || true"
        )
        assert set(modes.stdout.split()) == {"700"}


def test_nothing_that_runs_has_a_secret_among_its_arguments_or_variables(
    lab: Any, operator: Operator
) -> None:
    """Not the gossip key, not a token, not a private key."""
    looked_for: set[str] = set()
    for host in lab.hosts[:3]:
        text = host.run(
            "for p in /proc/[0-9]*; do tr '\\0' '\\n' <$p/cmdline; tr '\\0' '\\n' <$p/environ; "
            "done 2>/dev/null || true"
        ).stdout
        assert "meshctl" in text
        assert ops.count_keys(text.encode()) == 0
        config = host.run("cat /etc/meshctl/consul.json 2>/dev/null || true").stdout
        tokens = host.run("cat /etc/meshctl/*.token 2>/dev/null || true").stdout.split()
        log = host.run("journalctl --no-pager -u 'meshctl-*' -o cat").stdout
        for secret in (*secrets(config), *tokens):
            looked_for.add(secret)
            assert secret not in text
            assert secret not in log
    assert looked_for


def secrets(config: str) -> list[str]:
    """Whatever stands in Consul's configuration under a name that says so."""
    found: list[str] = []

    def look(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                look(inner, key)
        elif isinstance(value, list):
            for inner in value:
                look(inner, name)
        elif isinstance(value, str) and name in SECRET:
            found.append(value)

    look(json.loads(config or "{}"), "")
    return [each for each in found if len(each) >= 16]


def test_a_user_that_the_host_lacks_shows_in_the_status(
    lab: Any, operator: Operator, consul_binary: str
) -> None:
    operator.inventory(inventory(lab, consul_binary, "no-such-user"))
    operator.run("deploy", "--yes", expect=None)

    def is_said() -> bool:
        said = operator.run("status", expect=None).stdout
        return "there is no unix user no-such-user" in " ".join(said.split())

    try:
        ops.wait_for(is_said, "the status says so")
        assert curl(lab.hosts[0], USER, TO_API).endswith("\n403")
    finally:
        operator.inventory(inventory(lab, consul_binary, USER))
        operator.run("deploy", "--yes", expect=None)
    operator.wait_well()
