"""The offline scientist on simulated tasks: a true function of the knobs, seed noise shared within a pair, cliffs."""

from __future__ import annotations

import functools
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from lightning_autoresearch.hypothesis import (
    Briefing,
    Finding,
    Hypothesis,
    Measurement,
    Prediction,
    Proposal,
    Proposer,
    SpaceEdit,
)
from lightning_autoresearch.ledger import FAILURE_PRIOR, Ledger, corrected_means, within_factor
from lightning_autoresearch.reshape import edited
from lightning_autoresearch.sampler import PRIOR_KEEP, Sampler, _study
from lightning_autoresearch.space import Categorical, Float, Integer, SearchSpace, Value
from lightning_autoresearch.trial import TrialStatus, canonical

SD = 0.03
"""Standard deviation of one run over seeds."""
CORRELATION = 0.6
"""Correlation of two configurations' losses at the same seed."""
GAIN_SD = SD * math.sqrt(2 * (1 - CORRELATION))


# ------------------------------------------------------------------------------------------------------ the simulation
@dataclass
class World:
    """A task whose truth is known."""

    space: SearchSpace
    base: dict[str, Value]
    truth: Callable[[Mapping[str, Value]], float | None]
    """Loss of a configuration without noise; None where training fails."""
    inert: tuple[str, ...] = ()
    best: float = 0.0
    """Smallest loss there is."""

    def run(self, config: Mapping[str, Value], seed: int) -> float | None:
        """One run: seeds shift every configuration by a common amount and each by its own; inert keys change nothing."""
        truth = self.truth(config)
        if truth is None:
            return None
        effective = canonical({key: value for key, value in config.items() if key not in self.inert})
        common = random.Random(f"seed {seed}").gauss(0, SD * math.sqrt(CORRELATION))
        own = random.Random(f"{seed} {effective}").gauss(0, SD * math.sqrt(1 - CORRELATION))
        return truth + common + own

    def regret(self, config: Mapping[str, Value]) -> float:
        """How far a configuration is from the best, as a share of where the base is."""
        found, start = self.truth(config), self.truth(self.base)
        assert found is not None
        assert start is not None
        return (found - self.best) / (start - self.best)


def _training_loss(config: Mapping[str, Value]) -> float | None:
    """Like a small network: a ridge between lr and width, large steps diverge, great widths do not fit."""
    lr, width = float(config["lr"]), int(config["width"])
    if lr * width > 150 or width > 400:
        return None
    ridge = 0.15 * math.log10(lr / (0.3 * math.sqrt(128 / width))) ** 2
    size = 0.05 * math.log2(width / 128) ** 2
    drop = (float(config["dropout"]) - 0.1) ** 2
    warm = 0.05 * ((int(config["warmup"]) - 40) / 60) ** 2
    act = {"relu": 0.1, "gelu": 0.05, "silu": 0.0, "tanh": 0.2}[str(config["act"])]
    return 1.0 + ridge + size + drop + warm + act


def training_world(*, highest_lr: float) -> World:
    domains = {
        "lr": Float(low=1e-4, high=highest_lr, scale="log"),
        "width": Integer(low=16, high=512, scale="log"),
        "dropout": Float(low=0.0, high=0.5),
        "act": Categorical(choices=("relu", "gelu", "silu", "tanh")),
        "warmup": Integer(low=0, high=100),
        "momentum": Float(low=0.0, high=1.0),
    }
    base = {"lr": 0.003, "width": 32, "dropout": 0.4, "act": "relu", "warmup": 0, "momentum": 0.5}
    return World(space=SearchSpace(domains=domains), base=base, truth=_training_loss, inert=("momentum",), best=1.0)


def cliff_world() -> World:
    """The loss falls towards an edge close to the base, behind which nothing trains; another key has one below it."""

    def truth(config: Mapping[str, Value]) -> float | None:
        if float(config["rate"]) > 0.02 or int(config["depth"]) > 4:
            return None
        slope = -0.2 * math.log10(float(config["rate"])) - 0.05 * int(config["depth"])
        return slope + (float(config["mix"]) - 0.3) ** 2

    domains = {
        "rate": Float(low=1e-4, high=0.1, scale="log"),
        "depth": Integer(low=1, high=12),
        "mix": Float(low=0.0, high=1.0),
    }
    best = truth({"rate": 0.02, "depth": 4, "mix": 0.3})
    assert best is not None
    base = {"rate": 0.01, "depth": 2, "mix": 0.8}
    return World(space=SearchSpace(domains=domains), base=base, truth=truth, best=best)


