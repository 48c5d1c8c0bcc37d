"""What a briefing says, made ready for the offline scientist: single-key tests, cliffs, configurations, losses.

Pure functions of the briefing.  A *step* is a tested hypothesis that changed exactly one key; a *cliff* is the nearest
value of a key, in one direction, at which a step failed to train and beyond which nothing ever finished.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_autoresearch.hypothesis import Briefing, Finding, Measurement
from lightning_autoresearch.space import Categorical, Domain, Float, Integer, SearchSpace, Value
from lightning_autoresearch.trial import INFRASTRUCTURE, TrialStatus, canonical

UNINFORMATIVE = INFRASTRUCTURE | {TrialStatus.CANCELLED}
"""Endings that say nothing about a configuration."""
SWEEPS = 12
"""Turns in which seed effects and configuration means are fitted to each other."""
SEED_SHRINKAGE = 1.0
"""Number of runs without deviation by which the effect of a seed is shrunken."""
BEST_SHARE = 0.25
"""Share of the measured configurations that counts as the best."""
FAILURE_PRIOR = 0.05
"""Probability that a configuration fails, before any run."""
FAILURE_WEIGHT = 0.5
"""Number of runs that this prior is worth."""
FAILURE_WIDTH = 0.1
"""Distance, in shares of a key's range, over which a failure is expected to spread."""
GAIN_WIDTH = 0.25
"""Distance, in shares of a key's range, over which measured gains resemble each other."""
NEWEST = 400
"""Configurations, newest first, that failure estimates look at; bounds their time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A tested hypothesis that changed exactly one key."""

    key: str
    """The key."""
    before: Value
    """Its value in the branch then."""
    after: Value
    """The value that was tested."""
    gain: float | None
    """Mean paired gain, positive is better; null where it failed."""
    kept: bool
    """Whether the screen kept it."""
    round: int
    """The round it was tested in."""

    @property
    def failed(self) -> bool:
        """Whether there is no gain, because a run failed."""
        return self.gain is None

    @property
    def direction(self) -> int:
        """1 for up, -1 for down, 0 where there is no order."""
        return direction(self.before, self.after)


