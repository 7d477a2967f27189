"""YAML to a tree with lines: what is kept, what is refused, and where it says so."""

import contextlib
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from meshctl import yamltree
from meshctl.errors import InvalidInput
from meshctl.yamltree import MappingNode, ScalarNode, SequenceNode, load, plain


@pytest.fixture(params=["libyaml", "pure"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution's PyYAML may lack libyaml; both parsers must do."""
    if request.param == "pure":
        monkeypatch.delattr(yaml, "CSafeLoader")


def violations(text: str) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        load(text, "file.yaml")
    assert caught.value.source == "file.yaml"
    return [str(violation) for violation in caught.value.violations]


def test_each_node_carries_its_line() -> None:
    root = load("a: 1\nb:\n  - x\n  - c: 'y'\n", "f")
    assert root == MappingNode(
        (
            (ScalarNode("a", 1, "a"), ScalarNode(1, 1, "1")),
            (
                ScalarNode("b", 2, "b"),
                SequenceNode(
                    (
                        ScalarNode("x", 3, "x"),
                        MappingNode(((ScalarNode("c", 4, "c"), ScalarNode("y", 4, "y")),), 4),
                    ),
                    3,
                ),
            ),
        ),
        1,
    )


def test_get_finds_a_key_and_tells_absent_from_empty() -> None:
    root = load("a:\nb: 1\n", "f")
    assert isinstance(root, MappingNode)
    assert root.get("a") == ScalarNode(None, 1, "")
    assert root.get("c") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("on", "on"),
        ("12", 12),
        ("-3", -3),
        ("0o17", 15),
        ("0x1f", 31),
        ("010", 10),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("12:30:00", "12:30:00"),
        ("2001-01-01", "2001-01-01"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!int 12", 12),
        ("|\n  text\n", "text\n"),
        ("\ufeffword", "word"),
        ("1_000", "1_000"),
        ("\N{ARABIC-INDIC DIGIT ONE}", "\N{ARABIC-INDIC DIGIT ONE}"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = plain(load(text, "f"))
    assert (found, type(found)) == (value, type(value))


def test_an_empty_text_is_null_on_line_1() -> None:
    assert load("", "f") == load("# only a comment\n", "f") == ScalarNode(None, 1, "")


def test_every_duplicate_key_is_reported_with_both_lines() -> None:
    found = violations("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert len(found) == 2
    assert found[0].startswith("line 2: b.c: the key 'c' is there already, on line 2")
    assert found[1].startswith("line 3: a: the key 'a' is there already, on line 1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1: x", "line 1: (file): the key '1' is not a string"),
        ("a:\n  true: x", "line 2: a: the key 'true' is not a string"),
        ("~: x", "line 1: (file): the key '~' is not a string"),
        ("? [a]\n: x", "line 1: (file): a key is a list or a mapping"),
        ("<<: {a: 1}", "line 1: (file): a merge key"),
        ("a: &x 1", "line 1: a: anchor 'x'"),
        ("a: &x [1]\nb: *x", "line 1: a: anchor 'x'"),
        ("a: !custom 1", "line 1: a: the tag '!custom'"),
        ("a: !!python/object:os.system x", "line 1: a: the tag"),
        ("a: !!binary x", "line 1: a: the tag"),
        ("a: !!int x", "line 1: a: 'x' is not a int"),
        ("a: !!set {b}", "line 1: a: the tag"),
        ("a: 1\n---\nb: 1", "line 2: (file): it has more than one document"),
        ("a: {", "(file): not valid YAML"),
        ("a: 1\n\tb: 2", "(file): not valid YAML"),
        ("a: b: c", "line 1: (file): not valid YAML"),
        ("a: 'open\n", "(file): not valid YAML"),
        ("a: 1\nb: \x00", "line 2: (file): not valid YAML"),
        ("a: \ud800", "line 1: (file): not valid YAML"),
        (f"a: {'9' * 5000}", "line 1: a: a number of 5000 digits"),
    ],
)
def test_what_is_refused_names_line_path_and_reason(text: str, expected: str) -> None:
    found = violations(text)
    assert expected in found[0]


def test_a_bomb_of_aliases_is_refused_without_being_expanded() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    assert len(violations("\n".join(lines))) <= 50


def test_nesting_has_a_limit() -> None:
    assert "nested more than 50 levels" in violations("[" * 400 + "]" * 400)[0]
    assert "nested more than 50 levels" in violations("{a: " * 400 + "}" * 400)[0]
    load("[" * 49 + "1" + "]" * 49, "f")


def test_size_has_a_limit() -> None:
    (found,) = violations("#" * (yamltree.MAX_BYTES + 1))
    assert f"the limit is {yamltree.MAX_BYTES}" in found


def test_a_hostile_key_does_not_fill_the_screen() -> None:
    key = "k" * 100_000
    (found,) = violations(f"? {key}\n: 1\n? {key}\n: 2\n")
    assert len(found) < 1000


@pytest.mark.parametrize(
    ("path", "step", "joined"),
    [("", "a", "a"), ("a", "b", "a.b"), ("a", 2, "a[2]"), ("a[2]", "b", "a[2].b")],
)
def test_paths_read_as_an_operator_would_write_them(
    path: str, step: str | int, joined: str
) -> None:
    assert yamltree.join(path, step) == joined


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(json_like)
def test_what_pyyaml_writes_comes_back_the_same(value: Any) -> None:
    if "<<" in repr(value):
        return
    text = yaml.safe_dump(value, default_style='"' if isinstance(value, str) else None)
    # Old PyYAML quotes by YAML 1.1, which leaves plain what 1.2 reads the same way.
    assert plain(load(text, "f")) == value


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@, \n\t?~1", max_size=60))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        load(text, "f")