def random_world(seed: int) -> World:
    """Three to seven knobs of random kinds, weights and optima, two of them with an interaction, one with a cliff."""
    rng = random.Random(seed)
    kinds = [
        Float(low=1e-5, high=1.0, scale="log"),
        Float(low=0.0, high=1.0),
        Integer(low=0, high=12),
        Integer(low=4, high=1024, scale="log"),
        Categorical(choices=tuple("abcd")),
    ]
    domains = {f"k{number}": kinds[number] if number < 2 else rng.choice(kinds) for number in range(rng.randint(3, 7))}
    numeric = [key for key, domain in domains.items() if not isinstance(domain, Categorical)]
    weights = {key: rng.choice([0.02, 0.3, 1.0, 3.0]) for key in domains}
    goal = {key: rng.uniform(0.1, 0.9) for key in numeric}
    worth = {key: dict(zip("abcd", rng.sample([0.0, 0.1, 0.2, 0.3], 4), strict=True)) for key in domains}

    def truth(config: Mapping[str, Value]) -> float | None:
        off = {key: domains[key].to_unit(config[key]) - goal[key] for key in numeric}
        if off["k0"] > 0.3:
            return None
        choices = sum(worth[key][str(config[key])] for key in domains if key not in off)
        return sum(weights[key] * off[key] ** 2 for key in numeric) + choices + 0.5 * (off["k0"] - off["k1"]) ** 2

    def somewhere() -> dict[str, Value]:
        return {
            key: domain.from_unit(rng.random()) if key in goal else rng.choice(domain.choices)
            for key, domain in domains.items()
        }

    base = next(config for config in iter(somewhere, None) if (truth(config) or 0.0) > 0.3)
    return World(space=SearchSpace(domains=domains), base=base, truth=truth)


