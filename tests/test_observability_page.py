"""docs/observability.md lists all that proxies and signers tell, and nothing else.

What they tell is found by making them, not by reading their sources.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from families import proxy_tally

from meshctl.signer.measures import Measures
from proxy.core import access_format
from proxy.core.exposition import Tally

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "observability.md").read_text()
CALLS = (
    *("reporter", "source_workload", "source_principal", "destination_workload"),
    *("destination_service", "request_protocol", "response_code", "grpc_response_status"),
    "response_flags",
    "connection_security_policy",
)
SHORT = {"calls": CALLS, "pair": ("source_workload", "destination_service")}
"""Words of the page for labels that come together."""


def section(title: str) -> str:
    """What stands below a heading of any level, up to the next of the same or a higher one."""
    match = re.search(rf"^(#+) {re.escape(title)}\n", PAGE, re.MULTILINE)
    assert match is not None, f"there is no section {title}"
    rest = PAGE[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str, head: str) -> Iterator[list[str]]:
    """The cells of all tables in ``text`` whose first column is called ``head``."""
    is_table = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" |")]
        if not line.startswith("|"):
            is_table = False
        elif is_table and not set(line) <= set("|-"):
            yield cells
        elif cells[0] == head:
            is_table = True


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def families() -> Tally:
    """Of a proxy with everything that a proxy can have, and of a signer."""
    return [*proxy_tally(), *Measures().metrics.tally()]


def told_labels(cell: str) -> tuple[str, ...]:
    found: list[str] = []
    for word in filter(None, (each.strip() for each in cell.split(","))):
        found += SHORT.get(word, (word.strip("`"),))
    return tuple(found)


def test_every_metric_has_a_row_with_its_type_and_its_labels(families: Tally) -> None:
    told: dict[str, tuple[str, tuple[str, ...]]] = {}
    for cells in rows(section("Metrics"), "metric"):
        for name in names(cells[0]):
            assert name not in told, f"{name} has two rows"
            told[name] = (cells[1], told_labels(cells[2]))
    there = {family.name: (str(family.kind), tuple(family.label_names)) for family in families}
    assert told == there


def test_the_short_words_for_labels_are_explained() -> None:
    text = " ".join(section("Labels").split())
    for word, labels in SHORT.items():
        _, _, after = text.partition(f"`{word}`")
        assert names(after)[: len(labels)] == list(labels), word


def test_every_label_is_explained(families: Tally) -> None:
    told = {name for cells in rows(section("Labels"), "label") for name in names(cells[0])}
    assert told == {label for family in families for label in family.label_names}


def test_every_metric_that_the_page_names_exists(families: Tally) -> None:
    known = {family.name for family in families}
    for family in families:
        if family.kind == "histogram":
            known |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    # Names of recording rules have colons; a name that ends with _ stands for several.
    named = set(re.findall(r"(?<![:\w])(?:mesh|istio)_[a-z_]*[a-z]\b(?![:*])", PAGE))
    assert named - known == set()


def test_every_field_of_the_access_log_is_listed() -> None:
    told = [name for cells in rows(section("Fields"), "field") for name in names(cells[0])]
    assert sorted(told) == sorted(access_format.FIELDS)


def test_every_field_that_a_template_of_the_page_names_exists() -> None:
    named = set(re.findall(r"%([a-z_]+)%", PAGE))
    assert "path" in named
    assert named - {"field"} - set(access_format.FIELDS) == set(), "%field% stands for any"


def keys_of_spans() -> set[str]:
    """What ``Key`` is made with: whatever a span says, it says by one of these."""
    found: set[str] = set()
    for path in (ROOT / "proxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="Key"), args=[ast.Constant(value=str(key))]):
                    found.add(key)
                case _:
                    pass
    return found


def test_every_attribute_of_a_span_is_listed() -> None:
    keys = keys_of_spans()
    assert "mesh.route" in keys
    told = {name for cells in rows(section("Spans"), "attribute") for name in names(cells[0])}
    assert told == keys
