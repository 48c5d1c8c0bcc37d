# ruff: noqa: E501 (texts before and after stand side by side)
from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lightning_autoresearch import rewrite as rewrite_module
from lightning_autoresearch.document import join_pointer, parse
from lightning_autoresearch.emit import flow_text, scalar_text
from lightning_autoresearch.errors import ResearchError, SpecError
from lightning_autoresearch.rewrite import (
    NEVER,
    Op,
    RewriteError,
    changes_in_words,
    guard,
    inline_config,
    ops_between,
    protected_digest,
    rewrite,
    text_digest,
    unified_diff,
    with_header,
)
from tests import yaml_documents as documents

SPEC = """\
# yaml-language-server: $schema=../schemas/spec.schema.json
# What trains a small GPT better?
version: 1
name: gpt-source
goal: Lower validation bits per byte of a byte-level GPT at a fixed number of training tokens.

task:                                   # exactly a LightningCLI config
  model:
    class_path: recipes.gpt.GPT
    init_args:
      width: 64          # columns of the residual stream
      depth: 2
      # found by hand, never swept
      lr: 0.003
      betas: [0.9, 0.95]
      schedule: "cosine"
      note: |
        two lines
        # not a comment
  data: {class_path: recipes.gpt.SourceText, init_args: {block_size: 64, batch_size: 16}}
  trainer:
    gradient_clip_val: 1.0
    callbacks:
    - class_path: LearningRateMonitor   # logs the rate
    # ends early
    - class_path: EarlyStopping
      init_args: {monitor: val_bpb, patience: 3}

objective: {metric: val_bpb, mode: min}
guards:
  - {metric: heldout_bpb, mode: min, hidden: true}
  - {metric: peak_memory_gb, max: 8}  # the card's

search_space:
  # the usual suspects
  model.init_args.lr: {type: float, low: 0.0001, high: 0.1, scale: log}
  model.init_args.depth: {type: int, low: 1, high: 6}   # deeper is slower
scales:
  - {name: nano,   set: {trainer.max_steps: 150}}
  - {name: target, set: {trainer.max_steps: 1000}}
budget: {trials: 200}
# the end
"""


def setting(pointer: str, old: Any, value: Any) -> Op:
    return Op(op="set", pointer=pointer, old=old, value=value)


def adding(pointer: str, value: Any) -> Op:
    return Op(op="add", pointer=pointer, value=value)


def removing(pointer: str, old: Any) -> Op:
    return Op(op="remove", pointer=pointer, old=old)


