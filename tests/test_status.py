from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lightning_autoresearch.status import finite, status_json
from lightning_autoresearch.summary import ConfirmedGain
from tests.summaries import BUILDERS, empty, failures, mid_round, promoted

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
        "confirmed_gain", "cost",
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
    assert set(status["hypotheses"][1]["prediction"]) == {"gain", "probability"}


def test_a_null_in_a_value_stays_a_null_and_a_whole_number_whole() -> None:
    incumbent = {"a.b": None, "c": 3, "d": True, "e": "x", "f": math.nan}
    status = status_json(replace(empty(), incumbent=incumbent))
    assert status["incumbent"] == {"a.b": None, "c": 3, "d": True, "e": "x", "f": None}
    assert finite((1.5, [math.inf], {"k": -math.inf})) == [1.5, [None], {"k": None}]


def _properties(node: dict[str, Any], path: str = "") -> list[tuple[str, dict[str, Any]]]:
    found = []
    for key, child in node.get("properties", {}).items():
        found += [(f"{path}/{key}", child), *_properties(child, f"{path}/{key}")]
    for child in [node.get("items"), *node.get("anyOf", [])]:
        found += _properties(child, path) if child else []
    return found
