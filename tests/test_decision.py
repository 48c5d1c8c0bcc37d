"""What is kept, promoted, failed and void; the error stream against an independent implementation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from online_fdr.core.abstract.abstract_gamma_seq import AbstractGammaSequence
from online_fdr.e_values.sequential import ELond

from lightning_autoresearch.decision import (
    Decision,
    ErrorStream,
    GateRule,
    MeanRule,
    Verdict,
    drop_failed,
    gate,
    gate_failed,
    rule_for,
    screen,
)
from lightning_autoresearch.evidence import NoisePool, weigh
from lightning_autoresearch.spec import DecisionRule
from lightning_autoresearch.trial import TrialStatus

POOL = NoisePool(sum_squares=7.0, degrees=7.0)
LEVEL = ErrorStream(alpha=0.1).level


def verdict_of(decision: Decision | None) -> Verdict | None:
    return decision.verdict if decision else None


# -- the error stream


class FlatStart(AbstractGammaSequence):
    """The weights of the stream, worked out here once more."""

    def __init__(self) -> None:
        super().__init__()
        index = np.arange(1, 200_001)
        weights = 1 / (index * np.log(np.maximum(index, 2)) ** 2 + 10)
        self.gammas = weights / weights.sum()

    def calc_gamma(self, j: int, *args: Any, **kwargs: Any) -> float:
        return float(self.gammas[j - 1])


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_the_stream_decides_as_an_independent_e_lond_does(alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    theirs, ours = ELond(alpha=alpha, gamma_seq=FlatStart()), ErrorStream(alpha=alpha)
    decisions = []
    for e in np.exp(rng.normal(4.0, 2.0, size=150)):
        promoted = bool(e >= ours.threshold)
        assert theirs.test_one(float(e)) == promoted
        assert theirs.current_level == pytest.approx(ours.level, rel=1e-9)
        ours = ours.after(Verdict.PROMOTE if promoted else Verdict.FAIL)
        decisions.append(promoted)
    assert 0 < sum(decisions) < 150


def test_the_first_thresholds_are_85_89_and_110() -> None:
    stream, thresholds = ErrorStream(alpha=0.1), []
    for _ in range(3):
        thresholds.append(stream.threshold)
        stream = stream.after(Verdict.FAIL)
    assert thresholds == pytest.approx([84.9, 88.8, 110.4], abs=0.1)


def test_a_promotion_earns_a_lower_threshold() -> None:
    stream = ErrorStream(alpha=0.1)
    failed, promoted = stream.after(Verdict.FAIL), stream.after(Verdict.PROMOTE)
    assert promoted.threshold == pytest.approx(failed.threshold / 2)
    assert (promoted.gates, promoted.promotions) == (1, 1)


def test_the_levels_of_a_stream_without_promotions_never_add_up_to_more_than_alpha() -> None:
    levels = [ErrorStream(alpha=0.1, gates=gates).level for gates in range(200_001)]
    assert levels == sorted(levels, reverse=True)
    assert math.fsum(levels) == pytest.approx(0.1, rel=1e-9)
    assert levels[-1] == 0.0
    assert ErrorStream(alpha=0.1, gates=200_000).threshold == math.inf


def test_a_void_gate_spends_its_level() -> None:
    stream = ErrorStream(alpha=0.1)
    assert stream.after(Verdict.VOID) == stream.after(Verdict.FAIL)


@pytest.mark.parametrize("verdict", [Verdict.KEEP, Verdict.DROP])
def test_a_screens_verdict_does_not_belong_in_an_error_stream(verdict: Verdict) -> None:
    with pytest.raises(ValueError, match=f"{verdict.value} is a screen's verdict"):
        ErrorStream(alpha=0.1).after(verdict)


# -- the screen


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([], None),
        ([0.0], Verdict.DROP),
        ([-0.1], Verdict.DROP),
        ([0.1], None),
        ([0.1, 0.1], Verdict.KEEP),
        ([1.0, -0.5], Verdict.KEEP),
        ([1.0, -0.51], Verdict.DROP),
        ([0.3, -0.4], Verdict.DROP),
        ([0.3, -0.3], Verdict.DROP),
    ],
)
def test_the_screen_keeps_what_is_better_on_the_first_seed_and_over_both(
    gains: list[float], expected: Verdict | None
) -> None:
    assert verdict_of(screen(gains, noise_sd=1.0)) is expected


def test_more_seeds_are_asked_for_when_more_are_to_decide() -> None:
    assert screen([1.0, 0.2], noise_sd=1.0, seeds=3) is None
    assert verdict_of(screen([1.0, 0.2, -0.3], noise_sd=1.0, seeds=3)) is Verdict.KEEP
    assert verdict_of(screen([1.0, -0.6], noise_sd=1.0, seeds=3)) is Verdict.DROP
    assert verdict_of(screen([0.1], noise_sd=1.0, seeds=1)) is Verdict.KEEP


@given(
    gains=st.lists(st.integers(-10_000, 10_000).map(lambda gain: gain / 1000), min_size=1, max_size=2),
    sd=st.integers(0, 5000).map(lambda sd: sd / 1000),
    power=st.integers(-20, 20),
)
def test_the_screen_does_not_depend_on_the_unit(gains: list[float], sd: float, power: int) -> None:
    factor = 2.0**power  # a power of two rounds nothing
    one, other = screen(gains, noise_sd=sd), screen([factor * gain for gain in gains], noise_sd=factor * sd)
    assert verdict_of(one) is verdict_of(other)


def test_the_screens_sentences_give_the_numbers() -> None:
    sentences = [
        decision.sentence
        for gains in ([-0.25], [1.0, -0.75], [0.25, -0.3], [0.5, 0.25])
        if (decision := screen(gains, noise_sd=1.0))
    ]
    assert sentences == [
        "Dropped: it is not better on the first seed (gain -0.25); sd of a gain 1.",
        "Dropped: it is worse by 0.75 on a further seed, more than 0.5 sd of a gain (0.5); "
        "mean gain 0.125, sd of a gain 1.",
        "Dropped: it is not better over 2 seeds; mean gain -0.025, sd of a gain 1.",
        "Kept: it is better over 2 seeds; mean gain 0.375, sd of a gain 1.",
    ]


def test_the_screens_decision_holds_its_gains_and_no_threshold() -> None:
    decision = screen([0.5, 0.25], noise_sd=1.0)
    assert decision is not None
    assert decision.stage == "screen"
    assert decision.evidence is not None
    assert decision.evidence.gains == (0.5, 0.25)
    assert decision.threshold is None


def test_a_baseline_without_noise_can_still_be_screened_against() -> None:
    assert verdict_of(screen([0.1, 0.0], noise_sd=0.0)) is Verdict.KEEP
    assert verdict_of(screen([0.1, -0.01], noise_sd=0.0)) is Verdict.DROP
    assert verdict_of(screen([0.0], noise_sd=0.0)) is Verdict.DROP


# -- failures


@pytest.mark.parametrize("status", [status for status in TrialStatus if status is not TrialStatus.FINISHED])
def test_only_what_says_nothing_about_the_hypothesis_is_void(status: TrialStatus) -> None:
    nothing = {TrialStatus.KILLED, TrialStatus.LOST, TrialStatus.VOID, TrialStatus.CANCELLED}
    decision = drop_failed(status)
    assert decision.verdict is (Verdict.VOID if status in nothing else Verdict.DROP)
    assert decision.stage == "screen"
    assert decision.evidence is None
    assert status.value.replace("_", " ") in decision.sentence


def test_the_sentence_on_a_failed_trial_says_what_went_wrong() -> None:
    decision = drop_failed("not_finite", failure="val_bpb was nan at step 40")
    assert decision.sentence == "Dropped as not feasible: its trial ended as not finite (val_bpb was nan at step 40)."


def test_a_finished_trial_is_no_failure() -> None:
    with pytest.raises(ValueError, match="screen its gain"):
        drop_failed(TrialStatus.FINISHED)
    with pytest.raises(ValueError, match="is not a valid TrialStatus"):
        drop_failed("exploded")


def test_a_branch_that_diverges_in_a_gate_fails_whatever_its_gains_were() -> None:
    evidence = weigh([5.0, 5.0], pool=POOL, tau=2.0)
    decision = gate_failed("not finite: loss is nan", evidence=evidence, threshold=85.0)
    assert (decision.stage, decision.verdict) == ("gate", Verdict.FAIL)
    assert (decision.evidence, decision.threshold) == (evidence, 85.0)
    assert "did not train on a fresh seed of the gate (not finite: loss is nan)" in decision.sentence


# -- the gate


def test_a_gate_does_not_promote_on_one_pair() -> None:
    assert weigh([50.0], pool=POOL, tau=2.0).e_value > 20
    assert gate([50.0], pool=POOL, level=0.05) is None
    assert verdict_of(gate([50.0, 50.0], pool=POOL, level=0.05)) is Verdict.PROMOTE


def test_a_gate_does_not_fail_for_want_of_progress_before_three_pairs() -> None:
    assert gate([-1.0, -1.0], pool=POOL, level=LEVEL) is None
    assert verdict_of(gate([-1.0, -1.0, -1.0], pool=POOL, level=LEVEL)) is Verdict.FAIL


@pytest.mark.parametrize(("t", "expected"), [(0.49, Verdict.FAIL), (0.51, None)])
def test_a_gate_fails_below_a_t_of_one_half(t: float, expected: Verdict | None) -> None:
    gains = [t / math.sqrt(3) * math.sqrt(3 / 5)] * 3  # without spread of their own: v = 3 v0 / 5
    assert weigh(gains, pool=POOL, tau=2.0).t == pytest.approx(t)
    assert verdict_of(gate(gains, pool=POOL, level=LEVEL)) is expected


def test_a_gate_goes_on_while_there_is_hope_and_ends_when_the_pairs_are_used_up() -> None:
    gains = [0.9, 0.4, -0.2, 1.2, 0.1]
    assert gate(gains, pool=POOL, level=LEVEL) is None
    decision = gate(gains, pool=POOL, level=LEVEL, max_pairs=5)
    assert decision is not None
    assert decision.verdict is Verdict.FAIL
    assert "84.94 was needed and no pairs are left" in decision.sentence


@given(
    gains=st.lists(st.floats(-5, 5), min_size=1, max_size=10),
    level=st.floats(1e-4, 0.5),
    tau=st.sampled_from([1.0, 2.0]),
)
def test_a_gate_decides_by_the_e_value_first_and_then_by_t(gains: list[float], level: float, tau: float) -> None:
    evidence, n = weigh(gains, pool=POOL, tau=tau), len(gains)
    if n >= 2 and evidence.e_value >= 1 / level:
        expected = Verdict.PROMOTE
    elif (n >= 3 and evidence.t < 0.5) or n >= 10:
        expected = Verdict.FAIL
    else:
        expected = None
    decision = gate(gains, pool=POOL, level=level, tau=tau)
    assert verdict_of(decision) is expected
    if decision:
        assert decision.evidence == evidence
        assert decision.threshold == pytest.approx(1 / level)


@given(value=st.just(0.0), pairs=st.integers(3, 10))
def test_a_knob_that_does_nothing_fails_its_gate_even_without_noise(value: float, pairs: int) -> None:
    for pool in (NoisePool.empty(), NoisePool(sum_squares=0.0, degrees=7.0), POOL):
        assert verdict_of(gate([value] * pairs, pool=pool, level=LEVEL)) is Verdict.FAIL


def test_a_gain_that_is_the_same_on_every_seed_is_promoted_when_the_training_has_no_noise() -> None:
    still = NoisePool.from_baseline([1.5] * 8)
    assert verdict_of(gate([0.01, 0.01], pool=still, level=LEVEL)) is Verdict.PROMOTE
    assert gate([0.01, 0.01], pool=NoisePool.empty(), level=LEVEL) is None


def test_a_gate_without_pairs_waits() -> None:
    assert gate([], pool=POOL, level=LEVEL) is None


def test_a_spent_stream_promotes_nothing() -> None:
    assert gate([50.0, 50.0], pool=POOL, level=0.0) is None


def test_the_gates_sentences_give_the_numbers() -> None:
    promoted = gate([3.0, 2.5, 2.8, 3.2], pool=POOL, level=LEVEL)
    failed = gate([0.5, -0.5, -0.75], pool=POOL, level=LEVEL)
    assert promoted is not None
    assert failed is not None
    assert promoted.sentence.startswith("Promoted: mean gain 2.875 over 4 pairs (95 % interval ")
    assert promoted.sentence.endswith("; it reached 84.94.")
    assert failed.sentence.startswith("Failed: mean gain -0.25 over 3 pairs (95 % interval ")
    assert failed.sentence.endswith("t = -0.49 leaves little hope.")


# -- rules


@pytest.mark.parametrize(
    ("decision", "seeds", "gated"),
    [
        (DecisionRule(), 2, True),
        (DecisionRule(rule="greedy"), 1, False),
        (DecisionRule(rule="mean", mean_seeds=4), 4, False),
    ],
)
def test_the_spec_names_the_rule(decision: DecisionRule, seeds: int, gated: bool) -> None:
    rule = rule_for(decision)
    assert (rule.seeds_per_screen, rule.gated) == (seeds, gated)


@given(gains=st.lists(st.floats(-3, 3), min_size=1, max_size=2))
def test_the_gate_rule_screens_as_the_screen_does(gains: list[float]) -> None:
    assert GateRule().screen(gains, noise_sd=1.0) == screen(gains, noise_sd=1.0)


def test_the_greedy_rule_keeps_whatever_is_better_once() -> None:
    greedy = rule_for(DecisionRule(rule="greedy"))
    assert verdict_of(greedy.screen([1e-9], noise_sd=1.0)) is Verdict.KEEP
    assert verdict_of(greedy.screen([0.0], noise_sd=1.0)) is Verdict.DROP


def test_the_mean_rule_waits_for_all_its_seeds_and_then_goes_by_their_mean() -> None:
    mean = MeanRule(seeds_per_screen=3)
    assert mean.screen([-5.0, -5.0], noise_sd=1.0) is None
    assert verdict_of(mean.screen([-1.0, 0.5, 0.6], noise_sd=1.0)) is Verdict.KEEP
    assert verdict_of(mean.screen([1.0, -0.5, -0.6], noise_sd=1.0)) is Verdict.DROP


@pytest.mark.parametrize("decision", [DecisionRule(), DecisionRule(rule="greedy"), DecisionRule(rule="mean")])
@given(gains=st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_every_rule_has_decided_after_its_last_seed(decision: DecisionRule, gains: list[float]) -> None:
    rule = rule_for(decision)
    assert rule.screen(gains[: rule.seeds_per_screen], noise_sd=1.0) is not None
