from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest
import yaml

from lightning_autoresearch.classes import read_class
from lightning_autoresearch.contract import MAX_FAULTS, Contract, read_reply, reply_schema
from lightning_autoresearch.document import join_pointer, parse
from lightning_autoresearch.hypothesis import SpaceEdit
from lightning_autoresearch.jsontext import MAX_BYTES
from lightning_autoresearch.knobs import Knob, knobs_of
from lightning_autoresearch.rewrite import Op, rewrite
from lightning_autoresearch.space import Categorical, Float, Integer, SearchSpace, canonical
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


def faults(*hypotheses: Any, **changes: Any) -> str:
    return "\n".join(read(*hypotheses, **changes).faults)


# -- what comes out --------------------------------------------------------------------------------------------------


def test_a_sound_reply_becomes_hypotheses_with_oriented_predictions() -> None:
    reading = read(hypothesis(cites=["notes/lr.md:12"], kind="schedule"))
    (found,) = reading.hypotheses
    assert (reading.faults, reading.space_edits, reading.analysis) == ((), (), "So far nothing.")
    assert (found.overrides, found.kind, found.source, found.cites) == (
        {LR: 0.003},
        "schedule",
        "model-x",
        ("notes/lr.md:12",),
    )
    prediction = found.prediction
    assert (prediction.gain, prediction.low, prediction.high, prediction.probability) == (0.1, -0.05, 0.2, 0.6)


def test_where_more_is_better_a_rise_is_a_gain() -> None:
    reading = read_reply(reply(), replace(contract(), mode="max"))
    prediction = reading.hypotheses[0].prediction
    assert (prediction.gain, prediction.low, prediction.high) == (-0.1, -0.2, 0.05)


def test_values_take_the_type_of_their_knob() -> None:
    ops = [op(A + "depth", 2.0, 3.0), op(A + "label_smoothing", 0, 0.1), op(A + "mlp_ratio", 4, 5)]
    (found,) = read(hypothesis(*ops)).hypotheses
    assert [repr(value) for value in found.overrides.values()] == ["3", "0.1", "5.0"]


def test_more_hypotheses_than_were_asked_for_are_cut_without_a_fault() -> None:
    many = [hypothesis(op(value=value)) for value in (0.002, 0.003, 0.004)]
    reading = read(*many, {"nonsense": 1}, wanted=2)
    assert [one.overrides[LR] for one in reading.hypotheses] == [0.002, 0.003]
    assert reading.faults == ()


def test_a_faulty_hypothesis_leaves_the_others_alone() -> None:
    reading = read(hypothesis(), hypothesis(op(value=9)), {"a": 1}, hypothesis(op(value=0.002)))
    assert [one.overrides[LR] for one in reading.hypotheses] == [0.003, 0.002]
    assert {fault.split(".")[0].split(":")[0] for fault in reading.faults} == {"hypotheses[1]", "hypotheses[2]"}


def test_a_hypothesis_is_taken_whole_or_not_at_all_and_all_its_faults_are_named() -> None:
    reading = read(
        hypothesis(
            op(),
            op(S + "lr", LR_DOMAIN, {**LR_DOMAIN, "high": 0.1}, op="widen"),
            op(A + "no"),
            op(A + "depth", 9, 3),
            op(A + "beta1", 0.9, True),
        )
    )
    assert (reading.hypotheses, reading.space_edits) == ((), ())
    assert [fault.split(":")[0] for fault in reading.faults] == [
        "hypotheses[0].ops[2].path",
        "hypotheses[0].ops[3].old_json",
        "hypotheses[0].ops[4].value_json",
    ]


def test_texts_are_cut_and_lose_what_cannot_be_seen() -> None:
    text = reply(hypothesis(statement="a\x1b[31m\u202eb\u200b\n c" + "x" * 9000), analysis="1\n2\x00" + "y" * 9000)
    reading = read_reply(text, contract())
    statement = reading.hypotheses[0].statement
    assert statement.startswith("a[31mb c")
    assert (len(statement), statement[-3:]) == (400, "...")
    assert reading.analysis.startswith("1 2y")
    assert len(reading.analysis) == 6000


