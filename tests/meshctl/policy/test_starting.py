"""The mesh.yaml that init writes."""

from datetime import UTC, datetime
from pathlib import Path

from meshctl.inventory import parse as inventory
from meshctl.policy import parse, starting_mesh_yaml
from proxy.model.names import ServiceName
from proxy.model.policy import Policy

_CASE = Path(__file__).parents[2] / "cases" / "policy" / "inventory.yaml"
INVENTORY = inventory.parse(_CASE.read_text(), _CASE)
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def test_it_parses_to_the_built_in_policy_whatever_the_inventory() -> None:
    assert parse(starting_mesh_yaml(), "mesh.yaml", INVENTORY, NOW) == Policy()


def test_its_commented_example_can_be_uncommented() -> None:
    head, _, example = starting_mesh_yaml().partition("For instance:\n#\n")
    body, _, tail = example.partition("services:\n")
    lines = "".join(f"{line.removeprefix('# ')}\n" for line in body.splitlines())
    text = f"{head}For instance:\nservices:\n{lines}{tail}"
    policy = parse(text, "mesh.yaml", INVENTORY, NOW)
    assert policy.of(ServiceName("api")).timeouts.request_s == 5.0


def test_lines_fit_a_terminal_and_it_ends_in_a_newline() -> None:
    assert max(map(len, starting_mesh_yaml().splitlines())) <= 100
    assert starting_mesh_yaml().endswith("\n")
