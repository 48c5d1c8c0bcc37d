from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from lightning_autoresearch.hypothesis import Kind
from lightning_autoresearch.status import finite, status_json
from lightning_autoresearch.summary import ConfirmedGain, Phase
from tests.summaries import BUILDERS, empty, failures, mid_round, promoted, with_scientist

SCHEMA = json.loads((Path(__file__).parents[1] / "schemas" / "status.schema.json").read_text())


@pytest.mark.parametrize("name", BUILDERS)
def test_every_study_has_a_valid_status(name: str) -> None:
    status = status_json(BUILDERS[name]())
    jsonschema.validate(status, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert json.loads(json.dumps(status, allow_nan=False)) == status


def test_the_schema_is_one_itself_and_explains_every_property() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert [path for path, node in _properties(SCHEMA) if not node.get("description")] == []


def test_the_top_level_keys_are_these() -> None:
    expected = [
        "name", "phase", "done", "reason", "rounds", "trials", "hypotheses", "gates", "revision", "incumbent",
        "confirmed_gain", "cost", "predictions",
    ]  # fmt: skip
    assert list(status_json(empty())) == expected
    assert list(SCHEMA["properties"]) == expected


def test_a_status_with_another_key_is_not_valid() -> None:
    with pytest.raises(jsonschema.ValidationError, match="'seeds' was unexpected"):
        jsonschema.validate(status_json(empty()) | {"seeds": []}, SCHEMA)


def test_each_outcome_is_counted_once() -> None:
    assert status_json(failures())["trials"] == {"finished": 9, "failed": 7, "void": 1, "running": 0, "lost": 1}
    assert status_json(mid_round())["trials"]["running"] == 1


def test_an_infinite_number_becomes_null() -> None:
    status = status_json(promoted())
    assert [gate["e_value"] for gate in status["gates"]] == [412.0, None, 0.2]
    unbounded = ConfirmedGain(scale="nano", mean=0.1, low=-math.inf, high=math.inf, pairs=1)
    gain = status_json(empty(confirmed_gain=unbounded))["confirmed_gain"]
    assert gain == {"scale": "nano", "mean": 0.1, "low": None, "high": None, "pairs": 1}


def test_a_promotion_is_told_with_its_numbers() -> None:
    status = status_json(promoted())
    assert status["revision"] == 1
    assert status["incumbent"]["model.init_args.lr"] == 0.006
    assert status["confirmed_gain"] == {"scale": "target", "mean": 0.0745, "low": 0.049, "high": 0.1, "pairs": 3}
    assert [row["verdict"] for row in status["hypotheses"]] == ["DROP", "PROMOTE", "VOID", "PROMOTE", "FAIL", "VOID"]
    assert status["hypotheses"][1]["overrides"] == {"model.init_args.lr": 0.006}
    assert set(status["hypotheses"][1]["prediction"]) == {"gain", "probability", "low", "high"}


def test_the_predictions_of_each_source_are_scored_in_the_status() -> None:
    predictions = status_json(with_scientist())["predictions"]
    assert list(predictions) == ["gpt-5.5", "sampler"]
    model, sampler = predictions.values()
    assert (model["count"], model["keeps"], model["intervals"]) == (48, 23, 45)
    assert model["against_chance"]["answer"] == "better"
    assert model["against_chance"]["high"] < 0
    assert sampler["against_chance"]["answer"] == "no difference"
    assert sum(one["count"] for one in model["bins"]) == 48
    assert model["trend"]["first"] == pytest.approx(0.117, abs=5e-4)
    fool = status_json(with_scientist(skilled=False))["predictions"]["gpt-5.5"]
    assert fool["against_chance"]["answer"] == "worse"
    assert fool["skill"] < 0


def test_too_few_predictions_are_scored_but_nothing_is_concluded() -> None:
    predictions = status_json(promoted())["predictions"]
    assert {source: one["count"] for source, one in predictions.items()} == {"sampler": 3, "gpt-5.5": 1}
    for one in predictions.values():
        assert one["against_chance"]["answer"] == one["trend"]["answer"] == "unknown"
        assert one["against_chance"]["low"] is None
    assert status_json(empty())["predictions"] == {}
    assert status_json(failures())["predictions"] == {}, "void hypotheses are not scored"


def test_the_cost_of_the_language_model_is_told() -> None:
    cost = status_json(promoted())["cost"]
    assert (cost["llm_calls"], cost["llm_tokens"], cost["llm_usd"], cost["llm_usd_per_gain"]) == (6, 48_000, 0.35, 0.35)
    assert status_json(with_scientist())["cost"]["llm_usd_per_gain"] is None


def test_each_hypothesis_has_its_kind_and_what_it_cites() -> None:
    first, second = status_json(with_scientist())["hypotheses"][:2]
    assert (first["kind"], first["cites"]) == ("schedule", ["notes/lr.md:12"])
    assert (second["kind"], second["cites"]) == ("value", [])


def test_the_schema_knows_every_phase_and_every_kind() -> None:
    phases = SCHEMA["properties"]["phase"]["enum"]
    kinds = SCHEMA["properties"]["hypotheses"]["items"]["properties"]["kind"]["enum"]
    assert (tuple(phases), tuple(kinds)) == (get_args(Phase), get_args(Kind))


def test_a_null_in_a_value_stays_a_null_and_a_whole_number_whole() -> None:
    incumbent = {"a.b": None, "c": 3, "d": True, "e": "x", "f": math.nan}
    status = status_json(replace(empty(), incumbent=incumbent))
    assert status["incumbent"] == {"a.b": None, "c": 3, "d": True, "e": "x", "f": None}
    assert finite((1.5, [math.inf], {"k": -math.inf})) == [1.5, [None], {"k": None}]


def _properties(node: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = []
    for key, child in node.get("properties", {}).items():
        found += [(f"{path}/{key}", child), *_properties(child, f"{path}/{key}")]
    values = node.get("additionalProperties")
    for child in [node.get("items"), values if isinstance(values, dict) else None, *node.get("anyOf", [])]:
        found += _properties(child, path) if child else []
    return found