# -- the search space ------------------------------------------------------------------------------------------------


def test_a_key_outside_of_the_space_joins_it_with_the_smallest_domain() -> None:
    reading = read(
        hypothesis(op(A + "width", 64, 96)),
        hypothesis(op(A + "width", 64, 32)),
        hypothesis(op(A + "bias", False, True)),
    )
    assert reading.faults == ()
    assert [(edit.op, edit.key, edit.domain) for edit in reading.space_edits] == [
        ("add", "model.init_args.width", Integer(low=32, high=96)),
        ("add", "model.init_args.bias", Categorical(choices=(False, True))),
    ]
    assert all(edit.source == "model-x" and edit.why for edit in reading.space_edits)


def test_the_smallest_domain_holds_branch_incumbent_and_revision_0() -> None:
    here = {**gpt().base, "model.init_args.width": 96}
    there = {**gpt().base, "model.init_args.width": 48}
    reading = read(hypothesis(op(A + "width", 96, 128)), branch=here, incumbent=there)
    assert reading.space_edits[0].domain == Integer(low=48, high=128)


@pytest.mark.parametrize(
    ("said", "edit"),
    [
        (
            op(LR_SPACE, LR_DOMAIN, {**LR_DOMAIN, "high": 0.1}, op="widen"),
            ("widen", Float(low=1e-4, high=0.1, scale="log")),
        ),
        (
            op(LR_SPACE, LR_DOMAIN, {**LR_DOMAIN, "high": 0.1}, op="set"),
            ("widen", Float(low=1e-4, high=0.1, scale="log")),
        ),
        (
            op(LR_SPACE, LR_DOMAIN, {**LR_DOMAIN, "high": 0.01}, op="set"),
            ("narrow", Float(low=1e-4, high=0.01, scale="log")),
        ),
        (op(LR_SPACE, LR_DOMAIN, None, op="remove"), ("freeze", None)),
        (op(LR_SPACE, LR_DOMAIN, op="remove", value_json=""), ("freeze", None)),
        (
            op(S + "norm_eps", None, {"type": "float", "low": 1e-6, "high": 1e-4, "scale": "log"}, op="add"),
            ("add", Float(low=1e-6, high=1e-4, scale="log")),
        ),
        (
            op(S + "bias", op="add", old_json="", value_json='{"type": "categorical", "choices": [true, false]}'),
            ("add", Categorical(choices=(True, False))),
        ),
    ],
)
def test_each_op_on_the_space_becomes_an_edit(said: dict[str, Any], edit: Any) -> None:
    reading = read(hypothesis(said, kind="space"))
    assert reading.faults == ()
    assert [(one.op, one.domain) for one in reading.space_edits] == [edit]
    assert (reading.hypotheses, [one.kind for one in reading.space_only]) == ((), ["space"])


def test_a_value_may_use_the_domain_that_its_own_hypothesis_widens() -> None:
    here = {**gpt().base, LR: 0.03}
    wider = op(LR_SPACE, LR_DOMAIN, {**LR_DOMAIN, "high": 0.1}, op="widen")
    setting = op(LR_PATH, 0.03, 0.06)
    assert "0.06 is outside the search space, 0.0001 to 0.03, log; write a value inside, or widen" in faults(
        hypothesis(setting), branch=here, incumbent=here
    )
    reading = read(hypothesis(setting, wider), branch=here, incumbent=here)
    assert reading.faults == ()
    assert reading.hypotheses[0].overrides == {LR: 0.06}


