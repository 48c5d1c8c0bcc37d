"""Replies of a language model to a briefing of specs/gpt.yaml, and what is read from them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from lightning_autoresearch.contract import Contract, Reading, read_reply
from lightning_autoresearch.hypothesis import Briefing
from lightning_autoresearch.knobs import knobs_of
from lightning_autoresearch.space import canonical
from lightning_autoresearch.spec import Spec, load_spec

ROOT = Path(__file__).parent.parent

LR = "model.init_args.lr"
LR_PATH = "/task/model/init_args/lr"
LR_SPACE = "/search_space/model.init_args.lr"
LR_DOMAIN = {"type": "float", "low": 0.0001, "high": 0.03, "scale": "log"}


@cache
def gpt() -> Spec:
    return load_spec(ROOT / "specs" / "gpt.yaml")


@cache
def gpt_knobs() -> Any:
    return knobs_of(gpt(), search_path=[str(ROOT)])


def briefed(spec: Spec | None = None, **changes: Any) -> Briefing:
    spec = spec or gpt()
    told: dict[str, Any] = {
        "goal": spec.goal,
        "metric": spec.objective.metric,
        "mode": spec.objective.mode,
        "round": 1,
        "wanted": 4,
        "space": spec.search_space,
        "base": spec.base,
        "incumbent": spec.base,
        "branch": spec.base,
        "measurements": (),
        "findings": (),
        "gain_sd": 0.02,
        "max_changes": 3,
        "max_factor": 4.0,
        "trials_left": 100,
        "seed": 7,
        "tried": frozenset({canonical(spec.base)}),
    }
    return Briefing(**{**told, **changes})


def contract(**changes: Any) -> Contract:
    quotes = changes.pop("quotes", ("notes/lr.md:12",))
    return Contract.of(gpt(), briefed(**changes), knobs=gpt_knobs(), quotes=quotes, source="model-x")


def op(path: str = LR_PATH, old: Any = 0.001, value: Any = 0.003, *, op: str = "set", **changes: Any) -> dict[str, Any]:
    said = {"op": op, "path": path, "old_json": json.dumps(old), "value_json": json.dumps(value), "why": "to see"}
    return {**said, **changes}


def hypothesis(*ops: dict[str, Any], **changes: Any) -> dict[str, Any]:
    prediction = {"metric": "val_bpb", "delta": -0.1, "delta_low": -0.2, "delta_high": 0.05, "probability": 0.6}
    said = {
        "statement": "Raise lr from 0.001 to 0.003.",
        "mechanism": "Too few steps for so small a rate.",
        "kind": "value",
        "prediction": prediction,
        "cites": [],
        "ops": list(ops or [op()]),
    }
    return {**said, **changes}


def predicted(**changes: Any) -> dict[str, Any]:
    prediction: dict[str, Any] = hypothesis()["prediction"]
    return hypothesis(prediction={**prediction, **changes})


def reply(*hypotheses: dict[str, Any], **changes: Any) -> str:
    return json.dumps({"analysis": "So far nothing.", "hypotheses": list(hypotheses or [hypothesis()]), **changes})


def read(*hypotheses: dict[str, Any], **changes: Any) -> Reading:
    return read_reply(reply(*hypotheses), contract(**changes))
