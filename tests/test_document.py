from __future__ import annotations

import math
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_autoresearch.document import MAX_BYTES, MAX_LEVELS, join_pointer, parse, parse_value, split_pointer
from lightning_autoresearch.errors import Fault, SpecError


def message(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse(text, file="f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("+1.5E+2", 150.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2", -2),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("1:30", "1:30"),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("OFF", "OFF"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("null", None),
        ("NULL", None),
        ("~", None),
        ("", None),
        ("2026-01-01", "2026-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("=", "="),
        (".", "."),
        ("e5", "e5"),
        ("'<<'", "<<"),
        (str(2**64 - 1), 2**64 - 1),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse(f"a: {text}").data["a"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: /: the text is empty; write at least one `key: value` line"),
        ("# only a comment\n", "2:1: /: the text is empty; write at least one `key: value` line"),
        ("- a\n", "1:1: /: the top level is a list, not a map; write `key: value` lines"),
        ("word", "1:1: /: the top level is text, not a map; write `key: value` lines"),
        ("~", "1:1: /: the top level is nothing, not a map; write `key: value` lines"),
        ("a: 1\nb: 2\na: 3\n", "3:1: /a: the key 'a' is already at line 1, column 1; keep one of the two"),
        ("a: {'b': 1, b: 2}", "1:13: /a/b: the key 'b' is already at line 1, column 5; keep one of the two"),
        ("a: &x 1", "1:4: /a: the anchor &x is not allowed; remove it"),
        ("a: {<<: {b: 1}}", "1:5: /a/<<: the merge key << is not allowed; write the keys out"),
        ("a: !!str 1", "1:4: /a: the tag !!str is not allowed; remove it"),
        ("a: !!python/object:os.x {}", "1:4: /a: the tag !!python/object:os.x is not allowed; remove it"),
        ("a: ! x", "1:4: /a: the tag ! is not allowed; remove it"),
        ("a: 1\n---\nb: 2\n", "2:1: /: a second document begins here; keep one document per file"),
        ("%YAML 1.1\n---\na: 1\n", "1:1: /: directives (%YAML, %TAG) are not allowed; remove the line"),
        ("a: [1, .nan]", "1:8: /a/1: .nan is not a finite number; put it in quotes if it is meant as text"),
        ("a: -.INF", "1:4: /a: -.INF is not a finite number; put it in quotes if it is meant as text"),
        ("a: 1e999", "1:4: /a: 1e999 is not a finite number; put it in quotes if it is meant as text"),
        (
            f"a: {2**64}",
            "1:4: /a: the whole number needs more than 64 bits; put it in quotes if it is meant as text",
        ),
        ("1: a", "1:1: /1: the key 1 is no text; put the key in quotes"),
        ("a: {true: 1}", "1:5: /a/true: the key true is no text; put the key in quotes"),
        ("? [a]\n: 1", "1:3: /?: a list as a key is no text; put the key in quotes"),
        (
            "a:\n\tb: 1",
            "2:1: /a: not valid YAML: found character '\\t' that cannot start any token while scanning for the next "
            "token; indent with spaces",
        ),
        (
            "a: b: c",
            "1:5: /: not valid YAML: mapping values are not allowed here; mend the line, or put text with special "
            "signs in quotes",
        ),
        ("a: 1\nb: \x07", "2:4: /: the character U+0007 is not allowed in YAML; remove it"),
        (
            'a: "\\ud800"',
            "1:4: /a: text in double quotes has an escape that stands for no character; write the character itself",
        ),
        (
            'a: "\\U00110000"',
            "1:7: /a: text in double quotes has an escape that stands for no character; write the character itself",
        ),
    ],
)
def test_what_could_be_misread_is_refused(text: str, expected: str) -> None:
    assert message(text) == f"f.yaml:{expected}"


def test_faults_are_collected_as_far_as_the_text_can_be_read() -> None:
    lines = message("a: &x 1\nb: *x\na: .nan\nc: [\n").splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "f.yaml:1:4",
        "f.yaml:2:4",
        "f.yaml:3:1",
        "f.yaml:3:4",
        "f.yaml:5:1",
    ]


def test_a_text_over_the_size_limit_is_refused_before_it_is_read() -> None:
    assert "larger than 1 MB" in message("a: " + "é" * (MAX_BYTES // 2))


def test_nesting_ends_at_the_limit() -> None:
    deepest = "a: " + "[" * (MAX_LEVELS - 1) + "]" * (MAX_LEVELS - 1)
    assert parse(deepest).data
    assert "more than 40 levels of nesting" in message("a: " + "[" * MAX_LEVELS + "]" * MAX_LEVELS)
    assert "more than 40 levels of nesting" in message("a: " + "[" * 100_000)


PLACES = """\
é: 1
b:
  - x
  - {c: 2, "d/e~": 3}
"""


def test_positions_are_those_of_keys_and_items() -> None:
    document = parse(PLACES)
    assert document.position("") == (1, 1)
    assert document.position("/b") == (2, 1)
    assert document.position("/b/0") == (3, 5)
    assert document.position("/b/1/d~1e~0") == (4, 12)


def test_a_missing_place_falls_back_to_its_nearest_ancestor() -> None:
    document = parse(PLACES)
    assert document.position("/zzz/y") == (1, 1)
    assert document.position("/b/7/c") == (2, 1)
    assert document.position("/b/1/no") == (4, 5)
    assert document.position("/b/01") == (2, 1)


def test_nodes_are_found_by_pointer() -> None:
    document = parse(PLACES)
    value, key = document.node("/b/1/d~1e~0"), document.key_node("/b/1/d~1e~0")
    assert value is not None
    assert value.start_mark is not None
    assert PLACES[value.start_mark.index] == "3"
    assert key is not None
    assert key.value == "d/e~"
    assert document.node("") is document.root
    assert document.node("/b/9") is None
    assert document.key_node("/b/0") is None
    assert document.key_node("") is None
    assert document.key_node("/nothing") is None


def test_a_single_value_is_read_by_the_same_rules() -> None:
    assert parse_value("1e-3") == 0.001
    assert parse_value("{a: [on, 2]}") == {"a": ["on", 2]}
    with pytest.raises(SpecError, match=re.escape("<value>:1:1: /: the anchor &x is not allowed")):
        parse_value("&x 1")


@settings(deadline=None)  # the clock of a busy machine proves nothing
@given(st.lists(st.text()))
def test_a_pointer_and_its_path_are_one_thing(path: list[str]) -> None:
    assert split_pointer(join_pointer(*path)) == path


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abé/~. -"), inner, max_size=4),
    max_leaves=12,
)


def _typed(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _typed(value) for key, value in tree.items()}
    return [_typed(item) for item in tree] if isinstance(tree, list) else (type(tree), tree)


def _nodes(tree: Any, *path: str | int) -> Any:
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from _nodes(value, *path, key)


class _Dumper(yaml.SafeDumper):
    """Text in quotes, so that the dumper's reading of YAML 1.1 does not matter; no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@settings(deadline=None)  # the clock of a busy machine proves nothing
@given(st.dictionaries(st.text("abc01~/"), TREES, max_size=4), st.sampled_from([None, True, False]))
def test_data_comes_back_as_it_was_dumped(data: dict[str, Any], flow: bool | None) -> None:
    document = parse(yaml.dump(data, Dumper=_Dumper, default_flow_style=flow, allow_unicode=True))
    assert _typed(document.data) == _typed(data)
    assert all(document.node(join_pointer(*path)) is not None for path in _nodes(data))


@settings(deadline=None)  # the clock of a busy machine proves nothing
@given(st.text() | st.text("ab:-?[]{},#&*!|>'\"%@` \n\t\\~<0.eExuU\r\x85\u2028\ufeff", max_size=30))
def test_any_text_is_read_or_refused_with_faults(text: str) -> None:
    outcome = _outcome(text)
    if isinstance(outcome, dict):
        assert all(math.isfinite(value) for value in outcome.values() if isinstance(value, float))
    else:
        assert outcome
        assert all(fault.line >= 1 and fault.column >= 1 for fault in outcome)


def _outcome(text: str) -> dict[str, Any] | tuple[Fault, ...]:
    try:
        return parse(text).data
    except SpecError as error:
        return error.faults