@pytest.fixture
def fallbacks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls by which a map or list, or the whole text, was written anew."""
    calls: list[Any] = []
    original = rewrite_module._reemitted

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(rewrite_module, "_reemitted", counted)
    return calls


EXAMPLES = {
    "a scalar beside a comment": ("a:\n  lr:   0.003   # by hand\n", setting("/a/lr", 0.003, 0.011), "a:\n  lr:   0.011   # by hand\n"),
    "a small float has a point": ("lr: 0.1\n", setting("/lr", 0.1, 1e-05), "lr: 1.0e-05\n"),
    "a number becomes text": ("x: 1  # c\n", setting("/x", 1, "on"), 'x: "on"  # c\n'),
    "single quotes stay": ("x: 'adam'\n", setting("/x", "adam", "it's"), "x: 'it''s'\n"),
    "double quotes stay": ('x: "adam"\n', setting("/x", "adam", "sgd"), 'x: "sgd"\n'),
    "a key without a value": ("x:   # none\ny: 1\n", setting("/x", None, 2), "x: 2   # none\ny: 1\n"),
    "a scalar in flow": ("m: {a: 1, b: [x, y]}  # c\n", setting("/m/b/1", "y", "p, q"), 'm: {a: 1, b: [x, "p, q"]}  # c\n'),
    "a key without a colon in flow": ("m: {a, b: 1}\n", setting("/m/a", None, 2), "m: {a: 2, b: 1}\n"),
    "a flow list stays flow": ("b: [0.9, 0.95]  # c\n", setting("/b", [0.9, 0.95], [0.9]), "b: [0.9]  # c\n"),
    "a scalar becomes a map": ("x: 1  # c\ny: 2\n", setting("/x", 1, {"a": 1, "b": [1, 2]}), "x:  # c\n  a: 1\n  b:\n    - 1\n    - 2\ny: 2\n"),
    "an item becomes a map": ("- x\n", None, ""),
    "a map becomes a scalar": ("x:  # c\n  a: 1  # gone\n  # gone\n  b: 2\n\n# y\ny: 1\n", setting("/x", {"a": 1, "b": 2}, 5), "x: 5  # c\n\n# y\ny: 1\n"),
    "a map keeps what it shares": ("x:\n  a: 1  # one\n  b: 2\n", setting("/x", {"a": 1, "b": 2}, {"a": 1, "c": 3}), "x:\n  a: 1  # one\n  c: 3\n"),
    "a literal block is replaced": ("x: |  # c\n  one\n  two\n\ny: 1\n", setting("/x", "one\ntwo\n", "three"), "x: three  # c\n\ny: 1\n"),
    "text of several lines": ("x:\n  y: a  # c\n", setting("/x/y", "a", "one\n  two\n"), "x:\n  y: |  # c\n    one\n      two\n"),
    "a value on the next line": ("x:  # one\n  # two\n  1  # three\n", setting("/x", 1, [1]), "x:  # one\n  # two\n  # three\n  - 1\n"),
    "an odd indentation": ("x:\n     a:\n        b: 1\n", adding("/x/c", [1]), "x:\n     a:\n        b: 1\n     c:\n       - 1\n"),
    "a new key before comments": ("x:\n  a: 1\n  # b: 2\n\n# y\ny: 1\n", adding("/x/c", 3), "x:\n  a: 1\n  c: 3\n  # b: 2\n\n# y\ny: 1\n"),
    "a new key in flow": ("x: {a: 1}  # c\n", adding("/x/b", {"c": [1]}), "x: {a: 1, b: {c: [1]}}  # c\n"),
    "a new key in spread flow": ("x: {\n  a: 1,\n  b: 2  # two\n}\n", adding("/x/c", 3), "x: {\n  a: 1,\n  b: 2,  # two\n  c: 3\n}\n"),
    "a new key after a comma": ("x: {\n  a: 1,  # one\n}\n", adding("/x/b", 2), "x: {\n  a: 1,  # one\n  b: 2,\n}\n"),
    "a sibling's flow style": ("s:\n  a: {low: 1, high: 2}\n", adding("/s/b.c", {"low": 3, "high": 4}), "s:\n  a: {low: 1, high: 2}\n  b.c: {low: 3, high: 4}\n"),
    "a key into an empty map": ("x: {}  # c\ny: 1\n", adding("/x/a", 1), "x:  # c\n  a: 1\ny: 1\n"),
    "a key into nothing": ("x:  # c\ny: 1\n", adding("/x/a", 1), "x:  # c\n  a: 1\ny: 1\n"),
    "a key into an empty map in flow": ("x: {y: {}, z: 1}\n", adding("/x/y/a", 1), "x: {y: {a: 1}, z: 1}\n"),
    "missing maps are made": ("x:\n  a: 1\n", adding("/x/b/c/d", 2), "x:\n  a: 1\n  b:\n    c:\n      d: 2\n"),
    "keys that need quotes": ("x:\n  a: 1\n", adding("/x/on: #", {"1e3": 1, "a.b": 2}), 'x:\n  a: 1\n  "on: #":\n    "1e3": 1\n    a.b: 2\n'),
    "a pointer with escapes": ("x:\n  a/b: 1\n  ~t: 2\n", setting("/x/a~1b", 1, 3), "x:\n  a/b: 3\n  ~t: 2\n"),
    "an item at the end": ("x:\n- 1  # one\n# two\ny: 1\n", adding("/x/-", 2), "x:\n- 1  # one\n- 2\n# two\ny: 1\n"),
    "an item in front": ("x:\n  # one\n  - 1\n", adding("/x/0", {"a": 0}), "x:\n  # one\n  - a: 0\n  - 1\n"),
    "an item between": ("x:\n  - 1\n  # three\n  - 3\n", adding("/x/1", 2), "x:\n  - 1\n  - 2\n  # three\n  - 3\n"),
    "an item in a flow list": ("x: [1, 3]\n", adding("/x/1", 2), "x: [1, 2, 3]\n"),
    "an item into an empty list": ("x: []\n", adding("/x/-", {"a": 1, "b": 2}), "x:\n  - a: 1\n    b: 2\n"),
    "an item of a nested list": ("x:\n  - - 1\n    - 2\n", adding("/x/0/-", [3]), "x:\n  - - 1\n    - 2\n    - - 3\n"),
    "a removed key": ("x:\n  # about a\n  a: 1  # gone\n  # about b\n  b: 2\n", removing("/x/a", 1), "x:\n  # about a\n  # about b\n  b: 2\n"),
    "a removed map": ("x:\n  a:\n    # gone\n    b: 1\n\n    c: 2  # gone\n  # d\n  d: 2\n", removing("/x/a", {"b": 1, "c": 2}), "x:\n  # d\n  d: 2\n"),
    "the only key": ("x:  # c\n  # about a\n  a: 1\ny: 2\n", removing("/x/a", 1), "x: {}  # c\n  # about a\ny: 2\n"),
    "the only item": ("x:\n- 1  # gone\ny: 2\n", removing("/x/0", 1), "x: []\ny: 2\n"),
    "the first key of an item": ("x:\n  - a: 1  # gone\n    b: 2\n", removing("/x/0/a", 1), "x:\n  - b: 2\n"),
    "the first key before a comment": ("x:\n  - a: 1\n    # b\n    b: 2\n", removing("/x/0/a", 1), "x:\n  -\n    # b\n    b: 2\n"),
    "a removed item": ("x:\n  - a: 1\n    b: 2\n  # two\n  - 2\n", removing("/x/0", {"a": 1, "b": 2}), "x:\n  # two\n  - 2\n"),
    "a removed literal block": ("x: |\n  one\n\ny: 1\n", removing("/x", "one\n"), "\ny: 1\n"),
    "a removed key in flow": ("x: {a: 1, b: 2, c: 3}\n", removing("/x/b", 2), "x: {a: 1, c: 3}\n"),
    "the last key in flow": ("x: {a: 1, b: 2}\n", removing("/x/b", 2), "x: {a: 1}\n"),
    "the only key in flow": ("x: { a: 1 }  # c\n", removing("/x/a", 1), "x: {}  # c\n"),
    "a line of spread flow": ("x: [\n  1,  # gone\n  # two\n  2,  # 2\n]\n", removing("/x/0", 1), "x: [\n  # two\n  2,  # 2\n]\n"),
    "the last line of spread flow": ("x: [\n  1,  # one\n  2  # gone\n]\n", removing("/x/1", 2), "x: [\n  1,  # one\n]\n"),
    "windows line breaks": ("x:\r\n  a: 1\r\n# c\r\n", adding("/x/b", ["p\nq"]), "x:\r\n  a: 1\r\n  b:\r\n    - |-\r\n      p\r\n      q\r\n# c\r\n"),
    "no final line break": ("x:\n  a: 1", adding("/x/b", 2), "x:\n  a: 1\n  b: 2"),
    "no final line break after a removal": ("x:\n  a: 1\n  b: 2", removing("/x/b", 2), "x:\n  a: 1"),
    "a byte order mark": ("\ufeffx: 1\n", setting("/x", 1, 2), "\ufeffx: 2\n"),
    "trailing blank lines that count": ("x: |+\n  a\n\ny: 1\n", setting("/y", 1, 2), "x: |+\n  a\n\ny: 2\n"),
    "a new key after lines that count": ("m:\n  x: |+\n    a\n\ny: 1\n", adding("/m/z", 1), "m:\n  x: |+\n    a\n\n  z: 1\ny: 1\n"),
    "a type is changed, a value is not": ("x: 1  # c\n", setting("/x", 1, 1.0), "x: 1.0  # c\n"),
    "nothing is changed": ("x: {a: 0x10,   b: ~ }\n", setting("/x", {"a": 16, "b": None}, {"a": 16, "b": None}), "x: {a: 0x10,   b: ~ }\n"),
}  # fmt: skip
del EXAMPLES["an item becomes a map"]
EXAMPLES["an item becomes a map"] = (
    "x:\n  - 1  # c\n  - 2\n",
    setting("/x/0", 1, {"a": 1, "b": 2}),
    "x:\n  - a: 1  # c\n    b: 2\n  - 2\n",
)


@pytest.mark.parametrize(("text", "op", "expected"), EXAMPLES.values(), ids=EXAMPLES.keys())
def test_an_op_changes_only_its_entry(text: str, op: Op, expected: str, fallbacks: list[Any]) -> None:
    assert rewrite(text, [op]) == expected
    assert not fallbacks


AWKWARD = {
    "an explicit key": ("x:\n  ? a\n  : 1\n", adding("/x/b", 2), {"x": {"a": 1, "b": 2}}),
    "a pair in a flow list": ("x: [a: 1]\n", removing("/x/0/a", 1), {"x": [{}]}),
    "a comma after a comment": ("x: {a: 1 # c\n , b: 2}\n", removing("/x/a", 1), {"x": {"b": 2}}),
    "blank lines that would join a block": ("x: |+\n  a\ny: 1\n\n", removing("/y", 1), {"x": "a\n"}),
    "the only key of all": ("# top\nx: 1\n", removing("/x", 1), {}),
    "a first key of all": ("{}\n", adding("/x", [1]), {"x": [1]}),
}


@pytest.mark.parametrize(("text", "op", "expected"), AWKWARD.values(), ids=AWKWARD.keys())
def test_a_layout_that_cannot_be_edited_in_place_still_says_what_was_meant(text: str, op: Op, expected: Any) -> None:
    assert documents.is_data(rewrite(text, [op]), expected)


def test_what_is_written_anew_is_the_nearest_map_only() -> None:
    text = "# top\nx:\n  ? a\n  : 1\ny: 1  # why\n"
    assert rewrite(text, [adding("/x/b", 2)]) == "# top\nx:\n  a: 1\n  b: 2\ny: 1  # why\n"


def test_the_whole_text_written_anew_keeps_the_comments_on_top() -> None:
    text = "# one\r\n\r\n# two\r\nx: |+\r\n  a\r\ny: 1\r\n\r\n"
    assert rewrite(text, [removing("/y", 1)]) == '# one\r\n\r\n# two\r\nx: "a\\n"\r\n'


def test_several_ops_apply_one_after_the_other() -> None:
    ops = [setting("/x", 1, {"a": 1}), adding("/x/b", 2), removing("/x/a", 1), setting("/x/b", 2, 3)]
    assert rewrite("x: 1  # c\n", ops) == "x:  # c\n  b: 3\n"


REFUSED = {
    "a stale value": (setting("/x/a", 2, 3), r"s.yaml:2:3: /x/a: cannot set: the op expects 2, but here is 1; read the spec"),
    "true is not one": (setting("/x/a", True, 3), "expects True, but here is 1"),
    "a stale removal": (removing("/x", {"a": 2}), "cannot remove: the op expects"),
    "no such key": (setting("/x/c", None, 3), r"s.yaml:1:1: /x/c: cannot set: there is nothing here; name a key"),
    "no such item": (removing("/l/01", 1), "there is nothing here"),
    "a key that is there": (adding("/x/a", 1), "cannot add: here is 1 already; set it instead"),
    "past a list's end": (adding("/l/3", 1), "the list has 2 items; name an index up to that"),
    "a list's item by name": (adding("/l/a", 1), "the list has 2 items"),
    "below a scalar": (adding("/x/a/b", 1), "/x/a is 1, no map or list; name another key"),
    "the whole spec": (setting("", {}, {}), "an op changes something inside the spec"),
    "a number that is not finite": (adding("/x/b", [math.nan]), r"/x/b: nan cannot be written; use finite numbers"),
    "an object": (adding("/x/b", {"c": {1}}), r"\{1\} cannot be written"),
    "a key that is no text": (adding("/x/b", {1: 2}), r"\{1: 2\} cannot be written"),
    "half a character": (adding("/x/b", "\ud800"), "cannot be written as YAML that reads back the same"),
    "too large a number": (adding("/x/b", 2**70), "whole numbers of at most 64 bits"),
}  # fmt: skip


@pytest.mark.parametrize(("op", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_an_op_that_does_not_fit_is_refused_with_its_place(op: Op, message: str) -> None:
    with pytest.raises(RewriteError, match=message):
        rewrite("x:\n  a: 1\nl: [1, 2]\n", [adding("/new", 1), op], file="s.yaml")


def test_a_rewrite_error_belongs_to_the_family() -> None:
    assert issubclass(RewriteError, ResearchError)


def test_a_text_that_cannot_be_read_is_not_rewritten() -> None:
    with pytest.raises(SpecError, match="already at line 1"):
        rewrite("x: 1\nx: 2\n", [setting("/x", 1, 2)])


def test_an_old_value_counts_by_its_number() -> None:
    assert rewrite("x: 1\n", [setting("/x", 1.0, 2.0)]) == "x: 2.0\n"


@pytest.mark.parametrize("value", [*documents.TEXTS, *documents.KEYS, *(number for number, _ in documents.NUMBERS), 1e22, 1e-300, -0.0, 0o777, "=", "0b1", "1_0", ".inf", "-.5", "1e+3", "12e03", "+.inf", "190:20:30"])  # fmt: skip
def test_readers_of_both_versions_of_yaml_read_what_was_written(value: Any) -> None:
    for text in (f"k: {scalar_text(value)}", f"k: {flow_text({'v': [value]})}"):
        expected = {"k": value if text == f"k: {scalar_text(value)}" else {"v": [value]}}
        assert documents.identical(yaml.safe_load(text), expected)
        assert documents.is_data(text, expected)


def test_a_realistic_spec_is_changed_line_by_line(fallbacks: list[Any]) -> None:
    ops = [
        setting("/task/model/init_args/lr", 0.003, 0.011),
        setting("/task/data/init_args/batch_size", 16, 32),
        setting("/task/trainer/callbacks/1/init_args/patience", 3, 5),
        setting("/search_space/model.init_args.lr/high", 0.1, 0.4),
        removing("/search_space/model.init_args.depth", {"type": "int", "low": 1, "high": 6}),
        adding("/search_space/model.init_args.width", {"type": "int", "low": 32, "high": 256, "scale": "log"}),
    ]
    diff = unified_diff(SPEC, rewrite(SPEC, ops), old_name="0000.yaml", new_name="0001.yaml")
    assert [line for line in diff.splitlines() if line[0] in "+-"] == [
        "--- 0000.yaml",
        "+++ 0001.yaml",
        "-      lr: 0.003",
        "+      lr: 0.011",
        "-  data: {class_path: recipes.gpt.SourceText, init_args: {block_size: 64, batch_size: 16}}",
        "+  data: {class_path: recipes.gpt.SourceText, init_args: {block_size: 64, batch_size: 32}}",
        "-      init_args: {monitor: val_bpb, patience: 3}",
        "+      init_args: {monitor: val_bpb, patience: 5}",
        "-  model.init_args.lr: {type: float, low: 0.0001, high: 0.1, scale: log}",
        "-  model.init_args.depth: {type: int, low: 1, high: 6}   # deeper is slower",
        "+  model.init_args.lr: {type: float, low: 0.0001, high: 0.4, scale: log}",
        "+  model.init_args.width: {type: int, low: 32, high: 256, scale: log}",
    ]
    assert not fallbacks


def op_of(data: dict[str, Any], kind: Any, path: documents.Path, value: Any) -> Op:
    old = None if kind == "add" else documents.lookup(data, path)
    return Op(op=kind, pointer=join_pointer(*path), old=old, value=value)


def check_one_op(rng: Random, fallbacks: list[Any]) -> None:
    """One random op on one random document: the data is as meant, and no other comment is lost."""
    text, data, comments = documents.random_document(rng)
    kind, path, value = documents.random_op(rng, data)
    before = len(fallbacks)
    new = rewrite(text, [op_of(data, kind, path, value)])
    assert documents.is_data(new, documents.applied(data, kind, path, value))
    lost = [text for text, place in comments if text not in new and not documents.may_go(place, kind, path)]
    assert len(fallbacks) > before or not lost
    assert new.count("\r\n") == (new.count("\n") if "\r\n" in text else 0)
    assert kind == "remove" or text.endswith("\n") == new.endswith("\n")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
@example(rng=Random(54))
@example(rng=Random(3229))
def test_any_op_on_any_document_says_what_was_meant_and_keeps_other_comments(rng: Random, fallbacks: list[Any]) -> None:
    check_one_op(rng, fallbacks)


@pytest.mark.slow
def test_hardly_any_op_needs_more_than_an_edit_in_place(fallbacks: list[Any]) -> None:
    for seed in range(1000):
        check_one_op(Random(seed), fallbacks)
    assert len(fallbacks) <= 2  # measured: 3 in 12,000


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_ops_between_two_states_lead_from_one_to_the_other(rng: Random) -> None:
    text, old, _ = documents.random_document(rng)
    _, other, _ = documents.random_document(rng)
    new = {**old, **other}
    ops = ops_between(old, new)
    assert documents.is_data(rewrite(text, ops), new)
    assert ops_between(new, new) == ()


def chain_op(rng: Random, data: dict[str, Any], own: list[documents.Path]) -> tuple[str, documents.Path, Any]:
    """An op that leaves the commented entries of the spec in place: scalars are set, only what was added is removed."""
    choice = rng.random()
    if choice < 0.3 and len(own) < 12:
        parents = ["task/model/init_args", "task/data/init_args", "search_space", "task/trainer", "task"]
        path = (*rng.choice(parents).split("/"), rng.choice(documents.KEYS))
        if path[-1] not in documents.lookup(data, path[:-1]):
            own.append(path)
            return "add", path, documents.random_value(rng, depth=2)
    if choice < 0.5 and own:
        return "remove", own.pop(rng.randrange(len(own))), None
    scalars = [path for path in documents.paths(data) if not isinstance(documents.lookup(data, path), (dict, list))]
    return "set", rng.choice(scalars), rng.choice([rng.random(), rng.randint(0, 99), *documents.TEXTS])


@pytest.mark.slow
def test_a_thousand_ops_on_a_spec_keep_its_comments(fallbacks: list[Any]) -> None:
    rng, text, own = Random(1), SPEC, []
    data = parse(SPEC).data
    comments = [line[line.index("#") :] for line in SPEC.splitlines() if "#" in line and "not a comment" not in line]
    assert len(comments) == 11
    for _ in range(1000):
        kind, path, value = chain_op(rng, data, own)
        text = rewrite(text, [op_of(data, kind, path, value)])
        data = documents.applied(data, kind, path, value)
        assert documents.is_data(text, data)
        assert [comment for comment in comments if comment not in text] == []
    assert not fallbacks


def test_a_task_in_a_file_of_its_own_is_put_into_the_spec() -> None:
    spec = "version: 1\ntask: {config: gpt.yaml}  # exactly a LightningCLI config\n\n# what\nobjective: {metric: a, mode: min}\n"
    config = "---\n# of the model\nmodel:\n  lr: 0.1  # rate\n\n  note: |\n    one\n\n    two\ntrainer: {max_steps: 5,\n  precision: 16}\n# end\n"
    assert inline_config(spec, config, file="s.yaml") == (
        "version: 1\ntask:  # exactly a LightningCLI config\n  # of the model\n  model:\n    lr: 0.1  # rate\n\n    note: |\n"
        "      one\n\n      two\n  trainer: {max_steps: 5,\n    precision: 16}\n  # end\n\n# what\n"
        "objective: {metric: a, mode: min}\n"
    )


def test_the_projects_cli_stays_when_its_config_is_put_into_the_spec() -> None:
    new = inline_config("task: {config: a.yaml, cli: 'train:main'}\nversion: 1\n", "# of the model\nx: 1\n")
    assert parse(new).data == {"task": {"cli": "train:main", "x": 1}, "version": 1}
    assert "# of the model" in new


def test_a_config_key_in_block_style_and_windows_line_breaks_are_inlined() -> None:
    spec = "task:  # c\r\n  config: a.yaml  # gone\r\nversion: 1\r\n"
    assert inline_config(spec, "x: 1\ny:\n- 2") == "task:  # c\r\n  x: 1\r\n  y:\r\n  - 2\r\nversion: 1\r\n"


def test_a_config_that_cannot_be_indented_is_written_anew() -> None:
    new = inline_config("task: {config: a.yaml}\nversion: 1\n", "--- {x: [1,\n2]}\n...\n")
    assert new == "task: {x: [1, 2]}\nversion: 1\n"


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_any_config_reads_the_same_when_inlined(rng: Random) -> None:
    config, data, comments = documents.random_document(rng)
    new = inline_config("version: 1\ntask: {config: a.yaml}\nname: x\n", config)
    assert documents.is_data(new, {"version": 1, "task": data, "name": "x"})
    assert "|+" in config or ">+" in config or all(text in new for text, _ in comments)


@pytest.mark.parametrize("task", ["{config: a.yaml, model: {}}", "{model: {}}", "a.yaml"])
def test_a_task_that_names_no_file_is_refused(task: str) -> None:
    with pytest.raises(RewriteError, match=r"s.yaml: /task: there is no `task: {config: FILE}` to replace"):
        inline_config(f"task: {task}\n", "x: 1\n", file="s.yaml")


def test_a_fault_in_the_config_names_the_config() -> None:
    with pytest.raises(SpecError, match=r"^a\.yaml:2:1: /x: the key 'x' is already"):
        inline_config("task: {config: a.yaml}\n", "x: 1\nx: 2\n")


OLD = {
    "version": 1,
    "task": {"lr": 0.003, "n": 1, "l": [1, 2]},
    "objective": {"metric": "a"},
    "search_space": {"lr": {"low": 1}},
}


def changed(**sections: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(OLD)), **sections}


def test_an_editable_change_passes_the_guard() -> None:
    new = changed(task={"lr": 0.011, "n": 1, "l": [1, 3]})
    assert guard(OLD, new, editable={"/task/lr", "/task/l"}) == ()
    assert guard(OLD, new, editable=lambda pointer: pointer in ("/task/lr", "/task/l/1")) == ()
    assert guard(OLD, OLD, editable=()) == ()


def test_every_other_change_is_named_by_the_guard() -> None:
    new = changed(task={"lr": 0.011, "n": 1.0, "l": [1]}, objective={"metric": "b"}, extra=None)
    assert guard(OLD, new, editable={"/task/lr"}) == (
        "/task/n: 1 -> 1.0: this key is not editable",
        "/task/l: [1, 2] -> [1]: this key is not editable",
        "/objective/metric: a -> b: no proposal may change the section `objective`",
        "/extra: nothing -> null: this key is not editable",
    )


@pytest.mark.parametrize("section", sorted(NEVER))
def test_a_protected_section_is_never_editable(section: str) -> None:
    for new in (changed(**{section: {"added": True}}), {key: value for key, value in OLD.items() if key != section}):
        problems = guard(OLD, new, editable=lambda pointer: True)
        assert all("no proposal may change the section" in problem for problem in problems)
        assert bool(problems) == (section in OLD or section in new) == (protected_digest(OLD) != protected_digest(new))


def test_an_added_or_removed_map_counts_as_all_that_it_holds() -> None:
    new = changed(task={**OLD["task"], "opt": {"lr": 1, "class_path": "os.system", "x": {}}})
    assert guard(OLD, new, editable={"/task/opt/lr", "/task/opt/x"}) == (
        "/task/opt/class_path: nothing -> os.system: this key is not editable",
    )
    assert guard(new, OLD, editable={"/task/opt/lr", "/task/opt/class_path"}) == (
        "/task/opt/x: {} -> nothing: this key is not editable",
    )


def test_a_pointer_is_not_editable_by_the_first_letters_of_its_key() -> None:
    assert guard({"task": {"lr2": 1}}, {"task": {"lr2": 2}}, editable={"/task/lr"})


def test_the_protected_digest_tells_types_apart_and_ignores_order_and_the_rest() -> None:
    digest = protected_digest({"budget": {"trials": 1, "hours": None}, "task": {"lr": 1}})
    assert digest == protected_digest({"task": {"lr": 2}, "budget": {"hours": None, "trials": 1}})
    assert digest != protected_digest({"budget": {"trials": 1.0, "hours": None}})
    assert digest != protected_digest({"budget": {"trials": True, "hours": None}})


def test_the_text_digest_is_the_sha_256_of_its_bytes() -> None:
    assert text_digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_changes_are_told_in_words() -> None:
    def space(**domains: Any) -> dict[str, Any]:
        return {key: {"type": "float", "low": 0.0001, "high": 0.1} | domain for key, domain in domains.items()}

    task = {"model": {"lr": 0.003, "depth": 2, "drop": 0.1}}
    choices = {"type": "categorical", "choices": ["a", "b"]}
    old = {
        "task": task,
        "search_space": {**space(a={}, b={}, c={}, d={}, e={}), "f": choices},
        "decision": {"alpha": 0.1},
    }
    new = {
        "task": {"model": {"lr": 1e-05, "depth": 2.0, "act": {"name": "on"}}},
        "search_space": {**space(a={"high": 0.4}, b={"low": 0.01}, c={"low": 0.01, "high": 1}, d={"scale": "log"}), "f": {**choices, "choices": ["a", "b", 1]}, "g": {"type": "int", "low": 1, "high": 6}},
        "decision": {"alpha": 0.2},
    }  # fmt: skip
    assert changes_in_words(old, new) == (
        "model.lr: 0.003 -> 1.0e-05",
        "model.depth: 2 -> 2.0",
        "model.drop: removed, was 0.1",
        'model.act: added, {name: "on"}',
        "decision.alpha: 0.1 -> 0.2",
        "search space: a widened from 0.0001..0.1 to 0.0001..0.4",
        "search space: b narrowed from 0.0001..0.1 to 0.01..0.1",
        "search space: c moved from 0.0001..0.1 to 0.01..1",
        "search space: d changed from {type: float, low: 0.0001, high: 0.1} to "
        "{type: float, low: 0.0001, high: 0.1, scale: log}",
        "search space: e removed",
        "search space: f widened from [a, b] to [a, b, 1]",
        "search space: g added, {type: int, low: 1, high: 6}",
    )
    assert changes_in_words(new, new) == ()


END = "# end of the revision's header\n"


def test_a_header_stands_below_the_modeline_and_above_the_users_comments() -> None:
    text = with_header(SPEC, ["revision 1 of study x", "", "gain: 0.1"])
    first, rest = SPEC.split("\n", 1)
    assert text == f"{first}\n# revision 1 of study x\n#\n# gain: 0.1\n{END}{rest}"


def test_headers_do_not_pile_up() -> None:
    once = with_header("# mine\nx: 1\n", ["revision 1", "a", "b"])
    assert with_header(once, ["revision 2"]) == f"# revision 2\n{END}# mine\nx: 1\n"
    assert with_header(once, []) == "# mine\nx: 1\n"


@pytest.mark.parametrize(
    "text", ["# revision 3 was mine\n# too\nx: 1\n", "# revision 3\nx: 1\n" + END, "# revisions\nx: 1"]
)
def test_a_users_comment_about_a_revision_is_no_header(text: str) -> None:
    assert with_header(text, ["revision 4"]) == f"# revision 4\n{END}{text}"


def test_a_header_cannot_leave_its_comment() -> None:
    lines = ["revision 1", "a\nbudget: 1\r\nb\u2028c: 1\x00", END[2:-1]]
    text = with_header("x: 1\n", lines)
    assert text == f"# revision 1\n# a\n# budget: 1\n# b\n# c: 1\n{END}x: 1\n"
    assert parse(text).data == {"x": 1} == yaml.safe_load(text)
    assert with_header(text, []) == "x: 1\n"


def test_a_header_keeps_windows_line_breaks_and_the_byte_order_mark() -> None:
    text = with_header("\ufeffx: 1\r\n", ["revision 1"])
    assert text == "\ufeff# revision 1\r\n" + END.replace("\n", "\r\n") + "x: 1\r\n"
    assert with_header(text, []) == "\ufeffx: 1\r\n"


def test_a_header_that_could_not_be_found_again_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with 'revision N', not 'parent: x'"):
        with_header("x: 1\n", ["parent: x"])


def test_a_diff_shows_lines_and_a_missing_final_line_break() -> None:
    diff = unified_diff("x: 1\x0c\ny: 2\n", "x: 1\x0c\ny: 3", old_name="a", new_name="b")
    assert diff == "--- a\n+++ b\n@@ -1,2 +1,2 @@\n x: 1\x0c\n-y: 2\n+y: 3\n\\ No newline at end of file\n"
    assert unified_diff("x", "x", old_name="a", new_name="b") == ""
