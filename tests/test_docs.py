"""What the documentation says is what the product does."""

import re
from pathlib import Path

import pytest

from meshctl.cli.reference import page

ROOT = Path(__file__).parent.parent


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    written = (ROOT / "docs" / "cli.md").read_text()
    assert written == page(), "python -m meshctl.cli.reference > docs/cli.md"


@pytest.mark.parametrize("path", sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")]), ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_command_of_the_readme_exists() -> None:
    known = set(re.findall(r"^## `(meshctl[^`]*)`", page(), re.MULTILINE))
    for line in (ROOT / "README.md").read_text().splitlines():
        match = re.match(r"meshctl ((?:[a-z]+ ?)+)", line)
        if match:
            words = ["meshctl", *match[1].split()]
            assert any(" ".join(words[:n]) in known for n in (2, 3)), line