@dataclass
class Lab:
    """A minimal screening loop: two fresh seeds per round, the keep rule, and at the end of a round a gate in small."""

    world: World
    proposer: Proposer
    seed: int = 0
    wanted: int = 4
    runs: int = 0
    round: int = 1
    measurements: list[Measurement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    edits: list[tuple[int, str, str]] = field(default_factory=list)
    """(round, operation, key) of every edit of the space."""

    def __post_init__(self) -> None:
        self.space = self.world.space
        self.incumbent = dict(self.world.base)
        self.branch = dict(self.world.base)
        self.tried = {canonical(self.branch)}

    def briefing(self, wanted: int | None = None) -> Briefing:
        return Briefing(
            goal="",
            metric="loss",
            mode="min",
            round=self.round,
            wanted=wanted or self.wanted,
            space=self.space,
            base=self.world.base,
            incumbent=dict(self.incumbent),
            branch=dict(self.branch),
            measurements=tuple(self.measurements),
            findings=tuple(self.findings),
            gain_sd=GAIN_SD,
            max_changes=3,
            max_factor=4.0,
            trials_left=1000,
            seed=self.seed * 1000 + len(self.proposals),
            tried=frozenset(self.tried),
        )

    def run(self, config: Mapping[str, Value], seed: int) -> float | None:
        loss = self.world.run(config, self.seed * 100_000 + seed)
        status = TrialStatus.FINISHED if loss is not None else TrialStatus.NOT_FINITE
        self.measurements.append(Measurement(config=dict(config), pair=seed, status=status, objective=loss))
        self.runs += 1
        return loss

    def fresh(self) -> int:
        self._seeds = getattr(self, "_seeds", 0) + 1
        return self._seeds

    def search(self, *, runs: int, hypotheses: int = 10**6, per_round: int = 20, keeps: int = 6) -> Lab:
        """Rounds until the budget is spent or nothing is proposed."""
        for _ in range(8):
            self.run(self.branch, self.fresh())
        while self.runs < runs and len(self.findings) < hypotheses:
            seeds = [self.fresh(), self.fresh()]
            bars = [self.run(self.branch, seed) for seed in seeds]
            asked = kept = 0
            while asked < per_round and kept < keeps and self.runs < runs and len(self.findings) < hypotheses:
                proposal = self.proposer.propose(self.briefing())
                self.proposals.append(proposal)
                self.space = edited(self.space, proposal.space_edits)
                self.edits += [(self.round, edit.op, edit.key) for edit in proposal.space_edits]
                if not proposal.hypotheses:
                    return self
                asked += len(proposal.hypotheses)
                kept += sum([self.screen(one, seeds, bars) for one in proposal.hypotheses])
            self.gate()
            self.round += 1
        return self

    def screen(self, hypothesis: Hypothesis, seeds: list[int], bars: list[float | None]) -> bool:
        """The keep rule: better on the first seed; then a better sum, and not clearly worse on the second."""
        config = {**self.branch, **hypothesis.overrides}
        before = {key: self.branch[key] for key in hypothesis.overrides}
        if canonical(config) in self.tried:
            return False
        self.tried.add(canonical(config))
        losses: list[float] = []
        for seed, bar in zip(seeds, bars, strict=True):
            loss = self.run(config, seed)
            if loss is None or bar is None:
                return self.conclude(hypothesis, before, None, kept=False)
            losses.append(bar - loss)
            if losses[0] <= 0:
                return self.conclude(hypothesis, before, losses[0], kept=False)
        kept = sum(losses) > 0 and losses[1] > -0.5 * GAIN_SD
        if kept:
            self.branch = config
            bars[:] = [bar - gain for bar, gain in zip(bars, losses, strict=True) if bar is not None]
        return self.conclude(hypothesis, before, statistics.fmean(losses), kept=kept)

    def conclude(self, hypothesis: Hypothesis, before: Mapping[str, Value], gain: float | None, *, kept: bool) -> bool:
        status = TrialStatus.FINISHED if gain is not None else TrialStatus.NOT_FINITE
        finding = Finding(hypothesis=hypothesis, before=before, gain=gain, kept=kept, status=status, round=self.round)
        self.findings.append(finding)
        return kept

    def gate(self) -> None:
        """Three fresh pairs of branch against incumbent; the branch is forgotten if they are worse on average."""
        if self.branch == self.incumbent:
            return
        pairs = [
            (self.run(self.incumbent, seed), self.run(self.branch, seed)) for seed in [self.fresh() for _ in range(3)]
        ]
        gains = [old - new for old, new in pairs if old is not None and new is not None]
        self.incumbent = dict(self.branch) if sum(gains) > 0 else dict(self.incumbent)
        self.branch = dict(self.incumbent)

    @property
    def regret(self) -> float:
        return self.world.regret(self.branch)

    @property
    def failed_share(self) -> float:
        return statistics.fmean(finding.gain is None for finding in self.findings)


class OneRandomKnob:
    """The rival: one key at random, set to a random value within reach, never the same configuration twice."""

    def propose(self, briefing: Briefing) -> Proposal:
        rng = random.Random(briefing.seed)
        seen, found = set(briefing.tried), []
        for _ in range(200):
            key = rng.choice(list(briefing.space))
            domain, old = briefing.space[key], briefing.branch[key]
            value = (
                rng.choice(domain.choices)
                if isinstance(domain, Categorical)
                else self._value(domain, old, rng, briefing.max_factor)
            )
            name = canonical({**briefing.branch, key: value})
            if len(found) < briefing.wanted and name not in seen and within_factor(old, value, briefing.max_factor):
                seen.add(name)
                prediction = Prediction(gain=0.0, probability=0.2)
                found.append(
                    Hypothesis(
                        id="h", statement="", mechanism="", source="", overrides={key: value}, prediction=prediction
                    )
                )
        return Proposal(hypotheses=tuple(found), source="random")

    def _value(self, domain: Float | Integer, old: float, rng: random.Random, most: float) -> float:
        low, high = (
            domain.to_unit(max(domain.low, old / most)) if old > 0 else 0.0,
            domain.to_unit(min(domain.high, old * most)) if old > 0 else 1.0,
        )
        return domain.from_unit(rng.uniform(low, high))


@functools.cache
def searched(proposer: type, seed: int, *, highest_lr: float = 1.0) -> Lab:
    lab = Lab(training_world(highest_lr=highest_lr), proposer(), seed=seed)
    return lab.search(runs=110, hypotheses=60)


# ------------------------------------------------------------------------------------------------- on simulated tasks
def test_sixty_hypotheses_come_near_the_optimum():
    regrets = [searched(Sampler, seed).regret for seed in range(4)]
    assert sum(regret < 0.1 for regret in regrets) >= 3, regrets


@pytest.mark.slow
def test_sixty_hypotheses_come_near_the_optimum_in_most_repetitions():
    regrets = [searched(Sampler, seed).regret for seed in range(24)]
    assert sum(regret < 0.1 for regret in regrets) >= 20, regrets


@pytest.mark.slow
def test_it_beats_random_changes_of_one_knob_at_equal_numbers_of_runs():
    ours = [searched(Sampler, seed).regret for seed in range(24)]
    theirs = [searched(OneRandomKnob, seed).regret for seed in range(24)]
    differences = [rival - own for own, rival in zip(ours, theirs, strict=True)]
    print(f"median regret {statistics.median(ours):.3f} against {statistics.median(theirs):.3f}")
    assert statistics.median(differences) > 0.0
    assert sum(difference > 0 for difference in differences) >= 17, "a sign test at the 5 % level"


@pytest.mark.slow
def test_it_beats_random_changes_of_one_knob_on_random_tasks():
    differences = []
    for number in range(30):
        world = random_world(number)
        own, rival = (Lab(world, make(), seed=number).search(runs=90).regret for make in (Sampler, OneRandomKnob))
        differences.append(rival - own)
    assert statistics.median(differences) > 0.0
    assert sum(difference > 0 for difference in differences) >= 20, "a sign test at the 5 % level"


def test_it_widens_the_bound_that_the_optimum_lies_behind_and_goes_on():
    labs = [searched(Sampler, seed, highest_lr=0.1) for seed in range(4)]
    assert sum(any(edit[1:] == ("widen", "lr") for edit in lab.edits) for lab in labs) >= 3
    assert sum(lab.branch["lr"] > 0.1 for lab in labs) >= 3


def test_no_bound_is_widened_twice_in_a_round():
    for seed in range(4):
        widened = [edit for edit in searched(Sampler, seed, highest_lr=0.1).edits if edit[1] == "widen"]
        assert len(set(widened)) == len(widened)


def test_it_freezes_the_knob_that_does_nothing_and_no_other():
    frozen = [{key for _, op, key in searched(Sampler, seed).edits if op == "freeze"} for seed in range(4)]
    assert sum(keys == {"momentum"} for keys in frozen) >= 3
    assert set().union(*frozen) <= {"momentum"}


def test_a_frozen_knob_is_left_alone():
    for seed in range(4):
        lab = searched(Sampler, seed)
        keys = set(lab.world.space)
        for proposal in lab.proposals:
            keys -= {edit.key for edit in proposal.space_edits if edit.op == "freeze"}
            assert all(set(one.overrides) <= keys for one in proposal.hypotheses)


def test_a_failed_region_is_not_proposed_again_and_again():
    shares = []
    for seed in range(4):
        lab = Lab(cliff_world(), Sampler(), seed=seed).search(runs=90)
        shares.append(lab.failed_share)
    assert statistics.fmean(shares) <= 0.15, shares
    assert max(shares) <= 0.25, shares


def test_a_bound_is_not_widened_over_a_region_that_failed():
    for seed in range(4):
        lab = Lab(cliff_world(), Sampler(), seed=seed).search(runs=90)
        assert not [edit for edit in lab.edits if edit[1] == "widen" and edit[2] == "rate"]


def test_a_finite_space_is_searched_to_its_end():
    domains = {"a": Categorical(choices=(1, 2, 3)), "b": Integer(low=1, high=3), "c": Categorical(choices=(True, None))}
    world = World(space=SearchSpace(domains=domains), base={"a": 1, "b": 1, "c": True}, truth=lambda config: 1.0)
    lab = Lab(world, Sampler()).search(runs=10_000)
    reached = {canonical(config) for config in (measurement.config for measurement in lab.measurements)}
    assert not lab.proposals[-1].hypotheses
    assert len(reached) == 3 * 3 * 2


# ---------------------------------------------------------------------------------------------------------- one by one
LR = {"lr": Float(low=1e-4, high=0.1, scale="log"), "x": Float(low=0.0, high=1.0), "n": Integer(low=1, high=8)}
START = {"lr": 0.003, "x": 0.5, "n": 2}


def told(tests: Sequence[Finding] = (), branch: Mapping[str, Value] = START, **changes) -> Briefing:
    blank = Briefing(
        goal="",
        metric="loss",
        mode="min",
        round=1,
        wanted=3,
        space=SearchSpace(domains=LR),
        base=START,
        incumbent=START,
        branch=branch,
        measurements=(),
        findings=tuple(tests),
        gain_sd=0.01,
        max_changes=2,
        max_factor=4.0,
        trials_left=100,
        seed=3,
        tried=frozenset({canonical({**START, **one.hypothesis.overrides}) for one in tests}),
    )
    return replace(blank, **changes)


def finding(
    key: str, before: Value, after: Value, gain: float | None, *, kept: bool = False, round: int = 1
) -> Finding:
    hypothesis = Hypothesis(
        id="h",
        statement="",
        mechanism="",
        source="",
        overrides={key: after},
        prediction=Prediction(gain=0.0, probability=0.5),
    )
    status = TrialStatus.FINISHED if gain is not None else TrialStatus.OUT_OF_MEMORY
    return Finding(hypothesis=hypothesis, before={key: before}, gain=gain, kept=kept, status=status, round=round)


def measured(config: Mapping[str, Value], loss: float | None, pair: int = 0) -> Measurement:
    status = TrialStatus.FINISHED if loss is not None else TrialStatus.NOT_FINITE
    return Measurement(config={**START, **config}, pair=pair, status=status, objective=loss)


def edits_of(briefing: Briefing) -> dict[str, SpaceEdit]:
    return {edit.key: edit for edit in Sampler().propose(briefing).space_edits}


def test_the_first_batch_touches_every_key_once():
    keys = [set(one.overrides) for one in Sampler().propose(told()).hypotheses]
    assert sorted(map(sorted, keys)) == [["lr"], ["n"], ["x"]]


def test_a_first_step_of_a_log_scale_is_a_factor_between_two_and_the_largest():
    for seed in range(30):
        for one in Sampler().propose(told(seed=seed)).hypotheses:
            if "lr" in one.overrides:
                assert math.log(1.98) < abs(math.log(one.overrides["lr"] / 0.003)) <= math.log(4.0)


def test_a_kept_step_is_followed_by_one_of_the_same_size():
    start = told([finding("lr", 0.003, 0.009, 0.05, kept=True)], branch={**START, "lr": 0.009})
    [first, *_] = Sampler().propose(start).hypotheses
    assert first.overrides == {"lr": 0.027}
    assert (
        first.statement
        == "raise lr from 0.009 to 0.027: the step before it, from 0.003 to 0.009, gained 0.05 and was kept"
    )
    assert first.mechanism == "Tests of lr alone so far: 1 upward (mean gain 0.05)."


def test_the_step_is_halved_after_one_that_went_too_far():
    tests = [finding("x", 0.1, 0.5, 0.05, kept=True), finding("x", 0.5, 0.9, -0.01)]
    [first, *_] = Sampler().propose(told(tests)).hypotheses
    assert first.overrides == {"x": 0.7}


def test_a_failure_on_the_far_side_halves_the_way_to_it():
    tests = [finding("x", 0.1, 0.5, 0.05, kept=True), finding("x", 0.5, 0.7, None)]
    [first, *_] = Sampler().propose(told(tests)).hypotheses
    assert 0.5 < first.overrides["x"] <= 0.6


def test_two_changes_that_gained_alone_are_combined():
    tests = [finding("lr", 0.003, 0.006, 0.004), finding("x", 0.5, 0.7, 0.003), finding("n", 2, 3, -0.01)]
    [first, *_] = Sampler().propose(told(tests)).hypotheses
    assert first.overrides == {"lr": 0.006, "x": 0.7}
    assert "tested alone they gained 0.004 and 0.003" in first.statement


def test_no_combination_is_proposed_where_one_change_is_the_limit():
    tests = [finding("lr", 0.003, 0.006, 0.004), finding("x", 0.5, 0.7, 0.003)]
    assert all(len(one.overrides) == 1 for one in Sampler().propose(told(tests, max_changes=1)).hypotheses)


def test_infrastructure_failures_say_nothing():
    lost = replace(finding("lr", 0.003, 0.01, None), status=TrialStatus.LOST)
    ledger = Ledger(
        told([lost], measurements=(replace(measured({"lr": 0.01}, None), status=TrialStatus.VOID),)),
        SearchSpace(domains=LR),
    )
    assert ledger.steps == ()
    assert ledger.configs == []
    assert ledger.cliffs == {}


def test_a_cliff_falls_when_something_finishes_beyond_it():
    tests = [finding("x", 0.5, 0.7, None)]
    space = SearchSpace(domains=LR)
    assert Ledger(told(tests), space).cliffs == {("x", 1): 0.7}
    assert Ledger(told(tests, measurements=(measured({"x": 0.8}, 1.0),)), space).cliffs == {}


def prediction_for_lr(tests: Sequence[Finding], branch: Mapping[str, Value] = START) -> Prediction:
    hypotheses = Sampler().propose(told(tests, branch=branch, wanted=30)).hypotheses
    return next(one.prediction for one in hypotheses if set(one.overrides) == {"lr"})


def test_evidence_moves_the_prediction():
    blank = prediction_for_lr([])
    good = prediction_for_lr([finding("lr", 0.003, 0.009, 0.05, kept=True)], branch={**START, "lr": 0.009})
    bad = prediction_for_lr([finding("lr", 0.003, value, -0.02) for value in (0.001, 0.0015, 0.006, 0.009)])
    assert blank == Prediction(gain=0.0, probability=pytest.approx(PRIOR_KEEP * (1 - FAILURE_PRIOR)))
    assert good.gain > 0 > bad.gain
    assert good.probability > blank.probability > bad.probability


@pytest.mark.slow
def test_predictions_are_better_than_a_constant():
    pairs = [(one.hypothesis.prediction, one) for seed in range(12) for one in searched(Sampler, seed).findings]
    rate = statistics.fmean(one.kept for _, one in pairs)
    brier = statistics.fmean((prediction.probability - one.kept) ** 2 for prediction, one in pairs)
    gains = [(prediction.gain, one.gain) for prediction, one in pairs if one.gain is not None]
    agreement = statistics.correlation(*zip(*gains, strict=True))
    print(f"Brier score {brier:.3f}, of the keep rate {rate * (1 - rate):.3f}; correlation of gains {agreement:.2f}")
    assert brier < rate * (1 - rate)
    assert agreement > 0.2


def test_failures_are_told_to_optuna_as_failures_and_never_as_numbers():
    runs = [measured({"x": number / 10}, 1.0 + number) for number in range(8)] + [measured({"x": 0.95}, None)]
    study = _study(Ledger(told(measurements=tuple(runs)), SearchSpace(domains=LR)), 0)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 8 + ["FAIL"]
    assert study.trials[-1].value is None


def test_the_objective_is_turned_so_that_smaller_is_better():
    runs = tuple(measured({"x": number / 10}, float(number)) for number in range(8))
    study = _study(Ledger(told(measurements=runs, mode="max"), SearchSpace(domains=LR)), 0)
    assert study.best_params["x"] == 0.7


def test_measurements_outside_the_present_space_are_left_out():
    runs = tuple(measured({"x": number / 8}, float(number)) for number in range(9))
    narrow = SearchSpace(domains={**LR, "x": Float(low=0.0, high=0.8)})
    study = _study(Ledger(told(measurements=runs, space=narrow), narrow), 0)
    assert len(study.trials) == 7


def test_choices_may_grow():
    runs = tuple(measured({"act": act, "x": number / 8}, float(number)) for number, act in enumerate("ababab"))
    space = SearchSpace(domains={"act": Categorical(choices=("a", "b", "new")), "x": LR["x"]})
    branch = {"act": "a", "x": 0.5}
    briefing = told(branch=branch, incumbent=branch, space=space, measurements=runs)
    assert any(one.overrides.get("act") == "new" for one in Sampler().propose(briefing).hypotheses)
    assert len(_study(Ledger(briefing, space), 0).trials) == 6


def test_the_luck_of_seeds_is_taken_out_of_the_means():
    truth, luck = {"a": 1.0, "b": 0.5, "c": 0.8}, {0: 0.3, 1: -0.3, 2: 0.0}
    ran = {"a": (0, 1, 2), "b": (0, 1, 2), "c": (0,)}
    runs = {name: [(pair, truth[name] + luck[pair]) for pair in pairs] for name, pairs in ran.items()}
    means = corrected_means(runs)
    assert means["c"] == pytest.approx(0.8, abs=0.15), "without correction 1.1"
    assert means["b"] < means["c"] < means["a"]


def test_optuna_says_nothing(capfd):
    runs = tuple(measured({"x": number / 8}, float(number)) for number in range(9))
    Sampler().propose(told(measurements=runs, wanted=8))
    assert capfd.readouterr() == ("", "")


def test_importing_the_sampler_does_not_import_optuna():
    code = "import sys, lightning_autoresearch.sampler; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("count", "limit_seconds"), [(200, 0.5), (2000, 10.0)])
def test_a_proposal_is_quick(count, limit_seconds):
    rng = random.Random(1)
    runs, tests = [], []
    for number in range(count):
        key = rng.choice(list(LR))
        value = LR[key].from_unit(rng.random())
        runs.append(measured({key: value, "x": rng.random()}, None if number % 20 == 0 else rng.random(), number // 10))
        tests.append(finding(key, START[key], value, rng.gauss(-0.02, 0.01), round=1 + number // 50))
    briefing = told(tests, measurements=tuple(runs), wanted=4)
    Sampler().propose(briefing)
    started = time.process_time()
    assert Sampler().propose(briefing).hypotheses
    seconds = time.process_time() - started
    print(f"{count} measurements: {seconds:.2f} s")
    assert seconds < limit_seconds


# ------------------------------------------------------------------------------------------------- rules for the space
OUTWARD = (finding("lr", 0.01, 0.04, 0.05, kept=True), finding("lr", 0.04, 0.1, 0.03, kept=True))


def test_a_log_bound_moves_by_the_largest_factor():
    edit = edits_of(told(OUTWARD, branch={**START, "lr": 0.1}))["lr"]
    assert (edit.op, edit.domain) == ("widen", Float(low=1e-4, high=0.4, scale="log"))
    assert "leans on the bound 0.1" in edit.why


def test_a_linear_bound_moves_by_half_the_width():
    tests = [finding("x", 0.5, 0.75, 0.02, kept=True), finding("x", 0.75, 1.0, 0.02, kept=True)]
    edit = edits_of(told(tests, branch={**START, "x": 1.0}))["x"]
    assert edit.domain == Float(low=0.0, high=1.5)


def test_a_bound_never_crosses_zero():
    tests = [finding("x", 0.5, 0.25, 0.02, kept=True), finding("x", 0.25, 0.0, 0.02, kept=True)]
    assert "x" not in edits_of(told(tests, branch={**START, "x": 0.0}))


def test_a_positive_linear_bound_stays_positive():
    space = SearchSpace(domains={**LR, "x": Float(low=0.1, high=1.0)})
    tests = [finding("x", 0.3, 0.1, 0.02, kept=True)]
    assert edits_of(told(tests, branch={**START, "x": 0.1}, space=space))["x"].domain == Float(low=0.025, high=1.0)


def test_whole_numbers_are_not_widened_below_one():
    tests = [finding("n", 2, 1, 0.02, kept=True)]
    assert "n" not in edits_of(told(tests, branch={**START, "n": 1}))
    space = SearchSpace(domains={**LR, "n": Integer(low=2, high=8)})
    tests = [finding("n", 3, 2, 0.02, kept=True)]
    assert edits_of(told(tests, space=space))["n"].domain == Integer(low=1, high=8)


def test_leaning_without_a_trend_widens_nothing():
    assert "lr" not in edits_of(told(branch={**START, "lr": 0.1}))
    inward = [finding("lr", 0.1, 0.05, 0.05)]
    assert "lr" not in edits_of(told(inward, branch={**START, "lr": 0.1}))


def test_a_failure_at_the_bound_keeps_it_where_it_is():
    failed = (measured({"lr": 0.098, "n": 8}, None),)
    assert "lr" not in edits_of(told(OUTWARD, branch={**START, "lr": 0.1}, measurements=failed))


def test_a_bound_that_was_passed_in_this_round_waits_for_the_next():
    tests = [*OUTWARD, finding("lr", 0.1, 0.4, 0.03, kept=True)]
    space = SearchSpace(domains={**LR, "lr": Float(low=1e-4, high=0.4, scale="log")})
    assert "lr" not in edits_of(told(tests, branch={**START, "lr": 0.4}, space=space))
    assert edits_of(told(tests, branch={**START, "lr": 0.4}, space=space, round=2))["lr"].op == "widen"


def test_hypotheses_use_the_widened_range_at_once():
    [first, *_] = Sampler().propose(told(OUTWARD, branch={**START, "lr": 0.1})).hypotheses
    assert first.overrides == {"lr": 0.25}


INERT = (finding("x", 0.5, 0.7, 0.0), finding("x", 0.5, 0.3, 0.0005), finding("x", 0.5, 0.9, -0.0005))


def test_a_key_that_does_nothing_is_frozen():
    edit = edits_of(told(INERT))["x"]
    assert (edit.op, edit.domain) == ("freeze", None)
    assert edit.why == "3 tests of x alone changed the objective by 0.0005 at most, the noise is 0.01; it stays at 0.5"


@pytest.mark.parametrize(
    "tests",
    [
        INERT[:2],
        (*INERT, finding("x", 0.5, 0.1, 0.002)),
        (*INERT, finding("x", 0.5, 0.1, None)),
        tuple(finding("x", 0.5, value, 0.0) for value in (0.6, 0.7, 0.8)),
        tuple(finding("x", 0.5, value, 0.0) for value in (0.3, 0.7, 0.7)),
    ],
    ids=["too few tests", "one had an effect", "one failed", "one direction only", "too few values"],
)
def test_a_key_is_not_frozen_on_weak_evidence(tests):
    assert "x" not in edits_of(told(tests))


def test_the_last_key_is_never_frozen():
    space = SearchSpace(domains={"x": LR["x"]})
    assert edits_of(told(INERT, space=space)) == {}


def test_a_range_is_narrowed_where_every_far_test_was_clearly_worse():
    values = (0.05, 0.1, 0.8, 0.95, 0.4, 0.45, 0.6, 0.55)
    tests = [finding("x", 0.5, value, -0.05 if abs(value - 0.5) > 0.25 else -0.002) for value in values]
    runs = tuple(measured({"x": value}, 1.0) for value in values)
    edit = edits_of(told(tests, measurements=runs))["x"]
    assert (edit.op, edit.domain) == ("narrow", Float(low=0.25, high=0.75))
    assert "x" not in edits_of(told(tests, measurements=runs[:7])), "seven values are too few"
    assert "x" not in edits_of(told(tests, measurements=runs, gain_sd=0.06)), "not worse than the noise"


def test_narrowing_keeps_a_factor_around_the_incumbent_and_the_branch():
    values = (1e-4, 1.5e-4, 0.05, 0.09, 0.002, 0.004, 0.006, 0.0015)
    tests = [finding("lr", 0.003, value, -0.05 if not 0.001 < value < 0.02 else -0.002) for value in values]
    runs = tuple(measured({"lr": value}, 1.0) for value in values)
    edit = edits_of(told(tests, measurements=runs, branch={**START, "lr": 0.006}))["lr"]
    assert edit.domain == Float(low=0.00075, high=0.024, scale="log")
