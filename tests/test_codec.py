"""Records survive the way through JSON, and nothing that is not JSON gets out."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from lightning_autoresearch.codec import from_json, read_json, to_json, write_json
from lightning_autoresearch.decision import Decision, Verdict
from lightning_autoresearch.evidence import Evidence
from lightning_autoresearch.hypothesis import Hypothesis, Prediction, Proposal, SpaceEdit
from lightning_autoresearch.space import Categorical, Float, Integer, SearchSpace
from lightning_autoresearch.spec import Guard, Objective
from lightning_autoresearch.trial import Job, Purpose, Trial, TrialResult, TrialStatus

OVERRIDES = {"a.lr": 0.1, "a.depth": 3, "a.bias": True, "a.name": "gelu", "a.none": None}

TRIAL = Trial(id="00001", overrides=OVERRIDES, scale="nano", seed=7, purpose=Purpose.SCREEN, round=2, hypothesis="h1")
RESULT = TrialResult(
    trial_id="00001",
    status=TrialStatus.FINISHED,
    objective=0.5,
    metrics={"val_loss": 0.5, "other": None},
    curve=((10, 0.7), (20, None)),
    environment={"python": "3.11"},
    traceback=("a", "b"),
)
JOB = Job(
    trial_id="00001",
    task={"model": {"class_path": "tasks.Regression", "init_args": {"lr": 0.1, "sizes": [1, 2]}}},
    requested=OVERRIDES,
    objective=Objective(metric="val_loss", mode="min", read=3),
    guards=(Guard(metric="peak_memory_gb", max=8.0), Guard(metric="other", mode="max", hidden=True)),
    seed=11,
    search_path=("/somewhere",),
    timeout_seconds=60.0,
    memory_gb=None,
)
PROPOSAL = Proposal(
    hypotheses=(
        Hypothesis(
            id="h1",
            statement="Warm up longer.",
            mechanism="Early steps are too large.",
            source="sampler",
            overrides=OVERRIDES,
            prediction=Prediction(gain=0.01, probability=0.5),
        ),
    ),
    source="sampler",
    space_edits=(
        SpaceEdit(op="widen", key="a.lr", domain=Float(low=0.1, high=1.0, scale="log"), why="the optimum leans on it"),
        SpaceEdit(op="add", key="a.depth", domain=Integer(low=1, high=4), why="new"),
        SpaceEdit(op="add", key="a.name", domain=Categorical(choices=("gelu", 1, True, None)), why="new"),
        SpaceEdit(op="freeze", key="a.bias", domain=None, why="inert"),
    ),
)
SPACE = SearchSpace(domains={"a.lr": Float(low=0.1, high=1.0), "a.depth": Integer(low=1, high=4, scale="log")})
EVIDENCE = Evidence(gains=(0.1,), mean=0.1, sd=0.2, t=0.5, e_value=1.0, low=-math.inf, high=math.inf, level=0.95)
DECISION = Decision(stage="gate", verdict=Verdict.PROMOTE, sentence="It is better.", evidence=EVIDENCE, threshold=20.0)


@pytest.mark.parametrize(
    "record", [TRIAL, RESULT, JOB, PROPOSAL, SPACE, EVIDENCE, DECISION], ids=lambda record: type(record).__name__
)
def test_a_record_survives_the_way_through_json(record: object) -> None:
    text = json.dumps(to_json(record), allow_nan=False)
    assert from_json(json.loads(text), type(record)) == record


def test_every_value_has_a_plain_type() -> None:
    def check(node: object) -> None:
        assert type(node) in (dict, list, str, int, float, bool, type(None))
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            check(child)

    check(to_json(TRIAL))
    check(to_json(RESULT))
    check(to_json(DECISION))


def test_a_domain_carries_its_type() -> None:
    assert to_json(SPACE)["domains"]["a.depth"] == {"type": "int", "low": 1, "high": 4, "scale": "log"}


def test_a_domain_without_a_type_is_refused() -> None:
    with pytest.raises(ValueError, match="type is None; allowed are float, int, categorical"):
        from_json({"domains": {"a": {"low": 1, "high": 2}}}, SearchSpace)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_measured_number_that_is_not_finite_becomes_null(value: float) -> None:
    result = dataclasses.replace(RESULT, objective=value, metrics={"val_loss": value}, curve=((1, value),))
    data = to_json(result)
    assert (data["objective"], data["metrics"], data["curve"]) == (None, {"val_loss": None}, [[1, None]])


def test_an_unbounded_interval_is_null_and_comes_back_as_infinity() -> None:
    data = to_json(EVIDENCE)
    assert (data["low"], data["high"]) == (None, None)
    assert from_json(data, Evidence) == EVIDENCE


def test_a_number_that_must_be_finite_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"TrialResult: train_seconds is not finite and cannot be written as JSON"):
        to_json(dataclasses.replace(RESULT, train_seconds=math.nan))


def test_an_override_that_is_not_finite_is_a_clear_error_and_not_null() -> None:
    with pytest.raises(ValueError, match=r"Trial: overrides\.a\.lr is not finite"):
        to_json(dataclasses.replace(TRIAL, overrides={"a.lr": math.inf}))


def test_a_task_value_that_is_not_finite_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"Job: task\.x\.0 is not finite"):
        to_json(dataclasses.replace(JOB, task={"x": [math.nan]}))


def test_an_error_names_every_place() -> None:
    data = {**to_json(RESULT), "status": "asleep", "steps": 1.5}
    with pytest.raises(ValueError, match=r"'asleep' is not a valid .*status; 1\.5 is no whole number.*steps"):
        from_json(data, TrialResult)


def test_a_missing_field_is_named() -> None:
    data = to_json(RESULT)
    del data["trial_id"]
    with pytest.raises(ValueError, match=r"required field missing.*trial_id"):
        from_json(data, TrialResult)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.nan})
    assert read_json(path) == {"a": 1}


def test_a_torn_or_absent_file_reads_as_none(tmp_path: Path) -> None:
    torn = tmp_path / "torn.json"
    torn.write_text('{"a": 1')
    assert read_json(torn) is None
    assert read_json(tmp_path / "absent.json") is None


def test_json_nested_beyond_all_measure_is_no_json(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    assert read_json(tmp_path / "deep.json") is None
