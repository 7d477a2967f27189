"""The JSON Schema agrees with the parser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from meshctl import yamltree
from meshctl.inventory.fields import INVENTORY
from meshctl.inventory.parse import parse
from meshctl.inventory.schema import inventory_schema

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "inventory.example.yaml"
CASES = sorted((ROOT / "tests/cases/inventory").glob("*.yaml"))
STRUCTURAL = [case for case in CASES if case.read_text().startswith("# structural: yes")]
SEMANTIC = [case for case in CASES if case.read_text().startswith("# structural: no")]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(inventory_schema())


def data_of(path: Path) -> Any:
    return yamltree.plain(yamltree.load(path.read_text(), str(path)))


def test_schema_is_valid_and_is_json() -> None:
    schema = json.loads(json.dumps(inventory_schema()))
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_example_is_valid(validator: Draft202012Validator) -> None:
    validator.validate(data_of(EXAMPLE))


@pytest.mark.parametrize("case", STRUCTURAL, ids=lambda case: case.stem)
def test_structural_case_is_not_valid(case: Path, validator: Draft202012Validator) -> None:
    assert not validator.is_valid(data_of(case))


@pytest.mark.parametrize("case", SEMANTIC, ids=lambda case: case.stem)
def test_case_for_the_parser_only_is_valid_for_editors(
    case: Path, validator: Draft202012Validator
) -> None:
    # A case that the schema refuses after all should say so in its first line. A value of a
    # wrong type among others of a wrong text is the exception.
    errors = [error.validator for error in validator.iter_errors(data_of(case))]
    assert set(errors) <= {"type"}


def keys_of(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name == "properties":
                yield from value
            if name not in ("if", "then", "else", "not", "allOf"):
                yield from keys_of(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from keys_of(item)


def test_every_key_is_in_the_example() -> None:
    text = EXAMPLE.read_text()
    missing = [
        key
        for key in set(keys_of(INVENTORY.schema()))
        if not re.search(rf"\b{key}: ", text) and not re.search(rf"^\W*{key}:$", text, re.MULTILINE)
    ]
    assert missing == []


@pytest.mark.parametrize(
    "change",
    [
        ("mode: managed", "mode: existing\n  token_file: /etc/t"),
        ("sha256: ", "# "),
    ],
)
def test_alternatives_written_as_comments_are_right(change: tuple[str, str]) -> None:
    text = EXAMPLE.read_text().replace(*change)
    if change[0] == "sha256: ":
        text = text.replace("    archive: ", "    # ").replace("    # binary:", "    binary:")
    else:
        head, _, rest = text.partition("  package:")
        text = head + rest[rest.index("\n\n") :]
    inventory = parse(text, EXAMPLE)
    assert inventory.consul.token_file == "/etc/t" or inventory.consul.package is not None


def test_each_description_is_a_sentence() -> None:
    def about(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            for name, value in schema.items():
                if name == "description" and isinstance(value, str):
                    yield value
                else:
                    yield from about(value)

    found = list(about(INVENTORY.schema()))
    assert len(found) > 30
    assert [text for text in found if not text.endswith(".")] == []