NARROW = op(LR_SPACE, LR_DOMAIN, {**LR_DOMAIN, "high": 0.002}, op="set")
REMOVE = op(LR_SPACE, LR_DOMAIN, None, op="remove")


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (
            hypothesis(),
            hypothesis(NARROW, kind="space"),
            r"hypotheses\[0\] sets model.init_args.lr to 0.003; /search_space/model.init_args.lr must hold",
        ),
        (hypothesis(), hypothesis(REMOVE, kind="space"), "must hold that"),
        (
            hypothesis(REMOVE, kind="space"),
            hypothesis(),
            r"hypotheses\[0\] takes model.init_args.lr out of the search space",
        ),
        (
            hypothesis(NARROW, kind="space"),
            hypothesis(
                op(LR_SPACE, {**LR_DOMAIN, "high": 0.002}, {**LR_DOMAIN, "high": 0.004}, op="widen"), kind="space"
            ),
            "edits /search_space/model.init_args.lr already",
        ),
        (hypothesis(), hypothesis(statement="again"), r"the same configuration as hypotheses\[0\]"),
        (
            hypothesis(op(A + "width", 64, 128)),
            hypothesis(op(S + "width", None, {"type": "int", "low": 32, "high": 96}, op="add"), kind="space"),
            "sets model.init_args.width to 128",
        ),
    ],
)
def test_hypotheses_of_one_reply_must_go_together(first: Any, second: Any, why: str) -> None:
    reading = read(first, second)
    assert len(reading.hypotheses) + len(reading.space_only) == 1
    with pytest.raises(AssertionError, match=rf"^hypotheses\[1\].*{why}"):
        raise AssertionError(*reading.faults)


def test_edits_of_one_reply_are_at_most_one_per_key() -> None:
    reading = read(
        hypothesis(op(S + "width", None, {"type": "int", "low": 32, "high": 256}, op="add"), kind="space"),
        hypothesis(op(A + "width", 64, 128), op(A + "heads", 4, 8)),
    )
    assert reading.faults == ()
    assert [edit.key for edit in reading.space_edits] == ["model.init_args.width", "model.init_args.heads"]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (
            op(LR_SPACE, None, LR_DOMAIN, op="add"),
            r"ops\[0\].op: 'add' does not fit: model.init_args.lr is in the search space already; write 'set'",
        ),
        (
            op(S + "width", None, None, op="remove"),
            r"ops\[0\].op: 'remove' does not fit: .* is not in the search space; write 'add'",
        ),
        (
            op(LR_SPACE, {**LR_DOMAIN, "high": 0.1}, LR_DOMAIN, op="set"),
            r'old_json: the search space has {"type": "float", "low": 0.0001, "high": 0.03, "scale": "log"}',
        ),
        (op(S + "width", 64, {"type": "int", "low": 1, "high": 99}, op="add"), "old_json: the search space has null"),
        (op(LR_SPACE, LR_DOMAIN, 3, op="remove"), "remove takes no value; write null"),
        (op(LR_SPACE, LR_DOMAIN, LR_DOMAIN, op="set"), "is the present domain"),
        (op(LR_SPACE, LR_DOMAIN, 0.03, op="widen"), "0.03 is no domain with a type float, int or categorical"),
        (op(LR_SPACE, LR_DOMAIN, None, op="widen"), "a domain is missing"),
        (op(LR_SPACE, LR_DOMAIN, {**LR_DOMAIN, "low": 1e-5, "high": 0.02}, op="set"), "does not lie within"),
        (op(LR_SPACE, LR_DOMAIN, {**LR_DOMAIN, "high": 0.5}, op="widen"), "high may not move from 0.03 to 0.5 at once"),
        (op(LR_SPACE, LR_DOMAIN, {**LR_DOMAIN, "high": 0.0005}, op="set"), "the present value 0.001 is outside"),
        (
            op(
                S + "activation",
                {"type": "categorical", "choices": ["gelu", "relu_squared", "silu"]},
                {"type": "categorical", "choices": ["gelu", "relu_squared", "silu", "tanh"]},
                op="widen",
            ),
            "the choice 'tanh' is not one of",
        ),
    ],
)
def test_a_faulty_edit_of_the_space_is_named(said: Any, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(faults(hypothesis(said, kind="space")))


# -- faults of meaning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (predicted(metric="loss"), r"hypotheses\[0\].prediction.metric: 'loss' is not the objective; write 'val_bpb'"),
        (predicted(probability=1.2), "prediction.probability: 1.2 is not between 0 and 1"),
        (predicted(delta=0.2), "delta 0.2 is not between delta_low -0.2 and delta_high 0.05"),
        (hypothesis(statement=" \u200b"), "statement: it is empty"),
        (hypothesis(mechanism=""), "mechanism: it is empty"),
        (
            hypothesis(cites=["notes/lr.md:12", "elsewhere"]),
            r"cites\[1\]: 'elsewhere' is not a quoted passage; write one of: notes/lr.md:12, or leave",
        ),
        (hypothesis(kind="space"), "kind: 'space' does not fit: it sets values of the task"),
        (hypothesis(NARROW, kind="value"), "kind: 'value' does not fit: it sets no value of the task; write 'space'"),
        (hypothesis(ops=[]), "ops: 0 ops; write 1 to 20"),
        (hypothesis(op(), op(value=0.002)), r"ops\[1\].path: ops\[0\] has the same path"),
        (hypothesis(op(old=0.01)), "old_json: the branch has 0.001, not 0.01; start from that"),
        (hypothesis(op(value=0.001)), "value_json: 0.001 is the present value"),
        (hypothesis(op(value=0.02)), r"0.02 is 20 times off 0.001, the policy allows 4; write 0.00025 to 0.004"),
        (hypothesis(op(A + "warmup_steps", 20, 90)), "90 is 4.5 times off 20, the policy allows 4; write 5 to 80"),
        (
            hypothesis(op(A + "warmup_steps", 20, 70)),
            "70 is outside the search space, 1 to 60, log; write a value inside",
        ),
        (hypothesis(op(A + "decay", "cosine", "step")), '\'step\' is not one of .*; write "cosine" or "linear"'),
        (hypothesis(op(op="widen")), "'widen' does not fit a value of the task; write 'set'"),
        (hypothesis(op(value_json="gelu")), "value_json: 'gelu' is no JSON .*; write JSON, text in quotes"),
        (hypothesis(op(old_json="{")), "old_json: '{' is no JSON"),
        (
            hypothesis(op("/task/model/init_args/learning")),
            "is not editable; editable pointers near it: /task/model/init_args/",
        ),
        (hypothesis(op(), op(LR_SPACE, LR_DOMAIN, None, op="remove")), "another op takes model.init_args.lr out"),
        (
            hypothesis(op(), op(A + "beta1", 0.9, 0.95), op(A + "beta2", 0.999, 0.99), op(A + "dropout", 0.1, 0.2)),
            "ops: it sets 4 keys, the policy allows 3",
        ),
    ],
)
def test_a_fault_of_meaning_is_named_with_what_is_allowed(said: Any, fault: str) -> None:
    reading = read(said)
    assert reading.hypotheses == ()
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(*reading.faults)


