"""A report says what was measured and what was not, and its page needs nothing and runs nothing."""

import html.parser
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from telemetry.made import MadeMesh, Proxy

from meshctl.finding import problem, warning
from meshctl.status import HostStatus, MeshStatus, WorkloadView
from meshctl.telemetry.rates import view
from meshctl.telemetry.report.building import build
from meshctl.telemetry.report.condition import endings
from meshctl.telemetry.report.model import Ending, Report, Section
from meshctl.telemetry.report.page import html as html_page
from meshctl.telemetry.report.page import markdown
from meshctl.telemetry.view import View
from proxy.model.names import HostName, ServiceName, TrustDomain

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>|`\x1b[31m"


def status(**changes: Any) -> MeshStatus:
    usual = MeshStatus(
        trust_domain=TrustDomain("mesh.test"), generation=3, hosts=(), workloads=(), findings=()
    )
    return replace(usual, **changes)


def looked(proxies: dict[str, Proxy], **changes: Any) -> View:
    before = {HostName(name): Proxy(name).stats(10.0) for name in proxies}
    after = {HostName(name): proxy.stats(20.0, generation=3) for name, proxy in proxies.items()}
    return replace(view(before, after, at=NOW.timestamp()), **changes)


def made(view: View, mesh: MeshStatus | None = None, *more: Ending) -> Report:
    mesh = mesh or status()
    return build(view, mesh, endings(mesh, more), now=NOW)


def section(report: Report, name: str) -> Section:
    return next(each for each in report.sections if each.id == name)


def rows(report: Report, name: str) -> list[list[str]]:
    return [
        [cell.text for cell in row] for table in section(report, name).tables for row in table.rows
    ]


def figures(report: Report) -> dict[str, tuple[str, str]]:
    return {each.name: (each.value, each.tone) for each in report.figures}


@pytest.fixture
def busy() -> View:
    proxy = Proxy("a")
    proxy.requests("web", "api", 90, code=200, ms=4.0)
    proxy.requests("web", "api", 10, code=503, ms=40.0)
    proxy.requests("web", "db", 100, code=200, ms=900.0)
    proxy.retries("web", "api", 20)
    proxy.denials("shop", "api", "api/no-shop", 7)
    return looked({"a": proxy})


def test_the_worst_comes_first(busy: View) -> None:
    report = made(busy)
    assert rows(report, "failing")[0][:4] == ["web", "api", "10", "90.0%"]
    assert rows(report, "failing")[0][5] == "200 x 90, 503 x 10"
    assert [row[1] for row in rows(report, "slow")] == ["db", "api"]
    assert rows(report, "denials") == [["shop", "api", "api/no-shop", "7"]]
    assert rows(report, "retries")[0][:3] == ["web", "api", "2.0"]
    shown = figures(report)
    assert shown["Requests"][0] == "20.0/s"
    assert shown["Success"] == ("95.0%", "bad")
    assert shown["Denied"] == ("7", "warn")
    assert shown["Proxies"] == ("1 of 1", "good")


def test_a_share_below_all_is_never_shown_as_all() -> None:
    proxy = Proxy("a")
    proxy.requests("web", "api", 1_000_000, code=200)
    proxy.requests("web", "api", 1, code=500)
    assert figures(made(looked({"a": proxy})))["Success"][0] == "99.99%"


def test_nothing_seen_is_said_and_is_no_zero() -> None:
    report = made(looked({"a": Proxy("a")}))
    for name in ("services", "failing", "slow", "retries", "denials", "tcp", "endpoints"):
        assert section(report, name).tables == ()
        assert section(report, name).said
    assert figures(report)["Success"] == ("-", "")


def test_a_host_that_does_not_answer_is_named_as_not_measured() -> None:
    silent = view({}, {}, at=NOW.timestamp(), faults={HostName("b"): "b: it is off"})
    report = made(silent)
    assert "b: it is off" in section(report, "unmeasured").said
    assert rows(report, "hosts")[0][:2] == ["b", "b: it is off"]
    assert figures(report)["Proxies"] == ("0 of 1", "bad")


def test_a_host_that_runs_another_policy_is_shown_with_both_generations() -> None:
    proxies = looked({"a": Proxy("a")})
    mesh = status(generation=4, hosts=(HostStatus(host=HostName("a"), address="x", state="ready"),))
    assert rows(made(proxies, mesh), "hosts")[0][3] == "3 (published: 4)"
    assert rows(made(proxies), "hosts")[0][3] == "3"


def test_certificates_are_listed_by_their_end_with_who_renews_them() -> None:
    def work(service: str, days: float | None, *, is_renewed: bool) -> WorkloadView:
        end = "" if days is None else f"{(NOW + timedelta(days=days)).isoformat()}"
        return WorkloadView(
            service=ServiceName(service), host=HostName("a"), version="", protocol="http",
            health="passing", registered="passing", spiffe_id="", serial="", not_after=end,
            is_renewed=is_renewed, upstreams=(),
        )  # fmt: skip

    mesh = status(
        workloads=(
            work("later", 20, is_renewed=False), work("soon", 3, is_renewed=False),
            work("unknown", None, is_renewed=False), work("renewed", 0.5, is_renewed=True),
            work("ended", -1, is_renewed=False),
        )
    )  # fmt: skip
    root = Ending(
        subject="root", not_after=(NOW + timedelta(days=50)).isoformat(), renewed="by hand",
        is_renewed=False,
    )  # fmt: skip
    report = made(looked({}), mesh, root)
    (table,) = section(report, "certificates").tables
    assert [(row[0].text, row[2].tone) for row in table.rows] == [
        ("ended on a", "bad"), ("renewed on a", ""), ("soon on a", "bad"), ("later on a", ""),
        ("root", "warn"), ("unknown on a", "bad"),
    ]  # fmt: skip
    assert table.rows[0][2].text == "ended 24 h ago"
    assert figures(report)["Certificates due"] == ("4", "warn")


def test_long_tables_are_cut_and_say_so() -> None:
    mesh = MadeMesh(60, 300, seed=1)
    before = mesh.step(10.0)
    report = made(view(before, mesh.step(10.0), at=NOW.timestamp()))
    (table,) = section(report, "slow").tables
    assert len(table.rows) == 25
    assert table.left_out > 100
    assert f"{table.left_out} more are left out." in html_page(report)
    assert f"{table.left_out} more are left out." in markdown(report)


class Page(html.parser.HTMLParser):
    """Tags with their attributes; fails on one that is not closed."""

    void = frozenset(("meta", "rect", "link", "br", "hr", "img", "input"))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile() -> Report:
    proxy = Proxy("a")
    proxy.requests(HOSTILE, HOSTILE, 3, code=503, flag="UF")
    proxy.denials(HOSTILE, HOSTILE, HOSTILE, 1)
    mesh = status(
        findings=(problem(HOSTILE, HOSTILE, HOSTILE), warning("a", "b", "c")),
        hosts=(HostStatus(host=HostName("a"), address="x", state=HOSTILE),),
    )
    return made(looked({"a": proxy}), mesh)


def test_the_page_is_whole_and_names_nothing_outside_itself() -> None:
    text = html_page(hostile())
    page = Page()
    page.feed(text)
    assert page.open == []
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "img", "iframe", "form", "object", "base"}
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in page.found:
        assert not {name for name in attrs if name.startswith("on")} | {"src"} & set(attrs)
        href = attrs.get("href")
        assert href is None or (href.startswith("#") and href[1:] in ids)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "default-src 'none'" in text


def test_text_from_the_mesh_is_escaped_on_the_page_and_in_markdown() -> None:
    report = hostile()
    text = html_page(report)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text + markdown(report)
    for line in markdown(report).splitlines():
        assert "<script" not in line
        if line.startswith("|"):
            # As many columns as its heading has, whatever is in them.
            assert len(re.findall(r"(?<!\\)\|", line)) >= 4


def test_every_table_can_be_read_aloud() -> None:
    page = Page()
    page.feed(html_page(hostile()))
    tables = sum(tag == "table" for tag, _ in page.found)
    assert tables == sum(tag == "caption" for tag, _ in page.found)
    scopes = [attrs.get("scope") for tag, attrs in page.found if tag == "th"]
    assert set(scopes) == {"col", "row"}
    # A bar says nothing that its figure does not.
    assert all(attrs.get("aria-hidden") == "true" for tag, attrs in page.found if tag == "svg")
    assert {attrs.get("lang") for tag, attrs in page.found if tag == "html"} == {"en"}