class Ledger:
    """A briefing and what follows from it, for one search space."""

    def __init__(self, briefing: Briefing, space: SearchSpace):
        self.briefing = briefing
        self.space = space
        self.branch = briefing.branch
        self.findings = tuple(one for one in briefing.findings if one.status not in UNINFORMATIVE)
        self.steps = tuple(_step(one) for one in self.findings if len(one.hypothesis.overrides) == 1)
        self.configs = _configs(briefing, space)
        self.cliffs = _cliffs(self.steps, space, briefing.measurements)
        self._failures_near = [config for config, loss in self.configs[-NEWEST:] if loss is None]
        self._finished_near = [config for config, loss in self.configs[-NEWEST:] if loss is not None]

    # ------------------------------------------------------------------------------------------------ single-key tests
    def last_kept(self, key: str) -> Step | None:
        """The newest kept step of a key."""
        return next((step for step in reversed(self.steps) if step.key == key and step.kept), None)

    def arrived(self, key: str) -> int:
        """The direction in which the branch's value of a numeric key was reached by its newest kept step, else 0."""
        last = self.last_kept(key)
        return last.direction if last is not None and last.after == self.branch[key] else 0

    def drops(self, key: str, way: int) -> int:
        """How many steps in a direction were dropped from the branch's value; the way back counts as one."""
        dropped = [step for step in self.steps_from_here(key) if step.direction == way and not step.kept]
        return len(dropped) + (self.arrived(key) == -way)

    def steps_from_here(self, key: str) -> list[Step]:
        """The steps of a key that began at the branch's value."""
        return [step for step in self.steps if step.key == key and step.before == self.branch[key]]

    def unused_gains(self) -> list[Step]:
        """Steps that gained alone, began at the branch's value, and are not in the branch; the best one per value."""
        best: dict[tuple[str, str], Step] = {}
        for step in self.steps:
            name = (step.key, repr(step.after))
            usable = step.key in self.space and self.space[step.key].contains(step.after)
            if usable and step.before == self.branch[step.key] and (step.gain or 0.0) > 0:
                best[name] = max(best.get(name, step), step, key=lambda one: one.gain or 0.0)
        return list(best.values())

    def influence(self, key: str, flat: float) -> float:
        """Mean size of a key's gains in units of the noise, shrunken by one step of size `flat`; 0.1 to 3."""
        sd = self.briefing.gain_sd
        sizes = [
            abs(step.gain) / sd if sd > 0 else flat for step in self.steps if step.key == key and step.gain is not None
        ]
        return min(max((sum(min(size, 3.0) for size in sizes) + flat) / (len(sizes) + 1), 0.1), 3.0)

    # -------------------------------------------------------------------------------------------------------- closeness
    def closeness(self, key: str, before: Value, after: Value, value: Value) -> float:
        """How much a test that moved a key tells about moving it from the branch's value to another: 0 to 1."""
        domain = self.space[key]
        if isinstance(domain, Categorical):
            return float(same(after, value))
        if direction(before, after) != direction(self.branch[key], value) or not self.is_placed(key):
            return 0.0
        ends = ((before, self.branch[key]), (after, value))
        far = sum(abs(_unit(domain, one) - _unit(domain, other)) for one, other in ends)
        return math.exp(-far / (2 * GAIN_WIDTH))

    def similarity(self, finding: Finding, overrides: Mapping[str, Value]) -> float:
        """Mean closeness of two changes over the keys that either of them moves: 0 to 1."""
        theirs = finding.hypothesis.overrides
        shared = [key for key in overrides if key in theirs]
        alike = sum(self.closeness(key, finding.before.get(key), theirs[key], overrides[key]) for key in shared)
        return alike / len(set(theirs) | set(overrides))

    # ------------------------------------------------------------------------------------------------------ feasibility
    def is_behind_cliff(self, key: str, value: Value) -> bool:
        """Whether moving a key from the branch's value to another reaches a value where training failed."""
        domain = self.space[key]
        if isinstance(domain, Categorical):
            failed = any(step.failed and step.key == key and same(step.after, value) for step in self.steps)
            return failed and not any(
                loss is not None and key in config and same(config[key], value) for config, loss in self.configs
            )
        way = direction(self.branch[key], value)
        cliff = self.cliffs.get((key, way))
        return cliff is not None and way * (coordinate(domain, value) - cliff) >= 0

    def failure_probability(self, overrides: Mapping[str, Value]) -> float:
        """Kernel-smoothed share of failures among the newest measured configurations near a changed branch."""
        failed, total = FAILURE_PRIOR * FAILURE_WEIGHT, FAILURE_WEIGHT
        if not self._failures_near:
            return failed / total
        place = self._place({**self.branch, **overrides})
        failures = sum(self._nearness(place, config) for config in self._failures_near)
        return (failed + failures) / (
            total + failures + sum(self._nearness(place, config) for config in self._finished_near)
        )

    def _place(self, config: Mapping[str, Value]) -> dict[str, float | str]:
        return {key: _place(domain, config.get(key)) for key, domain in self.space.domains.items()}

    def _nearness(self, place: Mapping[str, float | str], config: Mapping[str, Value]) -> float:
        square = 0.0
        for key, here in place.items():
            there = _place(self.space[key], config.get(key))
            if here != there:
                apart = here - there if isinstance(here, float) and isinstance(there, float) else 1.0
                square += apart * apart
        return math.exp(-0.5 * square / FAILURE_WIDTH**2)

    # ----------------------------------------------------------------------------------------------------------- places
    def is_placed(self, key: str) -> bool:
        """Whether the branch's value of a numeric key is a number that its scale can hold."""
        domain, value = self.space[key], self.branch[key]
        return not isinstance(domain, Categorical) and _fits(domain, value)

    def options(self, key: str) -> list[Value]:
        """The other choices of a categorical key within the factor limit."""
        domain, old = self.space[key], self.branch[key]
        assert isinstance(domain, Categorical)
        others = [value for value in domain.choices if not same(value, old)]
        return [value for value in others if within_factor(old, value, self.briefing.max_factor)]

    def inside(self) -> list[tuple[dict[str, Value], float | None]]:
        """The measured configurations that the space holds now, in order, each with its loss; null where it failed."""
        return [
            (config, loss)
            for config, loss in self.configs
            if len(config) == len(self.space) and not self.space.faults(config)
        ]

    def best(self) -> list[dict[str, Value]]:
        """The best quarter of the measured configurations, at least three where there are so many, best first."""
        finished = sorted(((loss, number) for number, (_, loss) in enumerate(self.configs) if loss is not None))
        count = max(3, math.ceil(BEST_SHARE * len(finished)))
        return [self.configs[number][0] for _, number in finished[:count]]

    # ------------------------------------------------------------------------------------------------------------ words
    def where_the_best_lie(self, overrides: Mapping[str, Value]) -> str:
        """How many of the best measured configurations lie on the new side of the branch, per changed key."""
        best = self.best()
        parts = []
        for key, value in overrides.items():
            old, way = self.branch[key], direction(self.branch[key], value)
            there = [
                one for one in best if key in one and (direction(old, one[key]) == way if way else one[key] == value)
            ]
            if there:
                side = f"{'above' if way > 0 else 'below'} {shown(old)}" if way else f"at {shown(value)}"
                parts.append(f"{len(there)} of the best {len(best)} measured have {key} {side}")
        return ", ".join(parts) or "drawn to explore, since none of the best configurations lies there yet"

    def trend_in_words(self, key: str) -> str:
        """What the tests of one key showed, in one plain sentence."""
        gains = defaultdict(list)
        for step in self.steps:
            if step.key == key:
                word = {1: "upward", -1: "downward", 0: f"to {shown(step.after)}"}[step.direction]
                gains[word].append(step.gain)
        parts = [f"{len(some)} {word} ({_mean_in_words(some)})" for word, some in gains.items()]
        return f"Tests of {key} alone so far: {', '.join(parts)}." if parts else f"{key} was not tested alone yet."


