"""``logs``, ``tap``, ``report`` and ``support-bundle`` as an operator runs them, on a mesh whose
proxies do not run: what is there is shown, what is missing is said."""

import io
import json
import stat
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import commands
import pytest
from commands import Run
from rich.console import Console
from typer.testing import CliRunner, Result

from meshctl.cli import call_view
from meshctl.cli.app import app
from meshctl.cli.logs import render
from meshctl.layout import Layout
from meshctl.telemetry.lines import from_text
from proxy.model.names import HostName

TRACE = "ab" * 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mesh")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """With an access log of four lines."""
    made = commands.mesh_in(folder, "http://127.0.0.1:1", commands.WEB_AND_API)
    path = Path(Layout(f"{folder}/one").access_log)
    path.parent.mkdir(parents=True)
    lines = [
        call(),
        call(status=503, flag="UF", reason="the connection could not be made", attempts=2),
        call(caller="shop", status=403, flag="UAEX", policy="api/reads", path="/\x1b[31mred"),
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(f"{text}a line of a template\n")
    return made


@pytest.fixture
def logs(run: Run, folder: Path) -> Callable[..., Result]:
    """``meshctl logs`` within this process."""
    del run  # it has made the folder

    def invoke(*words: str) -> Result:
        done = CliRunner().invoke(app, ["logs", *words, "-i", str(folder / "inventory.yaml")])
        assert done.exit_code == 0, done.output
        return done

    return invoke


def call(**more: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "ts": now, "log": "access", "side": "source", "host": "one", "request_id": "r-1",
        "trace_id": TRACE, "caller": "web", "service": "api", "protocol": "http", "method": "GET",
        "path": "/users/1", "endpoint": "api on one", "attempts": 1, "status": 200, "flag": "-",
        "reason": "-", "policy": "-", "total_ms": 12.5, **more,
    }  # fmt: skip


def test_lines_are_shown_for_people_and_for_programs(run: Run) -> None:
    shown = run("logs").stdout.splitlines()
    assert len(shown) == 4
    assert "one > web -> api  GET /users/1  200  12 ms  api on one  id=r-1" in shown[0]
    assert "503 UF  12 ms  api on one  2 attempts  (the connection could not be made)" in shown[1]
    assert "GET /\\x1b[31mred  403 UAEX" in shown[2]
    assert "(denied by api/reads)" in shown[2]
    assert shown[3].endswith("one  a line of a template")
    documents = [json.loads(line) for line in run("logs", "-o", "json").stdout.splitlines()]
    assert [each.get("status") for each in documents] == [200, 503, 403, None]
    assert {each["host"] for each in documents} == {"one"}


def test_lines_are_picked_by_service_and_by_fields(logs: Callable[..., Result]) -> None:
    def statuses(*words: str) -> list[int]:
        lines = logs("-o", "json", *words).stdout.splitlines()
        return [json.loads(line)["status"] for line in lines]

    assert statuses("api") == [200, 503, 403]
    assert statuses("web") == [200, 503]
    assert statuses("--where", "status >= 400 and not caller = shop") == [503]
    assert statuses("--where", "total_ms > 1s") == []
    assert statuses("-n", "1", "--where", "status > 0") == [403]
    assert "older lines" in logs("-n", "1").stderr


def test_a_field_that_no_line_has_is_named_with_the_one_that_may_be_meant(
    logs: Callable[..., Result],
) -> None:
    said = logs("--where", "stauts = 200")
    assert said.stdout == ""
    assert "no line has a field 'stauts'" in said.stderr
    assert "did you mean 'status'?" in said.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("logs", "nope"), "'nope' is not in the inventory"),
        (("logs", "--host", "oen"), "did you mean one?"),
        (("logs", "--since", "soon"), "'soon' is not a duration"),
        (("logs", "--where", "status >"), "a value is missing after >"),
        (("tap", "nope"), "'nope' is not in the inventory"),
        (("tap", "api", "--status", "ok"), "'ok' is no status"),
        (("tap", "api", "--flag", "XX"), "known: UH, UF"),
        (("tap", "api", "--for", "5"), "'5' is not a duration"),
        (("report", "--for", "0"), "between 1 s and 24 h"),
        (("support-bundle", "--since", "x"), "'x' is not a duration"),
    ],
)
def test_what_is_wrong_with_the_words_is_said_before_a_host_is_asked(
    run: Run, folder: Path, words: tuple[str, ...], said: str
) -> None:
    del run  # it has made the folder
    done = CliRunner().invoke(app, [*words, "-i", str(folder / "inventory.yaml")])
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_tap_of_a_proxy_that_does_not_answer_ends_in_time_and_says_so(run: Run) -> None:
    done = run("tap", "api", "--for", "2s", "-o", "json", expect=1)
    assert done.stdout == ""
    assert "the calls of one are missing" in done.stderr
    assert "0 call(s) shown" in done.stderr


def test_a_report_of_proxies_that_do_not_answer_names_them(run: Run, folder: Path) -> None:
    done = run("report", "--for", "1s", "-f", "page.html", expect=1)
    assert "one is not measured" in done.stderr
    page = (folder / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "Not measured, because their proxies do not answer: one" in page
    text = run("report", "--for", "1s", expect=1).stdout
    assert text.startswith("# Mesh mesh.test\n")
    assert "| root |" in text


def test_a_bundle_is_for_its_owner_only_and_says_what_is_missing(run: Run, folder: Path) -> None:
    done = run("support-bundle", "-f", "b.tar.gz", expect=1)
    path = folder / "b.tar.gz"
    assert done.stdout == "b.tar.gz\n"
    assert "missing" in done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as tar:
        names = set(tar.getnames())
        keys = b"".join(
            data.read() for member in tar if (data := tar.extractfile(member)) is not None
        )
    assert {"b/manifest.json", "b/status.json", "b/operator/inventory.yaml"} <= names
    assert b"PRIVATE KEY" not in keys
    assert not [name for name in names if name.endswith((".key", ".pem", ".token"))]
    assert "exists already" in run("support-bundle", "-f", "b.tar.gz", expect=3).stderr


def shown(fields: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, no_color=True, highlight=False, soft_wrap=True).print(
        render(from_text(HostName("one"), json.dumps(fields).encode()))
    )
    return out.getvalue()


def test_a_session_is_one_line_with_its_bytes() -> None:
    fields = call(protocol="tcp", received_bytes=5, sent_bytes=20_000, flag="UC", total_ms=1500)
    assert "web -> api  session UC  1.5 s  5 B in, 20 KiB out" in shown(fields)


def test_a_line_with_fields_of_any_type_is_shown_without_harm() -> None:
    for value in (None, True, -1, 1e308, [], {}, "x" * 5000, "\x1b]0;x\x07", "\u202e"):
        line = shown(dict.fromkeys(call(), value) | {"log": "access"})
        assert line.removesuffix("\n").isprintable()
        own = shown({"level": value, "msg": value, "error": value, "more": value})
        assert own.removesuffix("\n").isprintable()


@pytest.mark.parametrize(
    ("changes", "is_bad"),
    [
        ({}, False),
        ({"status": 404}, False),
        ({"status": 500}, True),
        ({"status": 0}, True),
        ({"status": 403, "flag": "UAEX"}, True),
        ({"flag": "DI"}, False),
        ({"protocol": "tcp", "status": 0}, False),
        ({"protocol": "tcp", "flag": "UC"}, True),
        ({"protocol": "grpc", "grpc_status": 14}, True),
        ({"protocol": "grpc", "grpc_status": 5}, False),
        ({"protocol": "grpc", "grpc_status": None}, False),
    ],
)
def test_what_failed_stands_out(changes: dict[str, Any], is_bad: bool) -> None:
    assert call_view.from_access("", "one", call(**changes)).is_bad is is_bad


def test_a_grpc_status_other_than_ok_is_told_by_its_name() -> None:
    for status, word in (
        (0, "200  "),
        (5, "200 NOT_FOUND"),
        (14, "200 UNAVAILABLE"),
        (99, "grpc 99"),
    ):
        seen = call_view.from_access("", "one", call(protocol="grpc", grpc_status=status))
        assert word in call_view.render(seen).plain


def test_ids_are_left_away_where_there_is_no_room_but_not_of_what_failed() -> None:
    good, bad = (call_view.from_access("", "one", call(status=status)) for status in (200, 503))
    assert "id=r-1" in call_view.render(good).plain
    assert "id=r-1" not in call_view.render(good, has_ids=False).plain
    assert f"id=r-1  trace={TRACE}" in call_view.render(bad, has_ids=False).plain
