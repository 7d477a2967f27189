"""Each signal at its real consumer: Prometheus through Consul, an OTLP receiver, journald, a
browser; and the commands that need none of them, over SSH.

One mesh with managed Consul. Requests are counted by who sends them, and by nobody in the mesh.
"""

import contextlib
import json
import re
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promtool
import pytest
from chromium import CHROMIUM
from e2e import operator as ops
from e2e.operator import Operator

pytestmark = [pytest.mark.lab, pytest.mark.consul, pytest.mark.timeout(1800)]

TO_API = f"http://127.0.0.1:{ops.WEB_TO_API}"
OTLP_PORT = 4318
MESH = """\
version: 1
telemetry:
  otlp: http://{gateway}:{port}/v1/traces
defaults:
  access_log: {{percent: 100%}}
  tracing: {{percent: 100%}}
"""
CLIENT, SERVER = 3, 2
"""Kinds of spans in OTLP."""


@pytest.fixture(scope="module")
def operator(
    lab: Any, consul_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    operator = Operator(lab=lab, directory=tmp_path_factory.mktemp("observability"))
    operator.run("init", ".", "--trust-domain", "lab.mesh", "--no-passphrase")
    ops.install_applications(lab)
    ops.fetch_wheels(operator)
    operator.inventory(inventory(lab, consul_binary))
    (operator.directory / "mesh.yaml").write_text(MESH.format(gateway=lab.gateway, port=OTLP_PORT))
    try:
        operator.run("deploy", "--yes")
        operator.wait_well()
        yield operator
    finally:
        operator.run("uninstall", "--yes", expect=None)
        ops.remove_applications(lab)


def inventory(lab: Any, binary: str) -> str:
    text = ops.inventory(lab, f"  mode: managed\n  package: {{binary: {binary}}}")
    network = lab.gateway.rpartition(".")[0] + ".0/24"
    return text.replace("proxy: {", f"metrics: {{from: [{network}]}}\nproxy: {{", 1)


@pytest.fixture(scope="module")
def receiver(lab: Any, operator: Operator) -> Iterator[Path]:
    """A collector of traces where the operator is; the file has a span a line."""
    file = operator.directory / "spans.jsonl"
    file.touch()
    program = str(ops.PROGRAMS / "otlp.py")
    with running(
        lab.operator_command([sys.executable, program, lab.gateway, str(OTLP_PORT), str(file)])
    ):
        yield file


@contextlib.contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait(10)


def test_prometheus_finds_every_proxy_through_consul_and_counts_each_request_once(
    lab: Any, operator: Operator
) -> None:
    host = lab.hosts[0]
    with prometheus(lab, operator):
        ops.wait_for(lambda: len(up(host)) == 3, "three targets are up", 60)
        assert set(up(host).values()) == {"1"}
        before = counted(host)
        with ops.load(host, requests=300, extra="--pause 0.01") as sent:
            pass
        ops.wait_for(
            lambda: counted(host) - before == sent["total"],
            f"Prometheus has all {sent['total']} requests",
            60,
        )
        assert sent["failed"] == 0
        rules = asked(host, "/api/v1/rules")["groups"]
        assert rules
        assert all(rule["health"] == "ok" for group in rules for rule in group["rules"])


@contextlib.contextmanager
def prometheus(lab: Any, operator: Operator) -> Iterator[None]:
    """On the first host, as what ``meshctl observe`` wrote says."""
    host = lab.hosts[0]
    operator.run("observe", "prometheus", "--dir", "prometheus")
    host.run("install -d -m 0755 /srv/prometheus")
    binary = Path(promtool.found_with_consul("prometheus"))
    ops.push(lab, host, binary, "/srv/prometheus/prometheus")
    token = (operator.directory / ".meshctl/consul/observer.token").read_text().strip()
    for file in sorted((operator.directory / "prometheus").iterdir()):
        text = file.read_text()
        if file.name == "prometheus.yml":
            # How a token is given since Prometheus 2.28; the one here is older.
            asked = re.compile(r"authorization:\n +credentials_file: .*\n")
            assert asked.search(text)
            text = asked.sub(f"token: {token}\n", text)
        host.write(f"/srv/prometheus/{file.name}", text, mode="0600")
    host.run(
        "systemd-run --quiet --unit=prometheus --property=WorkingDirectory=/srv/prometheus "
        "/srv/prometheus/prometheus --config.file=prometheus.yml --storage.tsdb.path=data "
        "--web.listen-address=127.0.0.1:9090"
    )
    try:
        yield
    finally:
        host.run("systemctl stop prometheus; rm -rf /srv/prometheus", check=False)


def asked(host: Any, path: str) -> Any:
    done = host.run(f"curl -sS --max-time 20 'http://127.0.0.1:9090{path}'", check=False)
    if done.returncode:
        return {"result": [], "groups": []}
    return json.loads(done.stdout)["data"]


def query(host: Any, expression: str) -> list[Any]:
    """An expression without what a shell or a URL would read otherwise."""
    return list(asked(host, f"/api/v1/query?query={expression}")["result"])


def up(host: Any) -> dict[str, str]:
    return {each["metric"]["host"]: each["value"][1] for each in query(host, "up")}


def counted(host: Any) -> int:
    """Requests of web to api, by the caller's proxy; the same by those of the called."""
    sides = {
        side: sum(
            int(each["value"][1])
            for each in query(
                host,
                f"istio_requests_total%7Breporter=%22{side}%22,source_workload=%22web%22,"
                "destination_service=%22api%22%7D",
            )
        )
        for side in ("source", "destination")
    }
    return sides["source"] if sides["source"] == sides["destination"] else -1


def test_the_spans_of_both_sides_reach_a_collector_as_one_trace(
    lab: Any, operator: Operator, receiver: Path
) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    lab.hosts[0].run(
        f"curl -sS -f --max-time 20 -H 'traceparent: 00-{trace}-{parent}-01' {TO_API}/traced"
    )
    ops.wait_for(lambda: len(spans_of(receiver, trace)) == 2, "both spans arrive")
    client, server = sorted(spans_of(receiver, trace), key=lambda each: -each["kind"])
    assert (client["kind"], server["kind"]) == (CLIENT, SERVER)
    assert client["parent"] == parent
    assert server["parent"] == client["span_id"]
    assert client["resource"]["service.name"] == "web"
    assert server["resource"]["service.name"] == "api"
    assert client["resource"]["host.name"] == lab.hosts[0].name
    assert client["start"] <= server["start"]
    for each in (client, server):
        assert each["attributes"]["http.request.method"] == "GET"
        assert each["attributes"]["url.path"] == "/traced"
        assert each["attributes"]["http.response.status_code"] == 200


def spans_of(file: Path, trace: str) -> list[dict[str, Any]]:
    spans = [json.loads(line) for line in file.read_text().splitlines()]
    return [each for each in spans if each["trace_id"] == trace]


def test_the_journals_of_both_hosts_have_a_line_of_the_same_call(
    lab: Any, operator: Operator
) -> None:
    wanted = f"e2e-{uuid.uuid4()}"
    lab.hosts[0].run(f"curl -sS -f --max-time 20 -H 'x-request-id: {wanted}' {TO_API}/logged?x=1")

    def lines() -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for host in lab.hosts[:3]
            for line in host.run(
                f"journalctl -u meshctl-proxy -o cat --no-pager | grep {wanted} || true"
            ).stdout.splitlines()
        ]

    ops.wait_for(lambda: len(lines()) == 2, "a line at each side")
    source, destination = sorted(lines(), key=lambda each: each["side"] == "destination")
    assert (source["side"], destination["side"]) == ("source", "destination")
    for each in (source, destination):
        assert (each["caller"], each["service"]) == ("web", "api")
        assert (each["path"], each["status"], each["flag"]) == ("/logged", 200, None)
        assert each["caller_identity"] == "spiffe://lab.mesh/svc/web"
    assert source["trace_id"] == destination["trace_id"] != ""
    found = operator.run(
        "logs", "--where", f"request_id={wanted}", "--since", "10m", "-o", "json"
    ).stdout.splitlines()
    assert len(found) == 2