def test_a_stale_value_is_judged_by_the_branch_now() -> None:
    here = {**gpt().base, LR: 0.003}
    assert "the branch has 0.003, not 0.001" in faults(branch=here)
    assert read(hypothesis(op(old=0.003, value=0.006)), branch=here).faults == ()


def test_what_was_tried_is_refused_before_it_is_paid_for() -> None:
    tried = frozenset({canonical(gpt().base), canonical({**gpt().base, LR: 0.003})})
    assert "this very configuration was tried before; change a value" in faults(tried=tried)


@pytest.mark.parametrize("quotes", [(), ("a.md:1",)])
def test_only_quoted_passages_can_be_cited(quotes: Any) -> None:
    assert "cites[0]" in faults(hypothesis(cites=["notes/lr.md:12"]), quotes=quotes)


# -- faults of form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({}, "the key 'analysis' is missing; add it\nthe key 'hypotheses' is missing; add it"),
        ({"analysis": "", "hypotheses": []}, "hypotheses: there is none; state at least one"),
        ({"analysis": "", "hypotheses": {}}, "hypotheses: a map is not a list; write a list"),
        ({"analysis": 1, "hypotheses": [hypothesis()]}, "analysis: 1 is not text; write text"),
        (
            {"analysis": "", "hypotheses": [hypothesis()], "budget": {"trials": 9}},
            "unknown key 'budget'; allowed here: analysis, hypotheses",
        ),
        ({"analysis": "", "hypothesis": [], "hypotheses": [hypothesis()]}, "unknown key 'hypothesis'; allowed here"),
        ({"analysis": "", "hypotheses": [3]}, "hypotheses[0]: 3 is not a map; write a map"),
        (
            {"analysis": "", "hypotheses": [hypothesis(kind="magic")]},
            "hypotheses[0].kind: 'magic' is not allowed; write one of value, schedule",
        ),
        (
            {"analysis": "", "hypotheses": [hypothesis(op(op="replace"))]},
            "hypotheses[0].ops[0].op: 'replace' is not allowed; write one of set, add, remove, widen",
        ),
        (
            {"analysis": "", "hypotheses": [predicted(delta="much")]},
            "hypotheses[0].prediction.delta: 'much' is not a number; write a number",
        ),
        (
            {"analysis": "", "hypotheses": [predicted(probability=True)]},
            "hypotheses[0].prediction.probability: true is not a number",
        ),
    ],
)
def test_a_fault_of_form_is_named_with_its_place(data: Any, fault: str) -> None:
    assert fault in "\n".join(read_reply(json.dumps(data), contract()).faults)