def coordinate(domain: Float | Integer, value: Value) -> float:
    """Where a number lies on its axis: its logarithm on a log scale, else itself."""
    return math.log(value) if domain.scale == "log" else float(value)  # type: ignore[arg-type]


def is_number(value: object) -> bool:
    """Whether a value is a number (and not a truth value)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_positive(value: object) -> bool:
    """Whether a value is a positive number."""
    return is_number(value) and value > 0  # type: ignore[operator]


def same(one: Value, other: Value) -> bool:
    """Whether two values are one and the same; `True` is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def direction(old: Value, new: Value) -> int:
    """1 where a number rises, -1 where it falls, 0 where there is no order."""
    if not (is_number(old) and is_number(new)):
        return 0
    return (new > old) - (new < old)  # type: ignore[operator]


def within_factor(old: Value, new: Value, max_factor: float) -> bool:
    """Whether a change of one positive number into another respects the largest factor; any other change does."""
    if not (is_positive(old) and is_positive(new)):
        return True
    return new / old <= max_factor and old / new <= max_factor  # type: ignore[operator]


def shown(value: Value) -> str:
    """A value as statements name it."""
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _fits(domain: Float | Integer, value: Value) -> bool:
    return is_positive(value) if domain.scale == "log" else is_number(value)


def _unit(domain: Float | Integer, value: Value) -> float:
    return domain.to_unit(value) if _fits(domain, value) else 0.5  # type: ignore[arg-type]


def _place(domain: Domain, value: Value) -> float | str:
    if isinstance(domain, Categorical) or not _fits(domain, value):
        return repr(value)
    return float(domain.to_unit(value))  # type: ignore[arg-type]


