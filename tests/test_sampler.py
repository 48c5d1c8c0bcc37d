"""The offline scientist, on simulated tasks and one rule at a time."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from lightning_autoresearch.hypothesis import Finding, Prediction
from lightning_autoresearch.ledger import FAILURE_PRIOR, Ledger
from lightning_autoresearch.sampler import PRIOR_KEEP, Sampler, _study
from lightning_autoresearch.scoring import forecasts_of, score
from lightning_autoresearch.space import Categorical, Float, Integer, SearchSpace, Value
from lightning_autoresearch.trial import canonical
from tests.simulation import (
    LR,
    START,
    Lab,
    OneRandomKnob,
    World,
    cliff_world,
    finding,
    measured,
    random_world,
    searched,
    told,
)


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


def prediction_for_lr(tests: Sequence[Finding], branch: Mapping[str, Value] = START) -> Prediction:
    hypotheses = Sampler().propose(told(tests, branch=branch, wanted=30)).hypotheses
    return next(one.prediction for one in hypotheses if set(one.overrides) == {"lr"})


def test_evidence_moves_the_prediction():
    blank = prediction_for_lr([])
    good = prediction_for_lr([finding("lr", 0.003, 0.009, 0.05, kept=True)], branch={**START, "lr": 0.009})
    bad = prediction_for_lr([finding("lr", 0.003, value, -0.02) for value in (0.001, 0.0015, 0.006, 0.009)])
    assert replace(blank, low=None, high=None) == Prediction(
        gain=0.0, probability=pytest.approx(PRIOR_KEEP * (1 - FAILURE_PRIOR))
    )
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


def test_four_of_five_measured_gains_lie_in_the_stated_intervals():
    found = score(forecasts_of(one for seed in range(8) for one in searched(Sampler, seed).findings))
    assert found.intervals > 300
    assert 0.75 <= found.coverage.value <= 0.87


def test_an_interval_is_as_wide_as_the_noise_before_any_finding_and_learns_from_errors():
    blank = prediction_for_lr([])
    assert blank.low < blank.gain < blank.high
    assert 2.5 * 0.01 < blank.high - blank.gain < 5 * 0.01
    others = [finding("x", 0.5, 0.6, -0.4), finding("x", 0.5, 0.7, -0.5)]
    wrong = [replace(one, hypothesis=replace(one.hypothesis, source="sampler")) for one in others]
    wary = prediction_for_lr(wrong)
    assert wary.low < wary.gain - 0.3
    assert 0.0 <= wary.high - wary.gain <= blank.high - blank.gain, "errors downward do not widen it upward"
    assert prediction_for_lr(others).low == pytest.approx(blank.low), "only its own errors tell of its own intervals"


def test_without_any_noise_an_interval_is_made_of_errors_alone():
    [first, *_] = Sampler().propose(told(gain_sd=0.0)).hypotheses
    assert first.prediction.low == first.prediction.gain == first.prediction.high


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


def test_hypotheses_use_the_widened_range_at_once():
    outward = (finding("lr", 0.01, 0.04, 0.05, kept=True), finding("lr", 0.04, 0.1, 0.03, kept=True))
    [first, *_] = Sampler().propose(told(outward, branch={**START, "lr": 0.1})).hypotheses
    assert first.overrides == {"lr": 0.25}


@pytest.mark.parametrize("high", [5e-324, 1e-310, 1e-30])
def test_the_smallest_ranges_do_no_harm(high):
    tiny = SearchSpace(domains={**LR, "x": Float(low=0.0, high=high)})
    for x in (0.0, high):
        branch = {**START, "x": x}
        for seed in range(4):
            briefing = told(branch=branch, base=branch, incumbent=branch, space=tiny, seed=seed, wanted=6)
            assert all(0.0 <= one.overrides.get("x", 0.0) <= high for one in Sampler().propose(briefing).hypotheses)


def idle_under_b(config):
    return {"x", "n"} if config["class_path"] == "b" else set()


SWITCHED = SearchSpace(domains={**LR, "class_path": Categorical(choices=("a", "b"))})


def test_what_the_branchs_class_does_not_take_is_left_alone():
    branch = {**START, "class_path": "b"}
    briefing = told(branch=branch, base=branch, incumbent=branch, space=SWITCHED, wanted=8)
    found = Sampler(without_effect=idle_under_b).propose(briefing).hypotheses
    assert {key for one in found for key in one.overrides} == {"lr", "class_path"}
    assert {"x", "n"} <= {key for one in Sampler().propose(briefing).hypotheses for key in one.overrides}


def test_no_switch_of_the_class_is_combined_with_what_the_new_one_does_not_take():
    branch = {**START, "class_path": "a"}
    small = SearchSpace(domains={"n": LR["n"], "class_path": SWITCHED["class_path"]})
    briefing = told(branch=branch, base=branch, incumbent=branch, space=small, wanted=60)
    found = [one.overrides for one in Sampler(without_effect=idle_under_b).propose(briefing).hypotheses]
    assert {"class_path": "b"} in found
    assert not [one for one in found if {"class_path", "n"} <= one.keys()]
    assert [one for one in Sampler().propose(briefing).hypotheses if {"class_path", "n"} <= one.overrides.keys()]


def test_nothing_is_proposed_where_nothing_has_an_effect():
    branch = {**START, "class_path": "b"}
    briefing = told(branch=branch, base=branch, incumbent=branch)
    assert Sampler(without_effect=lambda _: {"lr", "x", "n"}).propose(briefing).hypotheses == ()


def test_a_bound_is_not_widened_to_where_nothing_can_be_drawn():
    space = SearchSpace(domains={**LR, "lr": Float(low=1e-4, high=1e30, scale="log")})
    outward = (finding("lr", 1e29, 2e29, 0.05, kept=True), finding("lr", 2e29, 1e30, 0.03, kept=True))
    proposal = Sampler().propose(told(outward, branch={**START, "lr": 1e30}, space=space, round=2))
    assert proposal.space_edits == ()