def test_a_misspelt_key_is_guessed() -> None:
    said = hypothesis()
    said["mecanism"] = said.pop("mechanism")
    assert "hypotheses[0]: unknown key 'mecanism'; did you mean 'mechanism'?" in faults(said)


def test_an_unknown_key_beside_them_does_not_cost_the_hypotheses() -> None:
    reading = read_reply(reply(extra=1), contract())
    assert len(reading.hypotheses) == 1
    assert reading.faults == ("unknown key 'extra'; allowed here: analysis, hypotheses",)


def test_very_many_faults_are_cut() -> None:
    reading = read(*[{} for _ in range(20)], wanted=20)
    assert len(reading.faults) == MAX_FAULTS + 1
    assert reading.faults[-1] == "and more of this kind in the same reply"


# -- finding the object ----------------------------------------------------------------------------------------------

GOOD = reply()


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n\n {GOOD} \n",
        f"```json\n{GOOD}\n```",
        f"Here is {{what}} I propose:\n\n```\n{GOOD}\n```\nI hope that {{it}} helps.",
        f"<think>Perhaps {reply(hypothesis(op(value=0.002)))}? No.</think>{GOOD}",
        f"a draft without an opening mark {reply(hypothesis(op(value=0.002)))}</think>\n{GOOD}",
        f"One brace {{ too many. {GOOD}",
        f'{{"lr": 0.003}} in short, or at length: {GOOD}',
        f"{GOOD}\n{GOOD}",
        reply(hypothesis(statement="</think> and <think> in a text, with a } and a \\ and a { too")),
    ],
)
def test_the_object_is_found(text: str) -> None:
    reading = read_reply(text, contract())
    assert reading.faults == ()
    assert [one.overrides for one in reading.hypotheses] == [{LR: 0.003}]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "there is no JSON object in the reply; write one"),
        ("I cannot help with that.", "there is no JSON object"),
        ("[1, 2]", "there is no JSON object"),
        (f"<think>{GOOD}", "there is no JSON object"),
        (GOOD[:-5], "the reply's object is not closed; write the whole object"),
        (GOOD.replace(":", "=", 1), "the reply's object is no JSON (Expecting ':' delimiter, line 1"),
        (f"{GOOD} or {reply(hypothesis(op(value=0.002)))}", "there are 2 JSON objects in the reply; write exactly one"),
        (GOOD.replace('"kind"', '"kind": "space", "kind"'), "has the key 'kind' twice"),
        (GOOD.replace("0.6", "NaN"), "holds NaN, which is no number"),
        (GOOD.replace("0.6", "-Infinity"), "holds -Infinity, which is no number"),
        (GOOD.replace("0.6", "1e999"), "holds 1e999, which is too large"),
        (GOOD.replace("0.6", "1" + "0" * 400), "holds the whole number 10000000000000000000, which is too large"),
        (GOOD.replace("So far", "\\ud800"), "holds half of a surrogate pair"),
        (GOOD.replace("[]", "[" * 100 + "]" * 100), "is nested deeper than 40 levels"),
        ('{"a":' * 100_000, "the reply has 500000 bytes, of at most 256000"),
        ('{"a":' * 50_000, "is not closed"),
        ("{" * 200_000, "is not closed"),
        (reply(analysis="x" * MAX_BYTES), "write a shorter one"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_sentence(text: str, fault: str) -> None:
    started = time.process_time()
    reading = read_reply(text, contract())
    assert time.process_time() - started < 10.0  # measured: 0.3 s for the worst of them
    assert fault in "\n".join(reading.faults)
    assert (len(reading.faults), reading.hypotheses, reading.space_edits) == (1, (), ())


# -- the schema ------------------------------------------------------------------------------------------------------


def maps(node: Any) -> list[dict[str, Any]]:
    below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return ([node] if isinstance(node, dict) else []) + [found for item in below for found in maps(item)]


def depth(node: Any) -> int:
    below = list(node.get("properties", {}).values()) + ([node["items"]] if "items" in node else [])
    return 1 + max(map(depth, below), default=0)


def test_the_schema_keeps_to_what_constrained_decoding_understands() -> None:
    schema = reply_schema(contract())
    objects = [one for one in maps(schema) if one.get("type") == "object"]
    assert len(objects) == 4
    for one in objects:
        assert one["required"] == list(one["properties"])
        assert one["additionalProperties"] is False
    known = {"type", "properties", "items", "required", "additionalProperties", "enum", "description"}
    named = {name for one in objects for name in one["properties"]}
    assert {key for one in maps(schema) for key in one} <= known | named
    assert depth(schema) <= 10
    assert list(schema["properties"]) == ["analysis", "hypotheses"]
    item = schema["properties"]["hypotheses"]["items"]["properties"]
    assert list(item) == ["statement", "mechanism", "kind", "prediction", "cites", "ops"]


def path_schema(now: Contract) -> dict[str, Any]:
    hypotheses = reply_schema(now)["properties"]["hypotheses"]["items"]["properties"]
    found: dict[str, Any] = hypotheses["ops"]["items"]["properties"]["path"]
    return found


def test_paths_are_an_enum_of_two_pointers_per_knob_that_a_study_never_changes() -> None:
    paths = path_schema(contract())["enum"]
    assert len(paths) == 2 * len(gpt_knobs())
    assert paths[:2] == [LR_PATH, "/task/model/init_args/min_lr_ratio"]
    assert S + "bias" in paths
    later = contract(space=SearchSpace(domains={LR: gpt().search_space[LR]}), round=9)
    assert reply_schema(later) == reply_schema(contract())


def test_too_many_pointers_become_plain_text_and_are_checked_all_the_same() -> None:
    knobs = {f"model.k{number}": Knob(key=f"model.k{number}", value=1, kind="int") for number in range(120)}
    many = Contract.of(gpt(), briefed(), knobs={**knobs, **gpt_knobs()}, source="m")
    path = path_schema(many)
    assert path["type"] == "string"
    assert "enum" not in path
    assert "is not editable" in read_reply(reply(hypothesis(op("/task/model/k121", 1, 2))), many).faults[0]


def test_the_schema_takes_a_good_reply_and_not_a_bad_path() -> None:
    schema = reply_schema(contract())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(reply()))
    assert not jsonschema.Draft202012Validator(schema).is_valid(json.loads(reply(hypothesis(op("/decision/alpha")))))


