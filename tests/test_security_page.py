"""docs/security.md promises nothing without a test, and names none that is not there."""

import ast
import re
from pathlib import Path

import pytest
from hostile.certificates import HOSTILE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def promises() -> list[str]:
    """The rows of the tables between "Promises" and the next heading of its level."""
    text = PAGE.partition("\n## Promises\n")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| promise |")]


@pytest.mark.parametrize("row", promises())
def test_every_promise_has_a_test(row: str) -> None:
    assert REFERENCE.search(row.rsplit(" | ", maxsplit=1)[-1]), row


@pytest.mark.parametrize(("path", "name"), sorted(set(REFERENCE.findall(PAGE))))
def test_every_test_that_is_named_exists(path: str, name: str) -> None:
    body = ast.parse((ROOT / path).read_text()).body
    *classes, function = name.split("::")
    for each in classes:
        found = [node for node in body if isinstance(node, ast.ClassDef) and node.name == each]
        assert found, f"{path} has no class {each}"
        body = found[0].body
    assert any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
        for node in body
    ), f"{path} has no {name}"


def test_there_are_promises_to_look_at() -> None:
    assert len(promises()) >= 20


def test_the_number_of_hostile_certificates_is_the_one_that_is_tried() -> None:
    assert f"{len(HOSTILE)} kinds of hostile certificates" in PAGE
