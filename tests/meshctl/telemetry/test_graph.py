"""The graph of calls as text, DOT and SVG."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry.made import Proxy

from meshctl.inventory.parse import parse
from meshctl.telemetry import graph_svg
from meshctl.telemetry.graph import Graph, Link, Node, around, declared, ranks, seen
from meshctl.telemetry.graph_svg import svg
from meshctl.telemetry.graph_text import dot, tree
from meshctl.telemetry.layout import PASSING, placed
from meshctl.telemetry.rates import view
from proxy.model.names import HostName

names = st.sampled_from("abcdefgh")
calls = st.sets(st.tuples(names, names), max_size=20)


def made(*pairs: tuple[str, str]) -> Graph:
    services = sorted({name for pair in pairs for name in pair})
    return Graph(
        nodes=tuple(Node(service=name, protocol="http") for name in services),
        links=tuple(
            Link(caller=caller, service=service, protocol="http")
            for caller, service in sorted(pairs)
        ),
    )


def watched() -> Graph:
    one = Proxy("a")
    one.requests("web", "api", 20, ms=3.0)
    one.requests("api", "users", 15)
    one.requests("api", "users", 5, code=503, flag="UF")
    one.sessions("users", "db", 4, 1)
    one.requests("unknown", "web", 10, reporter="destination", security="none")
    one.endpoint("api", "users", "b", state="ejected")
    one.denials("web", "api", "api/reads", 2)
    return seen(view({}, {HostName("a"): one.stats(10.0)}, at=0))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("a", "b"), ("b", "c")], {"a": 0, "b": 1, "c": 2}),
        ([("a", "b"), ("b", "c"), ("a", "c")], {"a": 0, "b": 1, "c": 2}),
        ([("a", "b"), ("b", "c"), ("z", "c")], {"a": 0, "b": 1, "c": 2, "z": 1}),
        ([("a", "b"), ("b", "a")], {"a": 0, "b": 1}),
        ([("a", "a")], {"a": 0}),
    ],
)
def test_callers_stand_before_whom_they_call(
    pairs: list[tuple[str, str]], expected: dict[str, int]
) -> None:
    assert ranks(made(*pairs)) == expected


@given(calls)
def test_each_service_has_a_place_and_nothing_covers_anything(pairs: set[tuple[str, str]]) -> None:
    graph = made(*pairs)
    where = placed(graph)
    assert where.services.keys() == {node.service for node in graph.nodes}
    points = {(column, row, 1.0) for column, row in where.services.values()} | {
        (column, row, PASSING) for _, way in where.lines for column, row in way[1:-1]
    }
    for column in range(where.columns):
        rows = sorted((row, need) for at, row, need in points if at == column)
        for (row, need), (following, next_need) in pairwise(rows):
            assert following - row >= (need + next_need) / 2 - 1e-6
    for link, way in where.lines:
        assert way[0] == where.services[link.caller]
        assert way[-1] == where.services[link.service]
        steps = {abs(one[0] - other[0]) for one, other in pairwise(way)}
        assert steps <= {0, 1}


@given(calls)
@settings(max_examples=50)
def test_every_call_is_in_every_form(pairs: set[tuple[str, str]]) -> None:
    graph = made(*pairs)
    text = tree(graph)
    assert sum(1 for line in text.splitlines() if re.search("[├└]", line)) == len(pairs)
    assert dot(graph).count(" -> ") == len(pairs)
    root = ElementTree.fromstring(svg(graph))
    assert len([g for g in root.iter() if g.get("class") == "call"]) == len(pairs)


def test_a_service_that_is_called_twice_is_told_once() -> None:
    graph = made(("a", "b"), ("a", "c"), ("b", "c"), ("c", "d"))
    assert tree(graph) == ("a\n├─ b\n│  └─ c\n│     └─ d\n└─ c  ...\n")
    assert tree(graph, ascii_only=True).isascii()


def test_circles_are_drawn_once_and_end() -> None:
    assert tree(made(("a", "b"), ("b", "a"))) == "a\n└─ b\n   └─ a  ...\n"
    assert tree(made(("a", "a"))) == "a\n└─ a  ...\n"


def test_traffic_is_said_in_words() -> None:
    assert tree(watched()) == (
        "unknown\n"
        "└─ web  1.0/s  100%  p95 4.8ms  PLAINTEXT\n"
        "   └─ api  2.0/s  100%  p95 4.8ms  mTLS  2 DENIED\n"
        "      └─ users (0 of 1 endpoints in use)  2.0/s  75.0%  p95 4.8ms  mTLS  FAILING\n"
        "         └─ db [tcp]  3 open  0.40/s  mTLS\n"
    )


def test_what_is_not_secured_is_dashed_and_what_fails_is_bold() -> None:
    drawn = dot(watched())
    assert '"unknown" -> "web" [label="1.0/s 100% p95 4.8ms\\nPLAINTEXT", style="dashed"];' in drawn
    assert '"api" -> "users" [label="2.0/s 75.0% p95 4.8ms\\nmTLS", style="bold"];' in drawn
    root = ElementTree.fromstring(svg(watched()))
    classes = {
        (group.findtext("{*}title") or "").partition(" (")[0]: group.get("class")
        for group in root.iter("{http://www.w3.org/2000/svg}g")
    }
    assert classes["unknown calls web"] == "call open"
    assert classes["api calls users"] == "call bad"
    assert classes["web calls api"] == "call"
    said = [text.text for text in root.iter() if text.get("class") == "said bad"]
    assert said == ["! 2.0/s 75.0%", "p95 4.8ms"]


def test_the_picture_needs_nothing_from_elsewhere() -> None:
    drawn = svg(watched())
    assert "<script" not in drawn
    assert re.findall(r"https?://[^\"]+", drawn) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in drawn
    assert "@import" not in drawn


def test_names_from_the_network_are_text_and_nothing_else() -> None:
    evil = '</title><script>"\\\n\x1b[31m'
    graph = made((evil, "api"))
    root = ElementTree.fromstring(svg(graph))
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert "\x1b" not in svg(graph) + tree(graph) + dot(graph)
    (line,) = [line for line in dot(graph).splitlines() if "->" in line]
    assert re.fullmatch(r'  "(\\.|[^"\\])*" -> "api" \[label="http"\];', line)


def test_many_lines_have_titles_instead_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'class="said"' in svg(watched())
    monkeypatch.setattr(graph_svg, "_LABELS_MAX", 3)
    assert 'class="said' not in svg(watched())
    assert "2.0/s" in svg(watched())


def test_around_a_service_is_what_leads_there_and_where_it_leads() -> None:
    graph = around(made(("a", "b"), ("b", "c"), ("a", "x"), ("y", "c"), ("a", "c")), "b")
    assert [node.service for node in graph.nodes] == ["a", "b", "c"]
    assert [(link.caller, link.service) for link in graph.links] == [("a", "b"), ("b", "c")]


def test_what_is_declared_needs_no_traffic(tmp_path) -> None:
    text = """\
version: 1
consul: {mode: existing}
hosts:
  - name: front
    address: 10.0.0.1
    services:
      - {name: web, port: 8080, protocol: http, upstreams: [{service: db, port: 9001}]}
  - {name: back, address: 10.0.0.2, services: [{name: db, port: 5432}]}
"""
    assert tree(declared(parse(text, tmp_path / "inventory.yaml"))) == "web\n└─ db [tcp]\n"


@pytest.mark.parametrize("protocol", ["http2", "grpc", "tcp"])
def test_every_drawing_names_what_is_not_plain_http(protocol: str) -> None:
    graph = Graph(
        nodes=(Node(service="pay", protocol=protocol), Node(service="web", protocol="http")),
        links=(Link(caller="web", service="pay", protocol=protocol),),
    )
    assert tree(graph) == f"web\n└─ pay [{protocol}]\n"
    assert f'label="pay\\n{protocol}"' in dot(graph)
    assert f">{protocol}<" in svg(graph)
    assert 'label="web"' in dot(graph)


def test_nothing_is_drawn_of_nothing() -> None:
    assert tree(made()) == ""
    ElementTree.fromstring(svg(made()))
