"""Putting texts into a prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_autoresearch.spec import Guard, Spec, load_spec
from lightning_autoresearch.voice import CUT_CHARACTERS, MOST_CHARACTERS, Voice, cut_lines

ROOT = Path(__file__).parent.parent


@pytest.fixture
def spec() -> Spec:
    return load_spec(ROOT / "specs" / "quickstart.yaml")


def test_a_shown_metric_that_contains_a_hidden_ones_name_stays(spec):
    guards = (Guard(metric="acc", mode="max", hidden=True), Guard(metric="val_acc", mode="max"))
    voice = Voice(replace(spec, guards=guards))
    assert voice.clean("val_acc 0.9, acc 0.91, train/acc=0.7, accuracy, acc_epoch: 1", 200) == (
        "val_acc 0.9, [hidden], train/[hidden], accuracy, [hidden]"
    )


def test_a_metric_that_is_hidden_and_the_objective_stays(spec):
    voice = Voice(replace(spec, guards=(Guard(metric="val_bpb", max=9.0, hidden=True),)))
    assert voice.clean("val_bpb 4", 50) == "val_bpb 4"


def test_a_quoted_text_is_json_and_keeps_its_length(spec):
    voice = Voice(spec)
    for most in (2, 3, 20, 100, 5000):
        said = voice.quote('a "quoted" \\ text\nwith\ttabs ' * 100, most)
        assert len(said) <= most
        json.loads(said)
    assert json.loads(voice.quote("short", 100)) == "short"


def test_a_long_text_keeps_its_beginning_and_its_end(spec):
    text = "BEGIN " + "x" * 1000 + " END"
    assert json.loads(Voice(spec).quote(text, 100)).startswith("BEGIN ")
    assert json.loads(Voice(spec).quote(text, 100)).endswith(" END")


def test_a_secret_at_the_cut_of_a_far_too_long_text_leaves_no_half(spec):
    secret = "correct-horse-battery"
    voice = Voice(spec, secrets=(secret,))
    for shift in range(len(secret)):
        text = "x" * (MOST_CHARACTERS - shift) + secret + "y" * 100
        assert "correct" not in voice.clean(text, MOST_CHARACTERS)
        assert len(voice.clean(text, MOST_CHARACTERS)) == MOST_CHARACTERS - CUT_CHARACTERS


def test_data_are_cleaned_text_by_text(spec):
    voice = Voice(spec, secrets=("hunter2hunter2",))
    data = {"a": ["x\x00y hunter2hunter2", 1, None, True], "hunter2hunter2": {"b": "heldout_bpb"}}
    assert json.loads(voice.tree(data)) == {"a": ["xy [redacted]", 1, None, True], "[redacted]": {"b": "[hidden]"}}


def test_the_sentence_of_a_decision_is_told_unless_it_speaks_of_a_hidden_metric(spec):
    voice = Voice(spec)
    assert voice.verdict("Promoted: mean gain 0.1.", 100) == '"Promoted: mean gain 0.1."'
    assert voice.verdict("Refused: heldout_bpb got worse.", 100) == (
        '"Refused: a metric that is not shown here got worse."'
    )


def test_lines_that_do_not_fit_are_counted():
    text = "\n".join(f"line {number}" for number in range(10))
    assert cut_lines(text, room=1000, rest="more") == text
    assert cut_lines(text, room=40, rest="more") == "line 0\nline 1\nline 2\nand 7 more"


def test_a_value_whose_key_is_the_name_of_a_secret_is_not_shown(spec):
    args = {"db_password": "hunter2hunter2", "auth": {"user": ["somebody"], "port": 5432}, "tokenizer": "gpt2-medium"}
    args |= {"max_tokens": 512, "key_norm": "rms"}
    assert json.loads(Voice(spec).tree({"init_args": args}))["init_args"] == {
        "db_password": "[redacted]",
        "auth": {"user": ["[redacted]"], "port": 5432},
        "tokenizer": "gpt2-medium",
        "max_tokens": 512,
        "key_norm": "rms",
    }
