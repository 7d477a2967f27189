"""A gRPC service on systemd hosts: deployed, called by grpcio, denied, restarted, rotated."""

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.consul, pytest.mark.timeout(1800)]

PORT, WEB_TO_ECHO = 8090, 9010
MESH = """\
version: 1
services:
  echo:
    load_balancing: {algorithm: round_robin}
    intentions:
      - {name: web-calls, allow: web}
      - {name: no-such-call, deny: web, match: {grpc: {service: echo.Echo, method: Denied}}}
"""


@pytest.fixture(scope="module")
def operator(
    lab: Any, consul_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    directory = tmp_path_factory.mktemp("grpc")
    operator = Operator(lab=lab, directory=directory)
    operator.run("init", ".", "--trust-domain", "lab.mesh", "--no-passphrase")
    ops.fetch_wheels(operator)
    install(lab, directory)
    operator.inventory(inventory(lab, consul_binary))
    (directory / "mesh.yaml").write_text(MESH)
    try:
        operator.run("deploy", "--yes")
        operator.wait_well()
        yield operator
    finally:
        operator.run("uninstall", "--yes", expect=None)
        for host in lab.hosts[:3]:
            host.run("systemctl stop app-echo; rm -rf /srv/grpc /srv/grpc_app.py", check=False)


def inventory(lab: Any, binary: str) -> str:
    one, two, three = lab.hosts[:3]
    network = lab.gateway.rpartition(".")[0] + ".0/24"
    served = (
        f"      - {{name: echo, port: {PORT}, protocol: grpc, version: VERSION,\n"
        "         health: {grpc: true, interval: 1s}}\n"
    )
    return f"""\
version: 1
ssh: {{user: admin, key: {lab.key}, known_hosts: {lab.known_hosts}}}
consul:
  mode: managed
  package: {{binary: {binary}}}
metrics: {{from: [{network}]}}
hosts:
  - name: {one.name}
    address: {one.address}
    roles: [control, workload]
    services:
      - name: web
        port: 8080
        protocol: http
        health: {{tcp: true}}
        upstreams: [{{service: echo, port: {WEB_TO_ECHO}}}]
  - name: {two.name}
    address: {two.address}
    services:
{served.replace("VERSION", "v1")}
  - name: {three.name}
    address: {three.address}
    services:
{served.replace("VERSION", "v2")}
"""


def install(lab: Any, directory: Path) -> None:
    """grpcio goes to the hosts as this Python has it: they run the same release."""
    packages = Path(grpc.__file__).parents[1]
    archive = directory / "grpc.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("grpc", "typing_extensions.py"):
            tar.add(packages / name, name)
    program = (ops.PROGRAMS / "grpc_app.py").read_text()
    for host in lab.hosts[:3]:
        with archive.open("rb") as data:
            subprocess.run(
                [str(ops.REPOSITORY / "scripts" / "lab"), "ssh", "-l", "root", host.name,
                 "mkdir -p /srv/grpc && tar -xf - -C /srv/grpc"],
                stdin=data,
                check=True,
                timeout=ops.COMMAND_S,
            )  # fmt: skip
        host.write("/srv/grpc_app.py", program)
    lab.hosts[0].run(
        "systemd-run --quiet --collect --unit=app-echo "
        "/usr/bin/python3 -m http.server 8080 --bind 127.0.0.1"
    )
    for host, name in ((lab.hosts[1], "v1"), (lab.hosts[2], "v2")):
        host.run(
            "systemd-run --quiet --collect --unit=app-echo --setenv=PYTHONPATH=/srv/grpc "
            f"/usr/bin/python3 /srv/grpc_app.py serve {PORT} {name}"
        )
    assert sys.version_info[:2] == (3, 11), "the hosts' Python, which grpcio was built for"


def called(lab: Any, calls: int = 40) -> Any:
    done = lab.hosts[0].run(
        f"PYTHONPATH=/srv/grpc python3 /srv/grpc_app.py call {WEB_TO_ECHO} {calls}"
    )
    return json.loads(done.stdout)


def test_every_kind_of_call_passes_and_calls_are_balanced_one_by_one(
    lab: Any, operator: Operator
) -> None:
    result = called(lab)
    # One connection of the caller's, and yet both instances serve it.
    assert result["served"].keys() == {"v1", "v2"}
    assert sum(result["served"].values()) == 40
    assert result["counted"] == 1000
    assert result["is_in_order"]
    assert result["chatted"] == ["eno", "owt", "eerht"]


def test_refusals_are_grpc_statuses_that_say_why(lab: Any, operator: Operator) -> None:
    refusals = called(lab, 1)["refusals"]
    assert refusals["deadline"][0] == "DEADLINE_EXCEEDED"
    code, details = refusals["denied"]
    assert code == "PERMISSION_DENIED"
    assert "echo/no-such-call" in details
    explained = operator.run("explain", "web", "echo", "POST", "/echo.Echo/Denied", expect=None)
    assert "no-such-call" in explained.stdout


def test_an_instance_that_is_stopped_fails_no_call_that_had_not_reached_it(
    lab: Any, operator: Operator
) -> None:
    """Leaves are renewed, and one instance's proxy is started anew, under load."""
    flag = "/run/grpc-ends"
    lab.hosts[0].run(f"rm -f {flag}")
    client = subprocess.Popen(
        [str(ops.REPOSITORY / "scripts" / "lab"), "ssh", "-l", "root", lab.hosts[0].name,
         f"PYTHONPATH=/srv/grpc python3 /srv/grpc_app.py load {WEB_TO_ECHO} {flag}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        operator.run("certs", "rotate", "--yes")
        lab.hosts[1].run("systemctl restart meshctl-proxy", timeout_s=120)
        operator.wait_well()
    finally:
        lab.hosts[0].run(f"touch {flag}")
        out, err = client.communicate(timeout=120)
    assert client.returncode == 0, err
    result = json.loads(out)
    assert result["total"] > 100
    assert result["failed"] == 0, result["codes"]


def test_calls_are_told_apart_from_requests_and_counted_by_their_status(
    lab: Any, operator: Operator
) -> None:
    called(lab, 1)
    host = lab.hosts[0]
    text = host.run(f"curl -sS http://{host.address}:15090/metrics").stdout
    counted = [line for line in text.splitlines() if line.startswith("istio_requests_total{")]
    mine = [line for line in counted if 'request_protocol="grpc"' in line]
    for status in ("0", "7"):
        assert any(f'grpc_response_status="{status}"' in line for line in mine), status
    denied = operator.run("logs", "echo", "--where", "grpc_status = 7").stdout
    assert "echo.Echo/Denied" in denied
