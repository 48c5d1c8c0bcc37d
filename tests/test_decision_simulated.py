"""The error guarantee and the power of the rules, in simulated worlds where the truth is known.

Unit: the standard deviation of one training run over seeds, or of one paired gain, is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import stdtr

from lightning_autoresearch.decision import ErrorStream, Verdict, gate, rule_for
from lightning_autoresearch.evidence import NoisePool, smallest_resolvable_gain, weigh
from lightning_autoresearch.spec import DecisionRule

Array = NDArray[np.float64]

PAIRS = 10
ALPHA = 0.1
FIRST = ErrorStream(alpha=ALPHA).threshold


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Many gates at once, (gates, pairs) each: what `weigh` says after every pair.  Used only to be fast."""

    e: Array
    t: Array
    mean: Array
    width: Array

    def ends(self, threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Whether each gate promotes, and at which pair (counted from 0) it ends."""
        promote, fail = self.e >= threshold, self.t < 0.5
        promote[:, 0], fail[:, :2], fail[:, -1] = False, False, True
        end = (promote | fail).argmax(axis=1)
        return promote[np.arange(len(end)), end], end


def look(gains: Array, *, variance: Array, degrees: float, tau: float = 2.0, level: float = 0.95) -> Looks:
    n = np.arange(1, gains.shape[1] + 1)
    mean = np.cumsum(gains, axis=1) / n
    squares = np.maximum(np.cumsum(gains**2, axis=1) - n * mean**2, 0)
    credit = min(degrees, 3.0)
    nu, g = credit + n - 1, n * tau**2
    v = np.maximum((credit * variance[:, None] + squares) / nu, squares / np.maximum(n - 1, 1))
    t = mean * np.sqrt(n / v)
    rest = (nu * (1 + g) + t**2) / ((1 + g) * (nu + t**2))  # 1 - k
    e = 2 / np.sqrt(1 + g) * rest ** (-(nu + 1) / 2)
    e *= stdtr(nu + 1, np.sign(t) * np.sqrt((nu + 1) * (1 / rest - 1)))
    c = ((1 + g) / (1 - level) ** 2) ** (-1 / (nu + 1))
    room = g - (1 - c) * (1 + g)
    width = np.where(room > 0, np.sqrt(nu * (1 - c) * (1 + g) / np.where(room > 0, room, 1) * v / n), math.inf)
    return Looks(e=e, t=t, mean=mean, width=width)


def calibrated(rng: np.random.Generator, count: int, *, degrees: float = 7.0) -> Array:
    """Variances that pools with so many degrees of freedom would report where the truth is 1."""
    return rng.chisquare(degrees, count) / degrees


def pool_with(variance: float, degrees: float = 7.0) -> NoisePool:
    return NoisePool(sum_squares=variance * degrees, degrees=degrees)


# -- the accelerator against what is shipped


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.parametrize("degrees", [2.0, 3.0, 7.0])
def test_the_accelerator_says_what_weigh_says(degrees: float, tau: float) -> None:
    rng = np.random.default_rng(11)
    gains = rng.normal(rng.normal(size=(40, 1)), rng.uniform(0.2, 3.0, size=(40, 1)), size=(40, PAIRS))
    variance = rng.uniform(0.1, 4.0, size=40)
    looks = look(gains, variance=variance, degrees=degrees, tau=tau)
    for row in range(40):
        for n in range(1, PAIRS + 1):
            evidence = weigh(gains[row, :n].tolist(), pool=pool_with(variance[row], degrees), tau=tau)
            assert looks.e[row, n - 1] == pytest.approx(evidence.e_value, rel=1e-7)
            assert looks.t[row, n - 1] == pytest.approx(evidence.t, rel=1e-7, abs=1e-9)
            assert looks.mean[row, n - 1] + looks.width[row, n - 1] == pytest.approx(evidence.high, rel=1e-7)
            assert looks.mean[row, n - 1] - looks.width[row, n - 1] == pytest.approx(evidence.low, rel=1e-7)


@pytest.mark.parametrize("threshold", [20.0, FIRST])
def test_the_accelerator_ends_gates_as_gate_does(threshold: float) -> None:
    rng = np.random.default_rng(12)
    gains = rng.normal(rng.uniform(-0.5, 2.5, size=(200, 1)), 1.0, size=(200, PAIRS))
    variance = calibrated(rng, 200)
    promoted, end = look(gains, variance=variance, degrees=7.0).ends(threshold)
    for row in range(200):
        ended = run_gate(iter(gains[row].tolist()).__next__, pool=pool_with(variance[row]), level=1 / threshold)
        assert (ended.verdict is Verdict.PROMOTE, len(ended.gains)) == (promoted[row], end[row] + 1)
    assert 20 < promoted.sum() < 180


# -- the error of one gate


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [3.0, 7.0])
def test_without_a_gain_the_e_value_at_the_end_of_a_gate_is_at_most_one_on_average(degrees: float) -> None:
    rng = np.random.default_rng(1)
    count = 400_000
    looks = look(rng.standard_normal((count, PAIRS)), variance=calibrated(rng, count, degrees=degrees), degrees=degrees)
    _, end = looks.ends(20.0)
    final = looks.e[np.arange(count), end]
    assert final.mean() + 4 * final.std() / math.sqrt(count) < 1
    assert final.mean() > 0.5  # an e-value that is far below 1 would waste power


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [3.0, 7.0])
def test_without_a_gain_an_e_value_of_20_is_ever_reached_less_often_than_one_time_in_20(degrees: float) -> None:
    rng = np.random.default_rng(2)
    looks = look(
        rng.standard_normal((200_000, PAIRS)), variance=calibrated(rng, 200_000, degrees=degrees), degrees=degrees
    )
    assert 0.005 < (looks.e.max(axis=1) >= 20).mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("degrees", [3.0, 7.0])
def test_the_interval_covers_the_true_gain_after_all_pairs_at_once(degrees: float, level: float) -> None:
    rng = np.random.default_rng(3)
    gains = 0.7 + rng.standard_normal((200_000, PAIRS))
    looks = look(gains, variance=calibrated(rng, 200_000, degrees=degrees), degrees=degrees, level=level)
    covered = (np.abs(looks.mean - 0.7) <= looks.width).all(axis=1).mean()
    assert level <= covered < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "threshold", "share"), [(2.0, 20.0, 0.035), (5.0, 20.0, 0.079), (2.0, FIRST, 0.008), (5.0, FIRST, 0.024)]
)
def test_a_candidate_noisier_than_the_pool_is_promoted_as_often_as_the_gates_docstring_says(
    spread: float, threshold: float, share: float
) -> None:
    assert f"{share:.3f}" in (gate.__doc__ or "")
    gains = spread * np.random.default_rng(4).standard_normal((200_000, PAIRS))
    promoted, _ = look(gains, variance=np.ones(200_000), degrees=7.0).ends(threshold)
    assert promoted.mean() == pytest.approx(share, abs=0.002)


# -- the power of one gate


def test_a_bundle_gain_of_two_sd_is_promoted_in_about_six_pairs_with_a_power_of_about_96_percent() -> None:
    rng = np.random.default_rng(5)
    gains = 2.0 + rng.standard_normal((50_000, PAIRS))
    promoted, end = look(gains, variance=calibrated(rng, 50_000), degrees=7.0).ends(FIRST)
    assert promoted.mean() == pytest.approx(0.96, abs=0.01)
    assert (end[promoted] + 1).mean() == pytest.approx(5.8, abs=0.5)


@pytest.mark.parametrize(("power", "max_pairs"), [(0.8, 10), (0.5, 10), (0.8, 6)])
def test_the_smallest_resolvable_gain_is_promoted_with_the_power_that_was_asked_for(
    power: float, max_pairs: int
) -> None:
    pool = NoisePool(sum_squares=7 * 0.01**2, degrees=7.0)
    gain = smallest_resolvable_gain(pool=pool, level_alpha=1 / FIRST, max_pairs=max_pairs, tau=2.0, power=power)
    rng = np.random.default_rng(6)
    promoted = [
        run_gate(lambda: rng.normal(gain, 0.01), pool=pool, level=1 / FIRST, max_pairs=max_pairs).verdict
        is Verdict.PROMOTE
        for _ in range(1500)
    ]
    assert np.mean(promoted) == pytest.approx(power, abs=0.04)


# -- whole studies


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A gate that has ended."""

    verdict: Verdict
    gains: list[float]


def run_gate(pair: Callable[[], float], *, pool: NoisePool, level: float, max_pairs: int = PAIRS) -> Ended:
    gains: list[float] = []
    while True:
        gains.append(pair())
        if decision := gate(gains, pool=pool, level=level, max_pairs=max_pairs):
            return Ended(verdict=decision.verdict, gains=gains)


@dataclass
class World:
    """Training runs whose true loss is known: noise of sd 1, of which a share is common to runs of equal seed."""

    rng: np.random.Generator
    correlation: float
    seeds: dict[int, float] = field(default_factory=dict)

    def fresh(self) -> int:
        self.seeds[len(self.seeds)] = self.rng.standard_normal()
        return len(self.seeds) - 1

    def run(self, loss: float, seed: int) -> float:
        common, own = math.sqrt(self.correlation), math.sqrt(1 - self.correlation)
        return loss + common * self.seeds[seed] + own * float(self.rng.standard_normal())


@dataclass
class Study:
    """A study of a fixed number of proposals under a rule; `proposal` draws the true gain of one."""

    world: World
    decision: DecisionRule
    proposal: Callable[[np.random.Generator], float]
    kept: list[float] = field(default_factory=list)
    """True gains of single changes that are in the confirmed configuration at the end."""
    gates: list[tuple[float, Verdict]] = field(default_factory=list)
    """True gain of each gated branch, and the verdict."""
    provisional: list[float] = field(default_factory=list)

    def go(self, proposals: int) -> Study:
        self.rule = rule_for(self.decision)
        baseline = [self.world.fresh() for _ in range(self.decision.calibration_seeds)]
        values = [self.world.run(0.0, seed) for seed in baseline]
        self.pool, self.stream = NoisePool.from_baseline(values), ErrorStream(alpha=self.decision.alpha)
        self.bars = list(zip(baseline, values, strict=True))[: self.rule.seeds_per_screen]
        since = 0
        for _ in range(proposals):
            self.screen(self.proposal(self.world.rng))
            since += 1
            full = len(self.provisional) >= self.decision.keeps_per_round
            if self.rule.gated and (full or since >= self.decision.proposals_per_round):
                self.close()
                since = 0
        self.close()
        return self

    def screen(self, gain: float) -> None:
        loss, runs, gains = -sum(self.kept) - sum(self.provisional) - gain, [], []
        for seed, bar in self.bars:
            runs.append((seed, self.world.run(loss, seed)))
            gains.append(bar - runs[-1][1])
            if decision := self.rule.screen(gains, noise_sd=self.pool.sd):
                break
        assert decision is not None
        if decision.verdict is Verdict.KEEP:
            (self.provisional if self.rule.gated else self.kept).append(gain)
            self.bars = runs

    def close(self) -> None:
        if not self.provisional:
            return
        incumbent, branch = -sum(self.kept), -sum(self.kept) - sum(self.provisional)
        champion: list[tuple[int, float]] = []
        challenger: list[tuple[int, float]] = []

        def pair() -> float:
            seed = self.world.fresh()
            champion.append((seed, self.world.run(incumbent, seed)))
            challenger.append((seed, self.world.run(branch, seed)))
            return champion[-1][1] - challenger[-1][1]

        ended = run_gate(pair, pool=self.pool, level=self.stream.level, max_pairs=self.decision.gate_pairs)
        self.pool, self.stream = self.pool.add(ended.gains), self.stream.after(ended.verdict)
        self.gates.append((incumbent - branch, ended.verdict))
        promoted = ended.verdict is Verdict.PROMOTE
        if promoted:
            self.kept += self.provisional
        self.provisional = []
        self.bars = (challenger if promoted else champion)[: self.rule.seeds_per_screen]

    @property
    def promotions(self) -> list[float]:
        return [gain for gain, verdict in self.gates if verdict is Verdict.PROMOTE]


def null(rng: np.random.Generator) -> float:
    return 0.0


def rich(rng: np.random.Generator) -> float:
    """30 % of the proposals are gains of 0.2 to 2 sd of a run, 35 % are as bad, the rest does nothing."""
    kind, size = rng.random(), float(rng.uniform(0.2, 2.0))
    return size if kind < 0.3 else -size if kind < 0.65 else 0.0


def studies(
    count: int, *, decision: DecisionRule, proposal: Callable[[np.random.Generator], float], correlation: float = 0.0
) -> list[Study]:
    rngs = [np.random.default_rng([7, number]) for number in range(count)]
    worlds = [World(rng=rng, correlation=correlation) for rng in rngs]
    return [Study(world=world, decision=decision, proposal=proposal).go(100) for world in worlds]


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_of_a_hundred_null_proposals_the_gate_promotes_any_less_often_than_alpha(correlation: float) -> None:
    done = studies(250, decision=DecisionRule(alpha=ALPHA), proposal=null, correlation=correlation)
    assert np.mean([bool(study.promotions) for study in done]) < ALPHA
    gates = np.mean([len(study.gates) for study in done])
    assert gates > 1.5  # screens do keep nulls, leniently; it is the gate that refuses them


@pytest.mark.slow
def test_a_looser_alpha_promotes_more_nulls_but_fewer_than_it_says() -> None:
    strict, loose = (
        np.mean([bool(study.promotions) for study in studies(250, decision=DecisionRule(alpha=alpha), proposal=null)])
        for alpha in (ALPHA, 0.9)
    )
    assert strict < ALPHA
    assert strict < loose < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_in_a_rich_stream_the_gate_finds_real_gain_and_promotes_no_branch_that_has_none(correlation: float) -> None:
    done = studies(80, decision=DecisionRule(alpha=ALPHA), proposal=rich, correlation=correlation)
    false = [np.mean([gain <= 0 for gain in study.promotions] or [0.0]) for study in done]
    assert np.mean(false) <= ALPHA
    gains = [sum(study.kept) for study in done]
    assert np.mean(gains) > 8
    assert np.quantile(gains, 0.1) > 3


@pytest.mark.slow
def test_the_greedy_rule_keeps_several_of_a_hundred_null_proposals() -> None:
    greedy = studies(100, decision=DecisionRule(rule="greedy"), proposal=null)
    mean = studies(100, decision=DecisionRule(rule="mean"), proposal=null)
    assert 3.5 < np.mean([len(study.kept) for study in greedy]) < 5.0
    assert np.mean([len(study.kept) for study in mean]) > 3  # averaging narrows the noise and the bar alike
