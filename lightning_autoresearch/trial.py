"""One training run: what is asked of it, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from lightning_autoresearch.space import Value
from lightning_autoresearch.space import canonical as canonical
from lightning_autoresearch.space import digest_of as digest_of
from lightning_autoresearch.spec import Guard, Objective


class TrialStatus(str, Enum):
    """How a trial ended.  Everything but `finished` is feasibility data, never a large loss."""

    FINISHED = "finished"
    ERROR = "error"
    NOT_FINITE = "not_finite"
    METRIC_MISSING = "metric_missing"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    KILLED = "killed"
    CANCELLED = "cancelled"
    LOST = "lost"
    VOID = "void"


class Purpose(str, Enum):
    """Why a trial is run."""

    CALIBRATE = "calibrate"
    BAR = "bar"
    SCREEN = "screen"
    GATE = "gate"
    CONFIRM = "confirm"


INFRASTRUCTURE = frozenset({TrialStatus.KILLED, TrialStatus.LOST, TrialStatus.VOID})
"""Failures that say nothing about the hypothesis; such a trial is run once more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What is asked: overrides at one scale with one seed."""

    id: str
    """Number of the trial in its study, five digits."""
    overrides: Mapping[str, Value]
    """Dotted keys that differ from revision 0, and their values."""
    scale: str
    """Name of the scale."""
    seed: int
    """Seed of everything random in the run."""
    purpose: Purpose
    """Why it is run."""
    round: int
    """Number of the round, counted from 1; 0 is calibration."""
    hypothesis: str | None = None
    """Id of the hypothesis that it tests, if it tests one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What came of it, as the trial's own process and its supervisor measured it."""

    trial_id: str
    """The trial's id."""
    status: TrialStatus
    """How it ended."""
    objective: float | None = None
    """Value of the objective as the spec reads it (last, best, mean of the last k); null unless finished."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Every metric that was logged, last value; null where it was not finite."""
    curve: tuple[tuple[int, float | None], ...] = ()
    """(optimizer step, objective) at each validation."""
    steps: int = 0
    """Optimizer steps done."""
    samples: int = 0
    """Training samples seen (first dimension of the batches)."""
    train_seconds: float = 0.0
    """Seconds in the training loop, without validation."""
    fit_seconds: float = 0.0
    """Seconds in `Trainer.fit` and the closing validation."""
    wall_seconds: float = 0.0
    """Seconds from submission to outcome."""
    steps_per_second: float | None = None
    """Throughput of the training loop."""
    peak_memory_gb: float | None = None
    """Peak memory of the device (CUDA), else of the process, in 1e9 bytes."""
    parameters: int = 0
    """Number of trainable parameters."""
    shapes_digest: str = ""
    """SHA-256 of the names and shapes of the parameters: equal digests mean that parameter shapes are kept."""
    config_digest: str = ""
    """SHA-256 of the effective configuration, as canonical JSON."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions of Python and libraries, and the hardware."""
    failure: str | None = None
    """What went wrong, in one line; null when finished."""
    traceback: tuple[str, ...] = ()
    """The last 10 lines of the traceback, or where a hung step stood; from a worker whole, before it is redacted."""
    attempts: int = 1
    """How often it was started; 2 after an infrastructure failure."""

    @property
    def finished(self) -> bool:
        """Whether there is an objective to compare."""
        return self.status is TrialStatus.FINISHED


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A trial made concrete: all that a worker needs, as one JSON file."""

    trial_id: str
    """The trial's id."""
    task: Mapping[str, Any]
    """The LightningCLI config with overrides and scale applied."""
    requested: Mapping[str, Value]
    """The keys that were set on purpose; each must stand in the parsed config with this very value."""
    objective: Objective
    """What to read at the end."""
    guards: tuple[Guard, ...]
    """What else must be there at the end."""
    seed: int
    """Seed of everything random."""
    search_path: tuple[str, ...]
    """Folders that the task's classes may be imported from, put in front of `sys.path` in this order."""
    timeout_seconds: float
    """Hard deadline."""
    memory_gb: float | None
    """Largest memory in 1e9 bytes; null for no limit."""
