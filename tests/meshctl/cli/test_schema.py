"""``meshctl schema``."""

import json

import pytest
import typer
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from meshctl.cli.schema import schema

app = typer.Typer()
app.command()(schema)


@pytest.mark.parametrize(("subject", "key"), [("inventory", "hosts"), ("mesh", "services")])
def test_prints_a_valid_schema_and_nothing_else(subject: str, key: str) -> None:
    done = CliRunner().invoke(app, [subject])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    Draft202012Validator.check_schema(document)
    assert key in document["properties"]
    assert done.stderr == ""


def test_unknown_subject_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["hosts"]).exit_code == 2
