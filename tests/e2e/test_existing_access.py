"""A mesh on an existing Consul that refuses who has no token, by the policies of the page."""

import json
import re
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.consul, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "consul.md"
CARRIED = (("web",), ("api", "static"), ("api", "cache"))
USER = "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin meshctl"


class Consul:
    """The operator's hands in Consul, through the first host's agent."""

    def __init__(self, lab: Any) -> None:
        self._host = lab.hosts[0]
        self.management = ""

    def put(self, path: str, body: Any = None, *, method: str = "PUT") -> Any:
        words = ["curl", "-sS", "-f", "-X", method, f"http://127.0.0.1:8500/v1/{path}"]
        if self.management:
            words += ["-H", f"X-Consul-Token: {self.management}"]
        if body is not None:
            words += ["-d", json.dumps(body)]
        text = self._host.run(shlex.join(words)).stdout
        return json.loads(text) if text.strip() else None

    def policy(self, name: str, rules: str) -> None:
        self.put("acl/policy", {"Name": name, "Rules": rules})

    def token(self, policy: str, secret: str = "") -> str:
        body = {"SecretID": secret or str(uuid.uuid4()), "Policies": [{"Name": policy}]}
        return str(self.put("acl/token", body)["SecretID"])


def rules_of_page() -> tuple[str, str]:
    """Of the proxies, with two services that are an example; and of meshctl."""
    proxies, meshctl, _ = re.findall(r"```hcl\n(.*?)```", PAGE.read_text(), re.S)
    return str(proxies), str(meshctl)


def proxy_rules(services: tuple[str, ...]) -> str:
    shared = [line for line in rules_of_page()[0].splitlines() if not line.startswith("service ")]
    own = [f'service "mesh-{service}" {{ policy = "write" }}' for service in services]
    return "\n".join([*own, *shared])


@pytest.fixture(scope="module")
def consul(lab: Any, agents: None) -> Consul:
    made = Consul(lab)
    agent_tokens = [str(uuid.uuid4()) for _ in CARRIED]
    for host, token in zip(lab.hosts, agent_tokens, strict=False):
        acl = {"enabled": True, "default_policy": "deny", "tokens": {"agent": token}}
        host.write("/etc/consul.d/acl.json", json.dumps({"acl": acl}))
        host.run("systemctl restart consul")

    def is_ready() -> bool:
        ask = "curl -s -X PUT http://127.0.0.1:8500/v1/acl/bootstrap"
        said = lab.hosts[0].run(ask, check=False).stdout
        if "SecretID" in said:
            made.management = json.loads(said)["SecretID"]
        return bool(made.management)

    ops.wait_for(is_ready, "access control works", 60)
    for number, token in enumerate(agent_tokens):
        made.policy(
            f"agent-{number}",
            f'node "node-{number}" {{ policy = "write" }}\nservice_prefix "" {{ policy = "read" }}',
        )
        made.token(f"agent-{number}", token)
    return made


@pytest.fixture(scope="module")
def operator(
    lab: Any, consul: Consul, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    operator = Operator(lab=lab, directory=tmp_path_factory.mktemp("existing-access"))
    operator.run("init", ".", "--trust-domain", "lab.mesh", "--no-passphrase")
    operator.inventory(
        ops.inventory(
            lab,
            "  mode: existing\n  token_file: /etc/consul.d/mesh.token\n"
            "  operator_token_file: ./operator.token",
        )
    )
    consul.policy("meshctl", rules_of_page()[1])
    file = operator.directory / "operator.token"
    file.touch(0o600)
    file.write_text(consul.token("meshctl") + "\n")
    for number, (host, services) in enumerate(zip(lab.hosts, CARRIED, strict=False)):
        consul.policy(f"proxy-{number}", proxy_rules(services))
        # Before the first deploy there is no such user yet; a deploy takes the one that is there.
        host.run(f"id -u meshctl >/dev/null 2>&1 || {USER}")
        place(host, consul.token(f"proxy-{number}"))
    ops.fetch_wheels(operator)
    operator.run("deploy", "--yes")
    try:
        operator.wait_well(90)
        yield operator
    finally:
        operator.run("uninstall", "--yes", expect=None)


def place(host: Any, token: str) -> None:
    path = "/etc/consul.d/mesh.token"
    host.write(f"{path}.new", token + "\n")
    host.run(f"chown root:meshctl {path}.new && chmod 640 {path}.new && mv {path}.new {path}")


def test_traffic_flows_and_status_is_well(lab: Any, operator: Operator) -> None:
    ops.wait_for(lambda: set(ops.many(lab, 60)) == {"v1", "v2"}, "both instances answer")
    assert operator.json("status")["is_well"]


def test_a_policy_is_published_with_the_operators_own_token(lab: Any, operator: Operator) -> None:
    mesh_file = operator.directory / "mesh.yaml"
    mesh_file.write_text("version: 1\nservices: {api: {timeouts: {request: 7s}}}\n")
    made = operator.json("apply", "--yes")
    assert made["late"] == {}
    operator.run("config", "history")


def test_a_second_deploy_changes_nothing(lab: Any, operator: Operator) -> None:
    plan = operator.json("deploy", "--yes")["plan"]
    assert all(not host["steps"] for host in plan["hosts"])
    assert plan["after"] == []


def test_a_token_that_is_replaced_needs_no_restart(
    lab: Any, consul: Consul, operator: Operator
) -> None:
    host = lab.hosts[2]
    when = "systemctl show -p ActiveEnterTimestampMonotonic meshctl-proxy"
    started = host.run(when).stdout
    old = host.run("cat /etc/consul.d/mesh.token").stdout.strip()
    place(host, consul.token("proxy-2"))
    ask = f"curl -sS -f -H 'X-Consul-Token: {old}' http://127.0.0.1:8500/v1/acl/token/self"
    found = host.run(ask)
    consul.put(f"acl/token/{json.loads(found.stdout)['AccessorID']}", method="DELETE")
    said = "journalctl -u meshctl-proxy -o cat --no-pager | grep -c 'the file has another one' || :"
    ops.wait_for(lambda: int(host.run(said).stdout) > 0, "the file is read again", 60)
    operator.wait_well(90)
    assert host.run(when).stdout == started


def test_what_a_token_lacks_is_said(lab: Any, consul: Consul, operator: Operator) -> None:
    consul.policy("nothing", 'node_prefix "" { policy = "read" }')
    good = lab.hosts[1].run("cat /etc/consul.d/mesh.token").stdout.strip()
    place(lab.hosts[1], consul.token("nothing"))
    try:
        status = operator.json("status", expect=1)
        (finding,) = [f for f in status["findings"] if f["subject"] == lab.hosts[1].name]
        assert "does not let its proxy read the policy" in json.dumps(finding)
    finally:
        place(lab.hosts[1], good)
    operator.wait_well(90)