# -- what was read can be written into the spec ----------------------------------------------------------------------


def test_legal_ops_of_many_replies_in_a_row_keep_the_comments_of_a_spec() -> None:
    """What was read is applied to the text, and the text is read back.  A thousand ops: test_rewrite.py."""
    rng, text = Random(5), gpt().text
    told = briefed()
    comments = [line[line.index("#") :] for line in text.splitlines() if "#" in line]
    done = 0
    while done < 40:
        now = Contract.of(gpt(), told, knobs=gpt_knobs(), source="m")
        reading = read_reply(reply(hypothesis(*random_ops(rng, now))), now)
        if not reading.hypotheses:
            continue
        ops, domains = [], dict(told.space.domains)
        for edit in reading.space_edits:
            ops.append(space_op(edit, parse(text).data["search_space"]))
            domains[edit.key] = edit.domain
        data = parse(text).data["task"]["model"]["init_args"]
        for key, value in reading.hypotheses[0].overrides.items():
            name = key.split(".")[-1]
            kind: Any = "set" if name in data else "add"
            ops.append(Op(op=kind, pointer=join_pointer("task", *key.split(".")), old=data.get(name), value=value))
        text = rewrite(text, ops)
        branch = {**told.branch, **reading.hypotheses[0].overrides}
        told = replace(told, branch=branch, incumbent=branch, space=SearchSpace(domains=domains))
        done += len(ops)
        written = parse(text).data
        assert {key: written["task"]["model"]["init_args"][key.split(".")[-1]] for key in branch} == branch
        assert written["search_space"].keys() == domains.keys()
    assert [comment for comment in comments if comment not in text] == []


