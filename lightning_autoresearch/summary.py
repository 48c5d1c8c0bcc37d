"""What a study has done so far, folded from its journal: one record behind the live view, `status` and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.hypothesis import Finding, Hypothesis
from lightning_autoresearch.scoring import Forecast, forecasts_of
from lightning_autoresearch.space import Value
from lightning_autoresearch.trial import Trial, TrialResult, TrialStatus

Phase = Literal[
    "created",
    "calibrating",
    "asking",
    "proposing",
    "screening",
    "gating",
    "confirming",
    "done",
    "interrupted",
    "failed",
]
"""What a study is doing; `asking` means that it waits for the language model or the mailbox."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """A trial and what came of it."""

    trial: Trial
    """What was asked."""
    result: TrialResult | None
    """What came of it; null while it runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HypothesisRow:
    """A hypothesis and what came of it."""

    hypothesis: Hypothesis
    """What was claimed."""
    round: int
    """The round it was tested in."""
    before: Mapping[str, Value]
    """The branch's value of each changed key before."""
    gain: float | None = None
    """Mean paired gain of the screen; null while it is open or where no run finished."""
    verdict: Verdict | None = None
    """KEEP, DROP or VOID of the screen, replaced by PROMOTE or FAIL once its round was gated; null while open."""
    sentence: str = ""
    """Why."""
    status: TrialStatus | None = None
    """How its worst trial ended."""
    screened: Verdict | None = None
    """KEEP, DROP or VOID of the screen, which no gate replaces: what the prediction was about; null while open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRow:
    """A gate."""

    round: int
    """The round that was gated; 0 for the self-test."""
    scale: str
    """Name of the scale."""
    gains: tuple[float, ...]
    """Paired gains, positive is better."""
    mean: float | None
    """Their mean."""
    low: float | None
    """Lower end of the interval; null while unbounded."""
    high: float | None
    """Upper end; null while unbounded."""
    e_value: float | None
    """The last e-value."""
    threshold: float | None
    """What it had to reach."""
    verdict: Verdict | None
    """PROMOTE, FAIL or VOID; null while it is open."""
    sentence: str = ""
    """Why."""
    hypotheses: tuple[str, ...] = ()
    """Ids of the hypotheses in the bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmedGain:
    """The gain of the incumbent over revision 0, on pairs that took no part in any decision."""

    scale: str
    """Name of the scale."""
    mean: float
    """Mean gain in units of the objective, positive is better."""
    low: float
    """Lower end of the anytime-valid interval."""
    high: float
    """Upper end."""
    pairs: int
    """Number of pairs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RevisionRow:
    """A revision of the spec."""

    number: int
    """0 is the user's own text."""
    digest: str
    """SHA-256 of its text."""
    changes: tuple[str, ...] = ()
    """What differs from its parent, in words."""
    hypotheses: tuple[str, ...] = ()
    """Ids of the hypotheses that it contains beyond its parent."""
    unified_diff: str = ""
    """Line diff against its parent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What it cost."""

    train_seconds: float = 0.0
    """Sum of the trials' training seconds."""
    wall_seconds: float = 0.0
    """Wall-clock over all sessions."""
    llm_tokens: int = 0
    """Tokens of the language model."""
    llm_usd: float = 0.0
    """US dollars of the language model, as far as its price is known."""
    llm_calls: int = 0
    """Calls of the language model that were begun, further tries and repairs included."""
    llm_usd_per_gain: float | None = None
    """US dollars of the language model per confirmed improvement; null while there is none, or without a price."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelUse:
    """How the language model was used."""

    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Number of ended calls by outcome, `answered` among them; interrupted ones are left out."""
    interrupted: int = 0
    """Calls that a person or a kill cut off."""
    repairs: int = 0
    """How often a reply went back with its faults."""
    proposals: int = 0
    """Proposals that the model was asked for."""
    unpriced_calls: int = 0
    """Calls that cost something nobody knows the price of."""
    seconds: float = 0.0
    """Time that its calls took."""
    names: tuple[str, ...] = ()
    """The model as its server names it; several where that changed."""
    analysis: str = ""
    """Its latest reading of the evidence, in its own words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySummary:
    """A study at one moment."""

    name: str
    """Name of the study."""
    goal: str
    """The question."""
    metric: str
    """Name of the objective."""
    mode: Literal["min", "max"]
    """Whether smaller or larger is better."""
    read: Literal["last", "best"] | int
    """How the objective is read."""
    rule: Literal["gate", "greedy", "mean"]
    """The decision rule."""
    alpha: float
    """False discovery rate."""
    scales: tuple[str, ...]
    """Names of the ladder's scales."""
    folder: str
    """The study's folder."""
    spec_path: str
    """The user's spec file."""
    command: str
    """The command that reproduces the study."""
    budget_trials: int
    """Trials that the budget allows."""
    budget_hours: float | None
    """Hours that the budget allows."""
    phase: Phase = "created"
    """What it is doing."""
    done: bool = False
    """Whether it has ended for good."""
    reason: str = ""
    """Why it ended or stopped, in words."""
    round: int = 0
    """Number of the current round; 0 is calibration."""
    trials: tuple[TrialRow, ...] = ()
    """Every trial, in order."""
    hypotheses: tuple[HypothesisRow, ...] = ()
    """Every hypothesis, in order."""
    gates: tuple[GateRow, ...] = ()
    """Every gate, in order."""
    revisions: tuple[RevisionRow, ...] = ()
    """Every revision, in order."""
    base: Mapping[str, Value] = field(default_factory=dict)
    """Value of every search-space key in revision 0."""
    incumbent: Mapping[str, Value] = field(default_factory=dict)
    """Value of every search-space key in the confirmed configuration."""
    branch: Mapping[str, Value] = field(default_factory=dict)
    """The same with the round's provisional keeps."""
    confirmed_gain: ConfirmedGain | None = None
    """The confirmed gain over revision 0; null while there is none."""
    noise_sd: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation of a paired gain under no effect, by scale, as calibrated."""
    resolvable_gain: float | None = None
    """Smallest gain at the search scale that the budget can resolve."""
    space_edits: tuple[str, ...] = ()
    """Changes of the search space, in words."""
    messages: tuple[str, ...] = ()
    """What the study wanted to tell a person (repaired journal, failures, notes), in order."""
    cost: Cost = field(default_factory=Cost)
    """What it cost."""
    phase_detail: str = ""
    """What is waited for, in words."""
    phase_since: float | None = None
    """When the phase began, in seconds since 1970; null where that is not known."""
    scientist: str = ""
    """The language model that the spec names, or `mailbox`; empty where the sampler works alone."""
    model: ModelUse = field(default_factory=ModelUse)
    """How the language model was used."""
    budget_usd: float | None = None
    """US dollars that the budget allows the language model."""
    budget_tokens: int | None = None
    """Tokens that the budget allows it."""
    budget_usd_per_gain: float | None = None
    """US dollars per confirmed improvement beyond which the study ends."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Number of hypotheses that were refused before any trial, by source."""
    slots: int = 1
    """Trials at once."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions and hardware."""


def forecasts(summary: StudySummary) -> tuple[Forecast, ...]:
    """The predictions that the screen has answered, in the order they were stated; see `scoring.forecasts_of`."""
    return forecasts_of(
        Finding(
            hypothesis=row.hypothesis,
            before=row.before,
            gain=row.gain,
            kept=row.screened is Verdict.KEEP,
            status=row.status or TrialStatus.FINISHED,
            round=row.round,
            void=row.screened is Verdict.VOID,
        )
        for row in summary.hypotheses
        if row.screened is not None
    )


def confirmed_improvements(summary: StudySummary) -> int:
    """How often a better configuration was confirmed and became the incumbent."""
    return sum(row.number > 0 for row in summary.revisions)
