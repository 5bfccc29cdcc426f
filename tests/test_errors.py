"""Wording of error messages."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import nas
from nas.errors import argument_text, names_text, one_of, short_repr, suggestion

PACKAGE = Path(nas.__file__).parent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("tea", "`sampler='tea'`"),
        ("", "`sampler=''`"),
        ("it's", '`sampler="it\'s"`'),
        ("a\nb\tc", r"`sampler='a\nb\tc'`"),
        ("größe", "`sampler='größe'`"),
        ("\udcff", r"`sampler='\udcff'`"),
        ("a`b", r"`sampler='a\x60b'`"),
        (Path("a b/c"), "`sampler='a b/c'`"),
        (0, "`sampler=0`"),
        (0.5, "`sampler=0.5`"),
        (None, "`sampler=None`"),
        (True, "`sampler=True`"),
        (["a", "b"], "`sampler=['a', 'b']`"),
        (float("nan"), "`sampler=nan`"),
        pytest.param(10**5000, "`sampler=an integer of thousands of digits`", id="10**5000"),
    ],
)
def test_argument_is_formatted_as_python_keyword(value, text):
    assert argument_text("sampler", value) == text


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("medan", " (did you mean median?)"),
        ("MEDIAN", " (did you mean median?)"),
        ("median", ""),
        ("tea", ""),
        ("", ""),
        ("odd\nnames", r" (did you mean 'odd\nname'?)"),
    ],
)
def test_suggestion_is_most_similar_known_word(word, text):
    assert suggestion(word, ["none", "median", "odd\nname"]) == text


@given(st.text(max_size=100))
@example("\\`")
@example("\\\\`'\"")
def test_text_argument_round_trips_through_literal_eval(value):
    text = argument_text("study", value)
    assert text.isprintable()
    assert text.count("`") == 2
    assert ast.literal_eval(text.strip("`").removeprefix("study=")) == value


def test_argument_is_one_short_line():
    class Table:
        def __repr__(self):
            return "row 1\n  row 2\nrow 3"

    assert argument_text("data", Table()) == "`data=row 1 row 2 row 3`"
    assert short_repr(Table()) == "row 1 row 2 row 3"
    path = "/" + "x" * 250
    assert argument_text("output", path) == f"`output='{path}'`"
    assert len(argument_text("output", "x" * 5000)) < 320


def test_names_are_sorted_and_quoted_if_blank_or_long():
    assert names_text(["b", "a"]) == "a, b"
    assert names_text([""]) == "''"
    assert names_text([" ", "a\nb", "c "]) == r"' ', 'a\nb', 'c '"
    assert names_text(["x" * 41]) == f"'{'x' * 12}...{'x' * 13}'"


def test_one_of_joins_expected_words():
    assert one_of(["a"]) == "a"
    assert one_of(["a", "b"]) == "a or b"
    assert one_of(["b", "a", "c"]) == "one of b, a, c"
    assert one_of(["", "a"]) == "'' or a"
    assert one_of([]) == "none"


WRITES_COMMANDS = {
    "distribution.py",
    "study/reference.py",
    "seed_stats.py",
    "reports/summary.py",
    "exporters/verify.py",
    "exporters/core_test/emulate.py",
}
"""Files whose strings are command lines, or options of another program, not messages."""
IS_A_PROGRAM = {"exporters/predict.py", "exporters/model_card.py"}
OPTION = re.compile(r"(?<![\w-])--[a-z]")


def strings(path):
    """Returns the string constants of a module, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in described)
    return [node.value for node in nodes if isinstance(node.value, str)]


def test_library_messages_name_no_command_line_options():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "cli" and any(map(OPTION.search, strings(path)))
    }
    assert found <= WRITES_COMMANDS | IS_A_PROGRAM


def test_messages_avoid_allowed_and_whole_number():
    other = [
        (path.name, text)
        for path in PACKAGE.rglob("*.py")
        for text in strings(path)
        if re.search(r"\ballowed\b|\bwhole number\b", text)
    ]
    assert other == []
