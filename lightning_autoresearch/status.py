"""What `lightning-autoresearch status DIR --json` prints: a contract for other programs.

Its schema is `schemas/status.schema.json`.  Numbers that are infinite or not a number become null.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from lightning_autoresearch.scoring import Bin, Difference, Forecast, against_chance, halves, score, trend
from lightning_autoresearch.summary import GateRow, HypothesisRow, StudySummary, forecasts
from lightning_autoresearch.wording import count_trials


def status_json(summary: StudySummary) -> dict[str, Any]:
    """The status of a study as plain JSON data."""
    status = {
        "name": summary.name,
        "phase": summary.phase,
        "done": summary.done,
        "reason": summary.reason,
        "rounds": summary.round,
        "trials": asdict(count_trials(summary)),
        "hypotheses": [_hypothesis(row) for row in summary.hypotheses],
        "gates": [_gate(row) for row in summary.gates],
        "revision": max((row.number for row in summary.revisions), default=0),
        "incumbent": dict(summary.incumbent),
        "confirmed_gain": asdict(summary.confirmed_gain) if summary.confirmed_gain else None,
        "cost": asdict(summary.cost),
        "predictions": _predictions(forecasts(summary)),
    }
    return {key: finite(value) for key, value in status.items()}


def finite(data: Any) -> Any:
    """JSON data with null for every number that JSON cannot hold."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return data


def _hypothesis(row: HypothesisRow) -> dict[str, Any]:
    hypothesis = row.hypothesis
    return {
        "id": hypothesis.id,
        "statement": hypothesis.statement,
        "source": hypothesis.source,
        "overrides": dict(hypothesis.overrides),
        "prediction": asdict(hypothesis.prediction),
        "gain": row.gain,
        "verdict": row.verdict.value if row.verdict else None,
        "kind": hypothesis.kind,
        "cites": list(hypothesis.cites),
    }


def _predictions(scored: tuple[Forecast, ...]) -> dict[str, Any]:
    """The scores of every source by its name."""
    sources = dict.fromkeys(one.source for one in scored)
    return {source: _scores([one for one in scored if one.source == source]) for source in sources}


def _scores(scored: list[Forecast]) -> dict[str, Any]:
    found = score(scored)
    assert found is not None, "a source has at least one forecast"
    return {
        "count": found.count,
        "keeps": found.keeps,
        "brier": found.brier,
        "brier_chance": found.brier_chance,
        "skill": found.skill,
        "hits": found.hits,
        "coverage": found.coverage.value if found.coverage else None,
        "intervals": found.intervals,
        "against_chance": _difference(against_chance(scored)),
        "trend": _trend(scored),
        "bins": [_bin(one) for one in found.bins],
    }


def _trend(scored: list[Forecast]) -> dict[str, Any]:
    first, second = (score(half) for half in halves(scored))
    briers = {"first": first.brier if first else None, "second": second.brier if second else None}
    return {**briers, **_difference(trend(scored))}


def _difference(found: Difference) -> dict[str, Any]:
    return {"answer": found.answer, "difference": found.value, "low": found.low, "high": found.high}


def _bin(one: Bin) -> dict[str, Any]:
    return {
        "from": one.low,
        "to": one.high,
        "count": one.count,
        "probability": one.probability,
        "kept": one.kept.value,
        "kept_low": one.kept.low,
        "kept_high": one.kept.high,
    }


def _gate(row: GateRow) -> dict[str, Any]:
    return {
        "scale": row.scale,
        "pairs": len(row.gains),
        "e_value": row.e_value,
        "threshold": row.threshold,
        "verdict": row.verdict.value if row.verdict else None,
    }
