"""What `check --deep` says of a scale."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_autoresearch import deep_check
from lightning_autoresearch.spec import parse_spec
from lightning_autoresearch.trial import Job, TrialResult, TrialStatus
from tests.worlds import SPEC, World

KEY = "correct-horse-battery"
TEXT = SPEC + (
    "guards:\n  - {metric: heldout, max: 0.5, hidden: true}\n  - {metric: peak, max: 1}\n"
    "scientist: {model: m, base_url: 'http://127.0.0.1:9/v1', api_key_env: MYLLM}\n"
)


def lines(monkeypatch: pytest.MonkeyPatch, **fields: object) -> list[tuple[str, bool]]:
    class Ending(World):
        def result(self, job: Job) -> TrialResult:
            return replace(super().result(job), **fields)

    asked = []
    monkeypatch.setenv("MYLLM", KEY)
    monkeypatch.setattr(deep_check, "make_executor", lambda *args, **options: asked.append(options) or Ending())
    monkeypatch.setattr(deep_check, "_ask_scientist", lambda spec, settings: ("asked", True))
    told = list(deep_check.check_deeply(parse_spec(TEXT, path="world.yaml")))
    assert asked[0]["key_variable"] == "MYLLM"
    return told


def test_a_failure_is_told_without_secrets_and_hidden_metrics(monkeypatch):
    failure = f"no heldout=0.777 with {KEY}"
    (line, good), asked = lines(
        monkeypatch, status=TrialStatus.ERROR, objective=None, failure=failure, traceback=("model.py:3", failure)
    )
    assert line == (
        "world.yaml: scale nano: error: no [hidden] with [redacted]\n    model.py:3\n    no [hidden] with [redacted]"
    )
    assert not good
    assert asked == ("asked", True)


def test_what_is_logged_is_told_without_hidden_metrics(monkeypatch):
    (line, good), _ = lines(monkeypatch, metrics={"loss": 1.0, "heldout": 0.777, "peak": 2.0})
    assert "logs loss, peak; after two steps: [hidden] is above its bound 0.5; peak = 2 is above its bound 1" in line
    assert "heldout" not in line
    assert good