def test_access_lines_go_to_a_file_that_only_the_proxy_writes(lab: Any, operator: Operator) -> None:
    mesh = operator.directory / "mesh.yaml"
    before = mesh.read_text()
    mesh.write_text(before.replace("telemetry:\n", "telemetry:\n  log_to: file\n"))
    try:
        operator.run("apply", "--yes")
        wanted = f"e2e-{uuid.uuid4()}"
        lab.hosts[0].run(f"curl -sS -f --max-time 20 -H 'x-request-id: {wanted}' {TO_API}/")
        file = "/var/log/meshctl/access.log"
        ops.wait_for(
            lambda: wanted in lab.hosts[0].run(f"cat {file}", check=False).stdout, "the line"
        )
        assert lab.hosts[0].run(f"stat -c %U:%a {file}").stdout.split() == ["meshctl:640"]
        found = operator.run("logs", "--where", f"request_id={wanted}", "-o", "json")
        assert len(found.stdout.splitlines()) == 2
    finally:
        mesh.write_text(before)
        operator.run("apply", "--yes")


def test_the_terminal_shows_live_traffic_over_ssh(lab: Any, operator: Operator) -> None:
    with ops.load(lab.hosts[0], requests=200, extra="--pause 0.02"):
        top = operator.json("top", "--once", "--interval", "3")
        edges = operator.json("edges", "--interval", "3")
        endpoints = operator.json("endpoints", "api")
    api = next(each for each in top["services"] if each["service"] == "api")
    assert api["signals"]["requests"] > 0
    assert api["signals"]["success"] == 1.0
    edge = next(
        each for each in edges["edges"] if (each["caller"], each["service"]) == ("web", "api")
    )
    assert edge["security"] == "mutual_tls"
    assert {each["host"] for each in endpoints["endpoints"]} == {
        lab.hosts[1].name,
        lab.hosts[2].name,
    }


