"""Simulated tasks for tests of proposers: a true function of the knobs, noise shared within a seed, cliffs."""

from __future__ import annotations

import functools
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightning_autoresearch.hypothesis import Briefing, Finding, Hypothesis, Measurement, Prediction, Proposal, Proposer
from lightning_autoresearch.ledger import within_factor
from lightning_autoresearch.reshape import edited
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
        """One run: a seed shifts every configuration by a common amount and each by its own; inert keys do nothing."""
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
