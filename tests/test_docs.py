"""What the documentation says is what the product does."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshctl.cli.reference import page
from meshctl.inventory.model import Inventory
from meshctl.inventory.parse import parse as parse_inventory
from meshctl.policy import parse as parse_policy
from proxy.model.flags import SENTENCE, STATUS, Flag
from proxy.model.policy import Policy

ROOT = Path(__file__).parent.parent
GUIDES = (
    "README.md",
    "docs/traffic.md",
    "docs/operations.md",
    "docs/authorization.md",
    "docs/authorization-tokens.md",
    "docs/observability.md",
)
"""What has snippets of the operator's two files."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    written = (ROOT / "docs" / "cli.md").read_text()
    assert written == page(), "python -m meshctl.cli.reference > docs/cli.md"


@pytest.mark.parametrize("path", sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")]), ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            page_ = path.parent / target if target else path
            assert page_.exists(), f"{path.name} links to {target}"
            assert not anchor or anchor in anchors(page_), f"{path.name} links to {target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_command_of_the_readme_exists() -> None:
    known = set(re.findall(r"^## `(meshctl[^`]*)`", page(), re.MULTILINE))
    for line in (ROOT / "README.md").read_text().splitlines():
        match = re.match(r"meshctl ((?:[a-z]+ ?)+)", line)
        if match:
            words = ["meshctl", *match[1].split()]
            assert any(" ".join(words[:n]) in known for n in (2, 3)), line


def snippets() -> Iterator[tuple[str, str]]:
    """Where it stands, and its text."""
    for name in GUIDES:
        text = (ROOT / name).read_text()
        for found in re.finditer(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield f"{name}:{text[: found.start()].count(chr(10)) + 1}", found[1]


@pytest.mark.parametrize(
    ("place", "text"), [pytest.param(*each, id=each[0]) for each in snippets()]
)
def test_every_snippet_is_one_that_meshctl_takes(place: str, text: str) -> None:
    """A part of a file gets what is missing around it. The README's policy is for its own
    inventory, all others are for the example's."""
    if is_inventory(text):
        assert inventory(text, place).hosts
        return
    around = (ROOT / "inventory.example.yaml").read_text()
    if place.startswith("README.md"):
        around = next(each for at, each in snippets() if at.startswith("README.md"))
    policy = parse_policy(with_version(text), place, inventory(around, place), NOW)
    assert policy != Policy()


def is_inventory(text: str) -> bool:
    return re.search(r"^(hosts|proxy|metrics):", text, re.MULTILINE) is not None


def inventory(text: str, place: str) -> Inventory:
    text = with_version(text).replace("<from the release's SHA256SUMS>", "0" * 64)
    if "consul:" not in text:
        text += "consul: {mode: existing}\n"
    if "hosts:" not in text:
        text += "hosts: [{name: a, address: 10.0.0.1}]\n"
    return parse_inventory(text, Path(place))


def with_version(text: str) -> str:
    return text if re.search(r"^version:", text, re.MULTILINE) else f"version: 1\n{text}"


def test_there_are_snippets_to_look_at() -> None:
    found = [place.partition(":")[0] for place, _ in snippets()]
    assert found.count("README.md") >= 2
    assert found.count("docs/traffic.md") >= 15


def test_every_flag_is_explained() -> None:
    """With its status and the sentence that the caller reads."""
    text = (ROOT / "docs" / "operations.md").read_text()
    for flag in Flag:
        status = STATUS.get(flag, "-")
        assert f"| `{flag}` | {status} | {SENTENCE[flag]} |" in text, flag


def on_hosts() -> Iterator[Path]:
    """The sources of what runs there and is measured."""
    yield from (ROOT / "proxy").rglob("*.py")
    yield from (ROOT / "meshctl" / "signer").rglob("*.py")


def test_every_metric_that_a_guide_names_exists() -> None:
    sources = "".join(path.read_text() for path in on_hosts())
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for name in re.findall(r"`((?:mesh|istio)_[a-z_]+)`", path.read_text()):
            assert f'"{name}"' in sources, f"{path.name} names {name}"
