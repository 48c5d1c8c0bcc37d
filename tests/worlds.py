"""Simulated training: a true objective per configuration, seed noise, failures, no Lightning."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lightning_autoresearch.codec import from_json, read_json, to_json, write_json
from lightning_autoresearch.space import get_key
from lightning_autoresearch.trial import Job, TrialResult, TrialStatus, digest_of

SPEC = """\
version: 1
name: world   # a simulated one
goal: Lower the loss.
task:
  model:
    class_path: world.Model
    init_args:
      lr: 0.001   # ten times too small
      depth: 2
      idle: 0.5
      act: relu
  trainer: {max_steps: 10}
objective: {metric: loss, mode: min}
search_space:
  model.init_args.lr: {type: float, low: 0.0001, high: 0.1, scale: log}
  model.init_args.depth: {type: int, low: 1, high: 6}
  model.init_args.idle: {type: float, low: 0.0, high: 1.0}
  model.init_args.act: {type: categorical, choices: [relu, gelu, tanh]}
scales:
  - {name: nano, set: {trainer.max_steps: 10}}
decision: {keeps_per_round: 3}
budget: {trials: 150}
execution: {executor: inline, slots: 2}
"""

Truth = Callable[[Mapping[str, Any]], float]


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies without their report, which has tests of its own, and without waiting for the disk at every entry.

    What a study without power keeps is not shown by any test; what a killed one keeps does not depend on the disk.
    """
    monkeypatch.setattr("lightning_autoresearch.study.write_report", lambda summary, path: path.write_text("report"))
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def loss(task: Mapping[str, Any]) -> float:
    """Best at lr = 0.01, depth 4, gelu; `idle` does nothing."""
    args = task["model"]["init_args"]
    return (
        1.0
        + 0.3 * math.log10(args["lr"] / 0.01) ** 2
        + 0.02 * (args["depth"] - 4) ** 2
        + (0.0 if args["act"] == "gelu" else 0.05)
    )


def flat(task: Mapping[str, Any]) -> float:
    """No knob does anything."""
    return 1.0


@dataclass
class World:
    """An executor that gives a result at once.

    Attributes:
        truth: the true objective of a task.
        sd: standard deviation of one run over seeds.
        correlation: of two configurations at the same seed.
        fails: the status that a job ends with instead, if any.
        submitted: ids of the jobs that were run, in order.
    """

    truth: Truth = loss
    sd: float = 0.01
    correlation: float = 0.0
    metric: str = "loss"
    slots: int = 2
    fails: Callable[[Job], TrialStatus | None] = lambda job: None
    extra: Callable[[Job], Mapping[str, float | None]] = lambda job: {}
    on_submit: Callable[[int], None] = lambda count: None
    submitted: list[str] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    taken: set[Path] = field(default_factory=set)
    peak: int = 0

    def submit(self, job: Job, folder: Path) -> None:
        self.submitted.append(job.trial_id)
        self.jobs.append(job)
        self.on_submit(len(self.submitted))
        self.taken.add(folder)
        self.peak = max(self.peak, len(self.taken))
        write_json(folder / "outcome.json", to_json(self.result(job)), survives="crash")

    def result(self, job: Job) -> TrialResult:
        status = self.fails(job)
        if status is not None:
            return TrialResult(trial_id=job.trial_id, status=status, failure="simulated", wall_seconds=1.0)
        value = self.truth(job.task) + self.noise(job)
        shapes = digest_of(get_key(job.task, "model.init_args").get("depth"))
        return TrialResult(
            trial_id=job.trial_id,
            status=TrialStatus.FINISHED,
            objective=value,
            metrics={self.metric: value, **self.extra(job)},
            curve=((5, value + 0.1), (10, value)),
            steps=10,
            train_seconds=1.0,
            fit_seconds=1.1,
            wall_seconds=1.2,
            shapes_digest=shapes,
            parameters=1000,
        )

    def noise(self, job: Job) -> float:
        shared = random.Random(job.seed).gauss(0, 1)
        own = random.Random(f"{job.seed}/{digest_of(dict(job.task))}").gauss(0, 1)
        return self.sd * (math.sqrt(self.correlation) * shared + math.sqrt(1 - self.correlation) * own)

    def outcome(self, folder: Path) -> TrialResult | None:
        self.taken.discard(folder)
        data = read_json(folder / "outcome.json")
        return from_json(data, TrialResult) if data else None

    def cancel(self, folder: Path) -> None:
        raise AssertionError("nothing to cancel")

    def adopt(self, folder: Path) -> bool:
        return False

    def capacity(self) -> int:
        return self.slots - len(self.taken)

    def wait(self, timeout_seconds: float) -> None:
        pass  # a simulated trial has ended at once

    def close(self) -> None:
        self.taken.clear()