def test_a_browser_shows_live_traffic(lab: Any, operator: Operator) -> None:
    words = operator.words("dashboard", "--no-open")
    dashboard = subprocess.Popen(
        words, cwd=operator.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert dashboard.stdout is not None
        url = dashboard.stdout.readline()
        program = str(ops.PROGRAMS / "browse.py")
        with ops.load(lab.hosts[0], requests=200, extra="--pause 0.02"):
            done = subprocess.run(
                lab.operator_command([sys.executable, program, str(CHROMIUM), "web calls api"]),
                input=url,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
        assert done.returncode == 0, done.stderr
    finally:
        dashboard.kill()
        dashboard.communicate(timeout=30)
    seen = json.loads(done.stdout)
    assert seen["complaints"] == []
    assert all("mTLS" in call for call in seen["calls"] if call.startswith("web calls api"))


def test_tap_shows_a_request_that_is_made_while_it_looks(lab: Any, operator: Operator) -> None:
    words = operator.words("tap", "api", "--for", "20s", "--max", "2", "-o", "json")
    tap = subprocess.Popen(
        words, cwd=operator.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while tap.poll() is None and time.monotonic() < deadline:
            lab.hosts[0].run(f"curl -sS --max-time 20 {TO_API}/tapped")
        out, err = tap.communicate(timeout=30)
    finally:
        if tap.poll() is None:
            tap.kill()
            tap.wait(10)
    assert tap.returncode == 0, err
    seen = [json.loads(line) for line in out.splitlines()]
    assert {each["path"] for each in seen} == {"/tapped"}


def test_a_report_and_a_support_bundle_can_be_made(lab: Any, operator: Operator) -> None:
    with ops.load(lab.hosts[0], requests=50, extra="--pause 0.02"):
        operator.run("report", "--for", "3s", "--format", "html", "--file", "report.html")
    page = (operator.directory / "report.html").read_text()
    assert "web" in page
    assert "api" in page
    operator.run("support-bundle", "--file", "bundle.tar.gz")
    bundle = operator.directory / "bundle.tar.gz"
    assert bundle.stat().st_mode & 0o077 == 0
    with tarfile.open(bundle) as archive:
        names = archive.getnames()
        held = b"".join(
            file.read() for each in archive if (file := archive.extractfile(each)) is not None
        )
    for host in lab.hosts[:3]:
        assert any(host.name in name for name in names)
    assert ops.count_keys(held) == 0
    secret = lab.hosts[0].run("cat /etc/meshctl/consul.token").stdout.strip()
    assert secret
    assert secret.encode() not in held