def random_ops(rng: Random, now: Contract) -> list[dict[str, Any]]:
    """One to three ops that set a knob, most of them legal; sometimes its domain is widened with it."""
    ops = []
    for key in rng.sample(list(now.knobs), rng.randint(1, 3)):
        knob, here = now.knobs[key], now.here(key)
        if knob.kind == "choice":
            value: Any = rng.choice(knob.options)
        elif knob.kind == "int":
            value = max(1, round(here * rng.uniform(0.5, 2)))
        else:
            value = float(f"{(here or 0.01) * rng.uniform(0.5, 2):.3g}")
        ops.append(op(join_pointer("task", *key.split(".")), here, value))
        domain = now.space.domains.get(key)
        if isinstance(domain, (Float, Integer)) and not domain.contains(value):
            data = {"type": "float" if isinstance(domain, Float) else "int", "scale": domain.scale}
            old = {**data, "low": domain.low, "high": domain.high}
            wider = {**data, "low": min(domain.low, value), "high": max(domain.high, value)}
            ops.append(op(join_pointer("search_space", key), old, wider, op="widen"))
    return ops


def space_op(edit: SpaceEdit, written: dict[str, Any]) -> Op:
    from lightning_autoresearch.codec import to_json

    pointer, old = join_pointer("search_space", edit.key), written.get(edit.key)
    return Op(op="add" if old is None else "set", pointer=pointer, old=old, value=to_json(edit.domain))


# -- limits ----------------------------------------------------------------------------------------------------------


def space_without(*names: str) -> SearchSpace:
    domains = gpt().search_space.domains
    return SearchSpace(domains={key: one for key, one in domains.items() if key.split(".")[-1] not in names})


def choices(*values: Any) -> dict[str, Any]:
    return {"type": "categorical", "choices": list(values)}


@pytest.mark.parametrize("asked", [(2, 4, 8), (2, 4.0, 8)])
def test_choices_take_the_type_of_their_knob(asked: tuple[Any, ...]) -> None:
    added = op(S + "mlp_ratio", None, choices(*asked), op="add")
    reading = read(hypothesis(added, op(A + "mlp_ratio", 4.0, 8)), space=space_without("mlp_ratio"))
    assert reading.faults == ()
    assert [edit.domain for edit in reading.space_edits] == [Categorical(choices=(2.0, 4.0, 8.0))]
    assert [type(one) for one in reading.space_edits[0].domain.choices] == [float] * 3  # type: ignore[union-attr]
    assert repr(reading.hypotheses[0].overrides["model.init_args.mlp_ratio"]) == "8.0"


def test_equal_choices_of_two_types_are_one() -> None:
    said = hypothesis(op(S + "depth", None, choices(2, 2.0), op="add"), kind="space")
    assert "two or more distinct choices" in faults(said, space=space_without("depth"))


def test_very_many_choices_are_refused_at_once_and_in_few_words() -> None:
    said = hypothesis(op(S + "lr", None, choices(0.001, *range(2, 16_000)), op="add"), kind="space")
    started = time.process_time()
    fault = faults(said, space=space_without("lr"))
    assert time.process_time() - started < 1.0
    assert "15999 choices are more than 50" in fault
    assert len(fault) < 300
    widened = hypothesis(
        op(S + "lr", choices(0.001, 0.002), choices(0.001, 0.002, *range(60)), op="widen"), kind="space"
    )
    two = SearchSpace(domains={**space_without("lr").domains, LR: Categorical(choices=(0.001, 0.002))})
    assert "62 choices are more than 50" in faults(widened, space=two)


