"""What a trial of the callback costs beyond its fit: copies, a new model, seeds, the record, the journal, the decision.

The promise is 30 ms in the median on this small module, on a machine that makes a Trainer and fits nothing with it in
the reference time below; on a slower or busier one that figure, measured in the same run, scales the promise.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from lightning_autoresearch import AutoResearch
from lightning_autoresearch.journal import Entry
from lightning_autoresearch.study import Study
from tests.live_project import SPEC, Net, loaders, quiet_trainer

PROMISE_SECONDS = 0.030
REFERENCE_SECONDS = 0.0115
"""A Trainer made and a fit of no step, in the median, on the machine that the promise was made for."""


class Clock:
    """Notes when each trial was known to be finished, and how long its fit took."""

    def __init__(self) -> None:
        self.since = time.perf_counter()
        self.overheads: list[float] = []

    def on_entry(self, entry: Entry) -> None:
        if entry.kind == "trial_finished":
            now = time.perf_counter()
            self.overheads.append(now - self.since - entry.data["fit_seconds"])
            self.since = now


def fit_of_no_step() -> float:
    started = time.perf_counter()
    quiet_trainer(limit_train_batches=0).fit(Net(), *loaders())
    return time.perf_counter() - started


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_callback_costs_at_most_30_ms_per_trial_beyond_the_fit_in_the_median(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    clock = Clock()
    make = AutoResearch._make_study

    def timed(self: AutoResearch, *arguments: Any) -> Study:
        study = make(self, *arguments)
        study.listen(clock)
        return study

    monkeypatch.setattr(AutoResearch, "_make_study", timed)
    fit_of_no_step()
    reference = [fit_of_no_step() for _ in range(20)]
    pl.seed_everything(7, verbose=False)
    trainer = quiet_trainer(callbacks=[AutoResearch("spec.yaml")])
    trainer.fit(Net(), *loaders())
    reference += [fit_of_no_step() for _ in range(20)]
    overheads = clock.overheads[1:]  # the first one has the start of the study in it
    slowdown = max(statistics.median(reference) / REFERENCE_SECONDS, 1.0)
    median = statistics.median(overheads)
    with capsys.disabled():
        print(
            f"\nbeyond the fit, per trial: {median * 1000:.1f} ms in the median, n={len(overheads)}, "
            f"from {min(overheads) * 1000:.1f} to {max(overheads) * 1000:.1f} ms; a Trainer and a fit of no step: "
            f"{statistics.median(reference) * 1000:.1f} ms ({slowdown:.2f} times the reference)"
        )
    assert len(overheads) >= 20
    assert median <= PROMISE_SECONDS * slowdown
