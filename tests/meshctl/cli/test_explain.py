"""``explain`` as an operator runs it: offline, with an exit code that scripts can use."""

import json
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import Run

from meshctl.cli import explain_view
from meshctl.policy.hops import Hop
from proxy.model.names import HostName
from proxy.model.recent import SeenRequest

SERVICES = """\
      - name: web
        port: 18080
        protocol: http
        upstreams: [{service: api, port: 19001}, {service: db, port: 19002}]
      - {name: api, port: 18081, protocol: http}
      - {name: db, port: 18082}
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    meshctl = commands.mesh_in(tmp_path, "http://127.0.0.1:1", SERVICES)
    (tmp_path / "mesh.yaml").write_text("""\
version: 1
services:
  api:
    intentions:
      - {name: reads, allow: [web], match: {methods: [GET]}}
""")
    return meshctl


def test_an_allowed_request_says_by_which_line(run: Run) -> None:
    said = run("explain", "web", "api", "GET", "/x").stdout
    assert "allowed: the intention 'reads' allows it (policy api/reads)" in said
    assert "mesh.yaml:5" in said


def test_a_denied_request_ends_with_code_3(run: Run) -> None:
    said = run("explain", "web", "api", "POST", "/x", expect=3).stdout
    assert "it wants methods GET, and has POST" in said
    made = json.loads(run("explain", "web", "api", "POST", "/x", "-o", "json", expect=3).stdout)
    assert made["outcome"] == "denied"
    assert made["branches"][0]["judgements"][0]["policy"] == "api/default-deny"


def test_what_depends_and_what_is_tcp_is_told_without_a_request(run: Run) -> None:
    assert "depends" in run("explain", "web", "api").stdout
    assert "allowed" in run("explain", "web", "db").stdout
    assert "speaks tcp" in run("explain", "web", "db", "GET", "/", expect=2).stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("wob", "api"), "did you mean 'web'?"),
        (("web",), "who calls whom is missing"),
        (("web", "api", "GET"), "a request has a method and a path"),
        (("web", "api", "GET", "/", "-H", "nothing"), "'nothing' is not a header"),
        (("web", "api", "-H", "a: b"), "there is no request to have it"),
        (("web", "api", "GET", "/", "--claims", "[]"), "it is not an object"),
        (("web", "api", "--request-id", "x"), "it stands alone"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(
    run: Run, words: tuple[str, ...], sentence: str
) -> None:
    assert sentence in " ".join(run("explain", *words, expect=2).stderr.split())


def test_a_host_that_cannot_say_what_it_remembers_is_named(run: Run) -> None:
    said = run("explain", "--request-id", "r-1", expect=1).stderr
    assert "what one remembers is missing" in said
    assert "no proxy remembers a request 'r-1'" in said


def test_both_views_of_a_request_are_shown_below_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def seen(**more: Any) -> SeenRequest:
        given: dict[str, Any] = {
            "id": "r-1", "ended_at": "2026-07-01T00:00:00.000Z", "caller": "web", "service": "api",
            "method": "GET", "path": "/x", "route": "", "endpoints": (), "tries": 0, "status": 403,
            "flag": "UAEX", "policy": "api/no", "duration_ms": 1.5, "first_byte_ms": 0.0,
            "request_bytes": 0,
        }  # fmt: skip
        return SeenRequest(**(given | more))

    near = seen(side="source", host=HostName("one"), endpoints=("api on two",), tries=1)
    far = seen(side="destination", host=HostName("two"))
    why = "the intention 'no' denies it"
    explain_view.show_hops(
        "r-1",
        (
            Hop(depth=0, seen=near, why=why, at="mesh.yaml:5"),
            Hop(depth=1, seen=far, why=why, at="mesh.yaml:5"),
        ),
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "request r-1"
    assert lines[1] == "  web -> api, caller's proxy on one: 403 UAEX in 1.5 ms"
    assert "    1 try: api on two" in lines
    assert "    web -> api, called side on two: 403 UAEX in 1.5 ms" in lines
    assert lines[-1] == f"      denied by api/no: {why}  mesh.yaml:5"