def test_a_domain_that_would_crash_the_sampler_is_refused() -> None:
    for low, high, scale in (
        (0, 5e-324, "linear"),
        (-1.7e308, 1.7e308, "linear"),
        (0.001, 0.0010000000000000002, "log"),
    ):
        said = op(S + "lr", None, {"type": "float", "low": low, "high": high, "scale": scale}, op="add")
        assert "cannot be added" in faults(hypothesis(said, kind="space"), space=space_without("lr"))


def test_taking_a_key_out_and_adding_it_again_does_not_get_round_the_factor() -> None:
    def added(high: float) -> str:
        domain = {"type": "float", "low": 1e-5, "high": high, "scale": "log"}
        return faults(hypothesis(op(S + "lr", None, domain, op="add"), kind="space"), space=space_without("lr"))

    assert added(0.4) == ""
    assert "1e+20 is further than a factor of 16 from 0.03" in added(1e20)


@pytest.mark.parametrize("name", ["delta", "delta_low", "delta_high"])
def test_a_prediction_beyond_all_measure_is_refused(name: str) -> None:
    sign = -1 if name == "delta_low" else 1
    ends = {"delta_high": 1e300} if name == "delta" else {}
    assert "beyond all measure; write numbers from -1e+12 to 1e+12" in faults(predicted(**{**ends, name: sign * 1e13}))
    assert faults(predicted(**{**({"delta_high": 1e12} if name == "delta" else {}), name: sign * 1e12})) == ""


def test_unknown_keys_are_named_in_their_order() -> None:
    names = ["zeta", "reason", "note", "confidence", "title", "idea", "alpha", "beta"]
    found = faults({**hypothesis(), **dict.fromkeys(names, 1)}).splitlines()
    assert [line.split("'")[1] for line in found] == names


def test_an_argument_that_the_branchs_class_does_not_take_is_not_tested(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "class Base: ...\n"
        "class A(Base):\n    def __init__(self, width: int = 8, lr: float = 0.1): ...\n"
        "class B(Base):\n    def __init__(self, lr: float = 0.1): ...\n"
    )
    data = {
        "version": 1, "name": "x", "objective": {"metric": "val_bpb", "mode": "min"},
        "task": {"model": {"class_path": "nets.A", "init_args": {"width": 16, "lr": 0.1}}},
        "search_space": {"model.init_args.width": {"type": "int", "low": 4, "high": 64}},
        "scales": [{"name": "s", "set": {"trainer.max_steps": 3}}], "policy": {"allowed_classes": ["nets.B"]},
    }  # fmt: skip
    spec = parse_spec(yaml.safe_dump(data), path=tmp_path / "spec.yaml")
    classes = {"nets.B": read_class("nets.B", search_path=[str(tmp_path)])}
    branch = {**spec.base, "model.class_path": "nets.B"}

    def said(*ops: Any, **changes: Any) -> tuple[str, ...]:
        told = briefed(spec, base=spec.base, incumbent=spec.base, **{"branch": branch, **changes})
        terms = Contract.of(spec, told, knobs=knobs_of(spec, search_path=[str(tmp_path)]), source="m", classes=classes)
        return read_reply(reply(hypothesis(*ops)), terms).faults

    wider, switch = op(A + "width", 16, 32), op("/task/model/class_path", "nets.A", "nets.B")
    assert said(wider) == (
        "hypotheses[0].ops: model.init_args.width has no effect, since the class that would be used does not take it; "
        "drop the op, or switch the class in the same hypothesis",
    )
    assert said(op(A + "lr", 0.1, 0.2)) == ()
    assert said(wider, branch=spec.base) == ()
    assert "width has no effect" in said(wider, switch, branch=spec.base)[0]
    assert said(wider, op("/task/model/class_path", "nets.B", "nets.A")) == ()
