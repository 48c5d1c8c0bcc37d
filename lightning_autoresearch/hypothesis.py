"""What a proposer says, and what it is told.

A proposer (the offline `sampler`, later the `scientist`) gets one `Briefing` and answers with one `Proposal`.
It never sees seeds, hidden guards, or anything that judges it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from lightning_autoresearch.evidence import Evidence
from lightning_autoresearch.space import Domain, SearchSpace, Value
from lightning_autoresearch.trial import TrialStatus

Source: TypeAlias = str
"""Who stated a hypothesis: `sampler`, or the scientist's model name."""

SAMPLER: Source = "sampler"
"""Name of the offline proposer."""

Kind: TypeAlias = Literal["value", "schedule", "data", "loss", "architecture", "class", "space"]
"""What a hypothesis is about; `space` for edits of the search space alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the proposer expects of its hypothesis, stated before any trial."""

    gain: float
    """Predicted gain in units of the objective, oriented so that positive is better."""
    probability: float
    """Predicted probability that the screen keeps it, 0 to 1."""
    low: float | None = None
    """Lower end of the 80 % interval of the measured gain; null where none was stated."""
    high: float | None = None
    """Upper end of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """A claim, its mechanism, the overrides that test it, its predicted effect and probability."""

    id: str
    """`h` and a number, unique in the study; the study assigns it."""
    statement: str
    """The claim in one sentence: what changes from what to what."""
    mechanism: str
    """Why it should help."""
    source: Source
    """Who stated it."""
    overrides: Mapping[str, Value]
    """Dotted keys and the values it sets, relative to the branch it was proposed for."""
    prediction: Prediction
    """The predicted effect."""
    kind: Kind = "value"
    """What it is about."""
    cites: tuple[str, ...] = ()
    """Places in the research notes that speak for it, for example `notes/lr.md:12`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceEdit:
    """One change of the search space."""

    op: Literal["widen", "narrow", "freeze", "add"]
    """`widen` and `narrow` set new bounds or choices, `freeze` takes the key out of the space, `add` puts one in."""
    key: str
    """The dotted key."""
    domain: Domain | None
    """The new domain; null for `freeze`."""
    why: str
    """The evidence for it, in one sentence."""
    source: Source = "sampler"
    """Who wants it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the hypotheses of a language model come from."""

    model: str
    """The model as the server named it."""
    prompt_digest: str
    """SHA-256 (hex) of the first request's messages."""
    calls: int
    """Tries that it took, repairs included."""
    tokens: int
    """Tokens charged."""
    usd: float | None
    """US dollars charged; null where the price is not known."""
    repairs: int
    """How often a reply went back with its faults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """The answer to one briefing, with its provenance."""

    hypotheses: tuple[Hypothesis, ...]
    """The hypotheses, each relative to the briefing's branch; empty when there is nothing left to try."""
    source: Source
    """Who answered."""
    space_edits: tuple[SpaceEdit, ...] = ()
    """Changes of the search space, which take effect before the hypotheses are tried."""
    seconds: float = 0.0
    """Time that the answer took."""
    provenance: Provenance | None = None
    """The language model's part; null where none took part."""
    notes: tuple[str, ...] = ()
    """What a person should know of it, for example that the language model did not answer and why."""
    analysis: str = ""
    """The language model's reading of the evidence, in its own words."""
    unanswered: bool = False
    """Whether the language model did not answer but may another time: an empty proposal is then not the last word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One training run at the search scale, as a proposer may see it: no seed, only which runs share one."""

    config: Mapping[str, Value]
    """The value of every key of the search space (and of keys that were once in it)."""
    pair: int
    """Runs with the same number had the same seed; meaningless otherwise."""
    status: TrialStatus
    """How it ended."""
    objective: float | None
    """The objective's value; null unless it finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A tested hypothesis."""

    hypothesis: Hypothesis
    """What was claimed."""
    before: Mapping[str, Value]
    """The branch's value of each key that the hypothesis changed."""
    gain: float | None
    """Mean paired gain on the screen's seeds, positive is better; null where no run finished."""
    kept: bool
    """Whether the screen kept it."""
    status: TrialStatus
    """How its worst trial ended."""
    round: int
    """The round it was tested in."""
    failure: str = ""
    """Why its worst trial failed, with the last lines of its traceback; empty where all finished."""
    train_seconds: float = 0.0
    """What its trials cost."""
    void: bool = False
    """Whether nothing was decided, by no fault of its own."""
    seeds: int = 0
    """Number of seeds that the gain is a mean of; 0 where that is not known."""
    why: str = ""
    """What decided it where its gain alone does not tell, in a few words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateFinding:
    """A gate that a round's kept hypotheses went through together."""

    round: int
    """The round."""
    scale: str
    """The scale."""
    hypotheses: tuple[str, ...]
    """Their ids."""
    promoted: bool
    """Whether they passed it."""
    sentence: str
    """The decision in words."""
    evidence: Evidence | None = None
    """The paired gains; null where nothing could be compared."""
    threshold: float | None = None
    """What the e-value had to reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceFinding:
    """Edits of the search space that took effect together."""

    round: int
    """The round."""
    after: int
    """How many hypotheses had been tested by then."""
    edits: tuple[SpaceEdit, ...]
    """The edits; a key that joined because a hypothesis set it is one of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Briefing:
    """All that a proposer may know."""

    goal: str
    """The spec's goal."""
    metric: str
    """Name of the objective."""
    mode: Literal["min", "max"]
    """Whether smaller or larger is better."""
    round: int
    """Number of the round, counted from 1."""
    wanted: int
    """How many hypotheses are asked for."""
    space: SearchSpace
    """The search space now."""
    base: Mapping[str, Value]
    """Value of every key in revision 0."""
    incumbent: Mapping[str, Value]
    """Value of every key in the confirmed configuration."""
    branch: Mapping[str, Value]
    """Value of every key in the incumbent plus this round's provisional keeps; what hypotheses are relative to."""
    measurements: tuple[Measurement, ...]
    """Every run at the search scale so far, in order."""
    findings: tuple[Finding, ...]
    """Every tested hypothesis so far, in order."""
    gain_sd: float
    """Standard deviation of a paired gain under no effect: the noise floor."""
    max_changes: int
    """Largest number of keys that one hypothesis may change."""
    max_factor: float
    """Largest factor by which one hypothesis may change a positive number."""
    trials_left: int
    """Trials that the budget still has."""
    seed: int
    """Seed of the proposer's own randomness; unrelated to the trials' seeds."""
    tried: frozenset[str] = field(default_factory=frozenset)
    """Canonical form (`space.canonical` of the full config) of what was screened: not to be proposed again."""
    key: str = ""
    """Name of this call, unique in the study: round and number of the proposal."""
    resolvable_gain: float | None = None
    """Smallest gain at the search scale that a gate can resolve; null while it is unknown or unbounded."""
    gates: tuple[GateFinding, ...] = ()
    """Every gate so far, in order."""
    reshapes: tuple[SpaceFinding, ...] = ()
    """Every edit of the search space so far, in order."""
    refusals: tuple[str, ...] = ()
    """Why the latest refused hypotheses were not let through, in words."""
    stale_rounds: int = 0
    """Closed rounds since the last one that ended in a promotion."""


class Proposer(Protocol):
    """Anything that answers a briefing."""

    def propose(self, briefing: Briefing) -> Proposal:
        """Answer with at most `briefing.wanted` hypotheses; ids are placeholders that the study replaces."""
        ...