def _mean_in_words(gains: list[float | None]) -> str:
    finished = [gain for gain in gains if gain is not None]
    failed = len(gains) - len(finished)
    words = [f"mean gain {statistics.fmean(finished):.3g}"] if finished else []
    return ", ".join(words + ([f"{failed} failed"] if failed else []))


def _step(finding: Finding) -> Step:
    ((key, after),) = finding.hypothesis.overrides.items()
    gain = finding.gain if finding.status is TrialStatus.FINISHED else None
    return Step(key=key, before=finding.before.get(key), after=after, gain=gain, kept=finding.kept, round=finding.round)


def _cliffs(
    steps: tuple[Step, ...], space: SearchSpace, measurements: tuple[Measurement, ...]
) -> dict[tuple[str, int], float]:
    """Nearest failed value (as a coordinate) of each key and direction beyond which nothing finished."""
    places: dict[tuple[str, int], list[float]] = defaultdict(list)
    for step in steps:
        domain = space.domains.get(step.key)
        if domain is None or isinstance(domain, Categorical):
            continue
        if step.failed and step.direction and _fits(domain, step.after):
            places[step.key, step.direction].append(coordinate(domain, step.after))
    cliffs = {}
    for (key, way), failed in places.items():
        reached = [way * place for place in _finished_places(key, space[key], measurements)]
        beyond = [way * place for place in failed if way * place > max(reached, default=-math.inf)]
        if beyond:
            cliffs[key, way] = way * min(beyond)
    return cliffs


def _finished_places(key: str, domain: Domain, measurements: tuple[Measurement, ...]) -> list[float]:
    assert not isinstance(domain, Categorical)
    values = [one.config.get(key) for one in measurements if one.status is TrialStatus.FINISHED]
    return [coordinate(domain, value) for value in values if _fits(domain, value)]


def _configs(briefing: Briefing, space: SearchSpace) -> list[tuple[dict[str, Value], float | None]]:
    """Every measured configuration of the space's keys, in order, with its loss (null if it failed)."""
    sign = 1.0 if briefing.mode == "min" else -1.0
    configs: dict[str, dict[str, Value]] = {}
    runs: dict[str, list[tuple[int, float]]] = defaultdict(list)
    failed = set()
    for one in briefing.measurements:
        if one.status in UNINFORMATIVE:
            continue
        config = {key: one.config[key] for key in space if key in one.config}
        name = canonical(config)
        configs.setdefault(name, config)
        if one.status is TrialStatus.FINISHED and one.objective is not None:
            runs[name].append((one.pair, sign * one.objective))
        else:
            failed.add(name)
    losses = corrected_means(runs)
    return [(config, None if name in failed else losses[name]) for name, config in configs.items()]


def corrected_means(runs: Mapping[Any, list[tuple[int, float]]]) -> dict[Any, float]:
    """Mean loss of each configuration, corrected for the luck of the seeds it was run on.

    Additive model, loss = configuration + seed, fitted by alternating means (backfitting) with shrunken seed effects.
    Only configurations that ran on several seeds tell seeds apart; the others are corrected with what those showed.
    Interactions of seed and configuration are not covered.
    """
    linked = {name: some for name, some in runs.items() if len({pair for pair, _ in some}) > 1}
    effects: dict[int, float] = defaultdict(float)
    for _ in range(SWEEPS):
        residuals: dict[int, list[float]] = defaultdict(list)
        for some in linked.values():
            mean = statistics.fmean(loss - effects[pair] for pair, loss in some)
            for pair, loss in some:
                residuals[pair].append(loss - mean)
        effects = defaultdict(
            float, {pair: sum(left) / (len(left) + SEED_SHRINKAGE) for pair, left in residuals.items()}
        )
    return {name: statistics.fmean(loss - effects[pair] for pair, loss in some) for name, some in runs.items()}
