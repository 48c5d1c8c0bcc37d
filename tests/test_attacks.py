"""Replies that try to reach what judges them, each way a test: nothing of the spec but knobs may ever change."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_autoresearch import codec, policy
from lightning_autoresearch.contract import Contract, Reading, read_reply
from lightning_autoresearch.document import join_pointer
from lightning_autoresearch.knobs import guard_task, knobs_of
from lightning_autoresearch.rewrite import NEVER, guard, protected_digest
from lightning_autoresearch.space import apply_overrides
from lightning_autoresearch.spec import parse_spec
from tests.replies import (
    LR,
    LR_DOMAIN,
    LR_PATH,
    LR_SPACE,
    briefed,
    contract,
    gpt,
    gpt_knobs,
    hypothesis,
    op,
    predicted,
    read,
    reply,
)

A = "/task/model/init_args/"
S = "/search_space/model.init_args."


def nothing_changes(reading: Reading, *, why: str = "") -> bool:
    """Whether a reply came to nothing, with a fault that says why."""
    assert reading.faults
    assert why in "\n".join(reading.faults), reading.faults
    return not (reading.hypotheses or reading.space_edits or reading.space_only)


# -- by op -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replace", "copy", "move", "test", "SET", "set ", "ѕet", "", "__class__", "freeze"])
def test_an_op_that_is_not_in_the_list_does_nothing(name: str) -> None:
    assert nothing_changes(read(hypothesis(op(op=name))), why="is not allowed; write one of set, add, remove, widen")


@pytest.mark.parametrize("name", ["add", "remove", "widen"])
def test_an_op_that_does_not_fit_its_place_does_nothing(name: str) -> None:
    assert nothing_changes(read(hypothesis(op(op=name))), why="does not fit a value of the task")


def test_a_key_cannot_be_taken_out_of_the_task_by_setting_null() -> None:
    assert nothing_changes(read(hypothesis(op(value=None))), why="null is not a number")


# -- by path ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", sorted(NEVER))
def test_no_section_that_judges_can_be_named(section: str) -> None:
    protected = [f"/{section}", f"/{section}/", f"/{section}/x", f"/task/../{section}", f"/search_space/../{section}/x"]
    for path in protected:
        for name in ("set", "add", "remove", "widen"):
            assert nothing_changes(read(hypothesis(op(path, op=name))), why="is not editable")


@pytest.mark.parametrize(
    "path",
    [
        "/decision/alpha", "/decision/rule", "/objective/mode", "/guards/0/hidden", "/guards/-",
        "/scales/0/set/trainer.max_steps",
        "/budget/trials", "/scientist/base_url", "/policy/max_factor", "/policy/editable/-", "/execution/executor",
        "/tracking/wandb", "/version", "/name", "/goal",
    ],
)  # fmt: skip
def test_no_value_that_judges_can_be_named(path: str) -> None:
    assert nothing_changes(read(hypothesis(op(path))), why="is not editable")


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "#", "/task", "/task/", "/task/model", "/task/model/init_args", "/task/model/class_path",
        "/search_space",
        "/task/model/init_args/lr/", "//task/model/init_args/lr", "/task//model/init_args/lr",
        "task/model/init_args/lr",
        "/task/model/init_args/./lr", "/task/data/../model/init_args/lr",
        "/task/model/init_args/lr/../../../../decision/alpha",
        "/task/model~1init_args~1lr", "/task/model/init_args~1lr", "/task/model/init_args/l%72", "%2Ftask%2Fmodel",
        "~0task",
        "/task/model.init_args.lr", "model.init_args.lr", "task.model.init_args.lr", "/task/model/init_args/lr#",
        "#" + LR_PATH,
        "/search_space/model/init_args/lr", "/search_space/model.init_args.lr/high", "/search_space/model.init_args",
        "/search_space/-", "/search_space/", "/search_space/*", "/task/model/init_args/*", "/task/model/init_args/-",
        "/task/model/init_args/0", "/task/0", "/0", "$.task.model.init_args.lr", "/task/model/init_args/lr\n",
        "/task/model/init_args/lr\x00", " " + LR_PATH, LR_PATH + " ",
    ],
)  # fmt: skip
def test_only_the_exact_pointer_is_understood(path: str) -> None:
    assert nothing_changes(read(hypothesis(op(path))), why="is not editable")


@pytest.mark.parametrize(
    "path",
    [
        "/task/trainer/max_steps", "/search_space/trainer.max_steps", "/task/trainer/limit_val_batches",
        "/task/data/init_args/batch_size", "/search_space/data.init_args.eval_bytes", "/task/seed_everything",
        "/task/model/init_args/seed", "/task/ckpt_path", "/task/trainer/callbacks/0", "/task/trainer/logger/-",
        "/task/optimizer/class_path", "/task/model/_target_", "/task/model/init_args/__class__",
    ],
)  # fmt: skip
def test_what_decides_how_long_and_on_what_is_trained_cannot_be_named(path: str) -> None:
    for name in ("set", "add"):
        assert nothing_changes(read(hypothesis(op(path, None, 9, op=name))), why="is not editable")


@pytest.mark.parametrize(
    "path",
    [
        LR_PATH.upper(), "/Task/model/init_args/lr", "/task/model/init_args/LR",
        "/task/mоdel/init_args/lr", "/task/model/init_args/Ir", "/tаsk/model/init_args/lr",
        "/task/model/init_args/ｌｒ", "/task/model/init_args/l\u0072\u0301", "/task/model/init_args/lr\u200b",
        "\ufeff" + LR_PATH, "/task/model/init_args/l\u00adr", "/task\u2044model/init_args/lr",
        "∕task∕model∕init_args∕lr",
        "/task/model/init\uff3fargs/lr", "/task/model/init_args/\u202elr",
    ],
)  # fmt: skip
def test_letters_that_only_look_alike_are_other_letters(path: str) -> None:
    assert nothing_changes(read(hypothesis(op(path))), why="is not editable")


def test_a_path_can_only_be_text() -> None:
    for path in (["task"], {"a": 1}, None, 3, True):
        assert nothing_changes(read(hypothesis(op(path=path))), why="is not text")  # type: ignore[arg-type]


# -- by type and value -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        True, False, "3", "0.003", "", None, [], [0.003], {}, {"lr": 0.003}, {"$ref": "#"}, [[[[0.003]]]],
        "0.003 # and more", "!!python/object/apply:os.system [id]", "&a 0.003", "${oc.env:HOME}", "0x10", "1e-3",
        {"class_path": "os.system", "init_args": {"command": "id"}}, {"_target_": "os.system"},
    ],
)  # fmt: skip
def test_a_number_can_only_be_a_number(value: Any) -> None:
    assert nothing_changes(read(hypothesis(op(value=value))), why="value_json")
    assert nothing_changes(read(hypothesis(op(A + "depth", 2, value))), why="value_json")


@pytest.mark.parametrize(
    "text",
    [
        "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" + "0" * 400, "9" * 18, ".inf", "nan", "0x10", "1_000",
        "03", "+3",
        "3,", "3 4", "{}{}", "[" * 1000 + "]" * 1000, '{"a":' * 60 + "1" + "}" * 60, "'3'", "three", "0.003\x00",
        "\ufeff3",
        "!!float 3", "- 3", "a: 3", "---\n3\n...", "*a", "<<: 3", "0.003 #",
    ],
)  # fmt: skip
def test_text_that_is_no_strict_json_is_no_value(text: str) -> None:
    assert nothing_changes(read(hypothesis(op(value_json=text))), why="value_json")


@pytest.mark.parametrize("value", [1e308, 1e-308, 5e-324, -1e308, -0.003, 0, 2**53, -(2**53), 1e16])
def test_a_number_beyond_the_policy_or_the_domain_is_refused(value: float) -> None:
    assert nothing_changes(read(hypothesis(op(value=value))), why="value_json")


@pytest.mark.parametrize("value", [2**53, 10**15, 1e18, -1, 1.5, 2.0000001])
def test_a_whole_number_stays_whole_and_in_reach(value: float) -> None:
    assert nothing_changes(read(hypothesis(op(A + "width", 64, value))), why="value_json")


@pytest.mark.parametrize(
    "value",
    [
        "tanh", "GELU", "gelu ", "ｇelu", "silu\u200b", "os.system", "torch.nn.GELU", "recipes.gpt.GPT",
        "__import__('os')",
        "${oc.env:HOME}", "../../etc/passwd", "gelu\nlr: 9", "gelu # x", "{class_path: x}", 0, 1, True, None, ["silu"],
    ],
)  # fmt: skip
def test_a_choice_can_only_be_one_of_its_options(value: Any) -> None:
    assert nothing_changes(read(hypothesis(op(A + "activation", "gelu", value))), why="value_json")


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_a_flag_can_only_be_true_or_false(value: Any) -> None:
    assert nothing_changes(read(hypothesis(op(A + "tie_weights", True, value))), why="value_json")


@pytest.mark.parametrize("old", [0.002, 0.0010001, True, "0.001", None, {}, [0.001], 1])
def test_an_op_on_a_value_that_is_not_there_any_more_does_nothing(old: Any) -> None:
    assert nothing_changes(read(hypothesis(op(old=old))), why="the branch has 0.001")


# -- by the search space ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "domain",
    [
        {**LR_DOMAIN, "high": 1.0}, {**LR_DOMAIN, "high": 1e300}, {**LR_DOMAIN, "low": 0.0}, {**LR_DOMAIN, "low": -1.0},
        {**LR_DOMAIN, "scale": "linear"}, {**LR_DOMAIN, "type": "int"}, {**LR_DOMAIN, "step": 1},
        {**LR_DOMAIN, "high": True},
        {**LR_DOMAIN, "high": "0.1"}, {**LR_DOMAIN, "low": 0.03, "high": 0.0001},
        {"type": "categorical", "choices": [0.001, "os.system"]},
        {"type": "categorical", "choices": [[0.001]]}, {"type": "categorical", "choices": []}, [LR_DOMAIN], "float", 1,
        {**LR_DOMAIN, "class_path": "os.system"}, {**LR_DOMAIN, "__proto__": {}},
    ],
)  # fmt: skip
def test_a_domain_cannot_grow_beyond_reach_or_change_its_nature(domain: Any) -> None:
    for name in ("widen", "set"):
        assert nothing_changes(read(hypothesis(op(LR_SPACE, LR_DOMAIN, domain, op=name), kind="space")))


def test_a_domain_cannot_be_widened_twice_to_go_further() -> None:
    once = {**LR_DOMAIN, "high": 0.1}
    far = read(
        hypothesis(op(LR_SPACE, LR_DOMAIN, once, op="widen"), kind="space"),
        hypothesis(op(LR_SPACE, once, {**once, "high": 0.3}, op="widen"), kind="space"),
    )
    assert [edit.domain for edit in far.space_edits] == [policy.domain_or_fault(once)]


@pytest.mark.parametrize("choice", ["tanh", "os.system", "${oc.env:HOME}", None, 1, True])
def test_no_choice_joins_a_list_that_the_user_did_not_write(choice: Any) -> None:
    old = {"type": "categorical", "choices": ["gelu", "relu_squared", "silu"]}
    new = {"type": "categorical", "choices": [*old["choices"], choice]}
    assert nothing_changes(read(hypothesis(op(S + "activation", old, new, op="widen"), kind="space")))


def test_the_space_cannot_be_emptied() -> None:
    one = replace(gpt().search_space, domains={LR: gpt().search_space[LR]})
    removed = read(hypothesis(op(LR_SPACE, LR_DOMAIN, None, op="remove"), kind="space"), space=one)
    assert nothing_changes(removed, why="it is the last key")


# -- by code ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def switchable(tmp_path: Path) -> Contract:
    """A study in which the user allows one other class."""
    (tmp_path / "nets.py").write_text(
        "class Base: ...\nclass One(Base):\n    def __init__(self, lr=0.1, note='x'): ...\nclass Two(Base): ...\n"
    )
    data = {
        "version": 1,
        "name": "x",
        "task": {"model": {"class_path": "nets.One", "init_args": {"lr": 0.1, "note": "x"}}},
        "objective": {"metric": "val_bpb", "mode": "min"},
        "search_space": {LR: {"type": "float", "low": 0.01, "high": 1.0}},
        "scales": [{"name": "s", "set": {"trainer.max_steps": 3}}],
        "policy": {"allowed_classes": ["nets.Two"]},
    }
    spec = parse_spec(yaml.safe_dump(data), path=tmp_path / "spec.yaml")
    return Contract.of(spec, briefed(spec), knobs=knobs_of(spec, search_path=[str(tmp_path)]), source="m")


CLASS = "/task/model/class_path"


def test_a_class_is_switched_to_what_the_user_allows(switchable: Contract) -> None:
    reading = read_reply(reply(hypothesis(op(CLASS, "nets.One", "nets.Two"), kind="class")), switchable)
    assert reading.faults == ()
    assert reading.hypotheses[0].overrides == {"model.class_path": "nets.Two"}


@pytest.mark.parametrize(
    "name",
    ["os.system", "nets.Base", "nets.Two ", "nets.two", "nets.Twо", "nets.Two\n", "builtins.eval", "${x}", "", None, 1,
     ["nets.Two"], {"class_path": "nets.Two"}, "subprocess.Popen", "nets.Two;import os"],
)  # fmt: skip
def test_no_other_class_can_be_named(switchable: Contract, name: Any) -> None:
    said = hypothesis(op(CLASS, "nets.One", name), kind="class")
    assert nothing_changes(read_reply(reply(said), switchable), why="value_json")


@pytest.mark.parametrize(
    "path", ["/task/model/_target_", "/task/data/class_path", A + "note", S + "note", A + "class_path"]
)
def test_text_of_the_task_cannot_be_named(switchable: Contract, path: str) -> None:
    assert nothing_changes(read_reply(reply(hypothesis(op(path, "x", "os.system"))), switchable), why="is not editable")


def test_without_an_allowance_no_class_can_be_named() -> None:
    said = hypothesis(op(CLASS, "recipes.gpt.GPT", "os.system"))
    assert nothing_changes(read(said), why="is not editable")


# -- by form and size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    ["budget", "task", "decision", "spec", "__proto__", "constructor", "__class__", "$schema", "ops", "tool_calls", ""],
)
def test_keys_beside_the_known_ones_are_faults_and_have_no_effect(extra: str) -> None:
    beside = read_reply(reply(**{extra: {"trials": 10**6}}), contract())
    assert [one.overrides for one in beside.hypotheses] == [{LR: 0.003}]
    assert beside.space_edits == ()
    assert "unknown key" in beside.faults[0]
    if extra != "ops":
        assert nothing_changes(read(hypothesis(**{extra: 1})), why="unknown key")
    assert nothing_changes(read(hypothesis(op(**{extra: 1}))), why="unknown key")
    assert nothing_changes(read(predicted(**{extra: 1})), why="unknown key")


def test_a_key_that_stands_twice_is_no_way_around_a_check() -> None:
    twice = reply().replace(f'"path": "{LR_PATH}"', f'"path": "{LR_PATH}", "path": "/decision/alpha"')
    assert nothing_changes(read_reply(twice, contract()), why="has the key 'path' twice")


def test_a_value_cannot_be_json_within_json_within_json() -> None:
    assert nothing_changes(read(hypothesis(op(value_json=json.dumps(json.dumps(0.003))))), why="is not a number")


@pytest.mark.parametrize("name", ["alpha", "budget", "guards"])
def test_a_second_object_in_the_reply_does_not_count(name: str) -> None:
    text = f'{{"{name}": 1}}\n{reply()}\n{{"{name}": {{"trials": 9}}}}'
    reading = read_reply(text, contract())
    assert ([one.overrides for one in reading.hypotheses], reading.space_edits) == ([{LR: 0.003}], ())


@pytest.mark.parametrize(
    "text",
    [
        reply(hypothesis(op(value_json="9" * 250_000))),
        reply(hypothesis(op("/" + "a/" * 100_000))),
        reply(hypothesis(cites=["x"] * 30_000)),
        reply(hypothesis(*[op() for _ in range(1500)])),
        reply(hypothesis(statement="\ud83d" * 20_000)),
        reply(*[{"a": 1} for _ in range(10_000)]),
        reply().replace("[]", "[" * 50_000 + "]" * 50_000),
        "{" * 250_000,
        '{"' * 100_000,
        '"{' * 100_000,
        "[" * 250_000 + '{"hypotheses": [',
        "<think>" * 30_000,
        "\\" * 250_000,
        '{"hypotheses": "' + "\\u0000" * 40_000 + '"}',
        "\ud800" * 1000,
        "\x00" * 1000,
    ],
)
def test_a_huge_or_deep_reply_costs_little_and_does_nothing(text: str) -> None:
    started = time.process_time()
    reading = read_reply(text, contract(wanted=10**6))
    assert time.process_time() - started < 20.0  # measured: 2 s for the worst of them
    assert nothing_changes(reading)
    assert sum(map(len, reading.faults)) < 30_000


def test_a_flood_of_hypotheses_is_cut_to_what_was_asked_for() -> None:
    flood = [hypothesis(op(value=round(0.001 + number / 1e6, 7))) for number in range(1, 300)]
    reading = read(*flood, wanted=4)
    assert (len(reading.hypotheses), reading.faults) == (4, ())


@pytest.mark.parametrize("value", [-0.1, 1.1, 1e300, "0.5", None, True, [0.5]])
def test_a_probability_is_a_number_between_0_and_1(value: Any) -> None:
    assert nothing_changes(read(predicted(probability=value)), why="probability")


def test_texts_cannot_carry_terminal_escapes_or_hidden_characters() -> None:
    evil = "\x1b]0;x\x07\u202e\u2066a\u200b\x00\r\nbudget: {trials: 9}\x85\u2028# end"
    said = hypothesis(op(A + "width", 64, 96, why=evil), statement=evil, mechanism=evil)
    reading = read_reply(reply(said, analysis=evil), contract())
    texts = [reading.analysis, reading.space_edits[0].why.removeprefix("it is set by: ")]
    texts += [getattr(reading.hypotheses[0], name) for name in ("statement", "mechanism")]
    assert set(texts) == {"]0;xa budget: {trials: 9} # end"}


# -- everything else -------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 300), st.integers(), st.floats(), st.floats(0, 1), st.text(max_size=8),
    st.sampled_from(["gelu", "silu", "learned", "os.system", "${x}", "1e-3", 0.002, 0.004, 3, 96]),
)  # fmt: skip
KEYS = ["analysis", "hypotheses", "ops", "op", "path", "value_json", "kind", "x"]


def nested(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(KEYS), below, max_size=4)


VALUES = st.recursive(SCALARS, nested, max_leaves=4)
GARBAGE = ["/decision/alpha", "/task", "", "/task/trainer/max_steps", "/search_space/trainer.max_steps", LR_PATH + "/"]


@st.composite
def random_ops(draw: st.DrawFn) -> dict[str, Any]:
    """An op that is legal more often than not, and otherwise wrong in one way or another."""
    now, wrong = contract(), st.integers(0, 15).map(lambda number: number == 9)
    key = draw(st.sampled_from(list(now.knobs)))
    knob, here = now.knobs[key], now.here(key)
    if draw(st.integers(0, 3)):
        near = st.floats(0.4, 2.5).map(lambda by: float(f"{by * (here or 0.04):.3g}"))
        value = draw(VALUES if draw(wrong) else st.sampled_from(knob.options) if knob.kind == "choice" else near)
        value = round(value) if knob.kind == "int" and isinstance(value, float) and math.isfinite(value) else value
        path, name = join_pointer("task", *key.split(".")), "set"
    else:
        path, name = join_pointer("search_space", key), draw(st.sampled_from(["widen", "set"]))
        here, value = draw(random_domains(key, wrong=wrong))
        name = "add" if here is None else draw(st.sampled_from(["widen", "set", "remove"]))
        value = None if name == "remove" else value
    return {
        "op": draw(st.sampled_from(["set", "add", "widen", "remove"])) if draw(wrong) else name,
        "path": draw(st.sampled_from(GARBAGE)) if draw(wrong) else path,
        "old_json": json.dumps(draw(VALUES) if draw(wrong) else here),
        "value_json": json.dumps(value),
        "why": draw(st.text(max_size=5)),
    }


@st.composite
def random_domains(draw: st.DrawFn, key: str, *, wrong: st.SearchStrategy[bool]) -> tuple[Any, Any]:
    """The domain of a key as it is, and another one."""
    now = contract()
    knob, old = now.knobs[key], now.space.domains.get(key)
    data = None if old is None else codec.to_json(old)
    if draw(wrong):
        return data, draw(VALUES)
    if knob.kind == "choice":
        return data, {"type": "categorical", "choices": draw(st.permutations(knob.options))}
    low, high = (data["low"], data["high"]) if data else (knob.value, knob.value)
    low, high = low * draw(st.floats(0.2, 1.0)), high * draw(st.floats(1.0, 5.0)) + draw(st.sampled_from([0, 1]))
    if knob.kind == "int":
        low, high = int(low), int(high)
    return data, {"type": knob.kind, "scale": "log" if low > 0 else "linear", **(data or {}), "low": low, "high": high}


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=st.lists(st.lists(random_ops(), min_size=1, max_size=2), min_size=1, max_size=3))
def test_whatever_a_reply_says_only_knobs_change_and_the_protected_digest_stays(batch: Any) -> None:
    now = contract()
    in_task = [any(one["path"].startswith("/task") for one in ops) for ops in batch]
    said = [hypothesis(*ops, kind="value" if task else "space") for ops, task in zip(batch, in_task, strict=True)]
    assert_harmless(read_reply(reply(*said), now), now)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.recursive(SCALARS, nested, max_leaves=20), before=st.text(max_size=20), after=st.text(max_size=20))
def test_no_text_at_all_makes_the_reader_fail(data: Any, before: str, after: str) -> None:
    now = contract()
    text = before + json.dumps({"analysis": "", "hypotheses": data}) + after
    assert_harmless(read_reply(text, now), now)
    assert_harmless(read_reply(before, now), now)


def assert_harmless(reading: Reading, now: Contract) -> None:
    """That all which was read lies within the knobs, the study's own policy lets it in, and nothing else changes."""
    keys = now.knobs.keys()
    space, accepted, refused = policy.space_after(
        now.space, reading.space_edits, must_contain=[now.branch], knobs=now.knobs, max_factor=now.max_factor
    )
    assert (accepted, refused) == (reading.space_edits, ())
    assert len({edit.key for edit in accepted}) == len(accepted)
    branch = {**now.branch, **{edit.key: now.knobs[edit.key].value for edit in accepted if edit.op == "add"}}
    domains = {edit.key: codec.to_json(edit.domain) for edit in accepted if edit.domain is not None}
    for one in (*reading.hypotheses, *reading.space_only):
        assert one.overrides.keys() <= keys
        assert not [key for key, value in one.overrides.items() if now.knobs[key].fault(value)]
        assert math.isfinite(one.prediction.gain)
        new = {
            **now.data,
            "task": apply_overrides(now.data["task"], one.overrides),
            "search_space": {**now.data["search_space"], **domains},
        }
        assert guard(now.data, new, editable=set(now.pointers)) == ()
        assert protected_digest(new) == protected_digest(now.data)
        assert guard_task(gpt().task, apply_overrides(gpt().task, one.overrides), allowed_keys=gpt_knobs()) == ()
        if one.overrides:
            assert policy.refusal(one, space=space, branch=branch, policy=gpt().policy, tried=now.tried) is None
