from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from lightning_autoresearch import scoring
from lightning_autoresearch.hypothesis import Finding, Hypothesis, Prediction
from lightning_autoresearch.scoring import (
    FEWEST,
    Forecast,
    against_chance,
    by_round,
    by_source,
    comparison,
    forecasts_of,
    halves,
    score,
    scores_record,
    share,
    trend,
)
from lightning_autoresearch.trial import TrialStatus


def forecast(
    probability: float,
    kept: bool,
    *,
    source: str = "model",
    round: int = 1,
    gain: float | None = None,
    ends: tuple[float | None, float | None] = (None, None),
) -> Forecast:
    prediction = Prediction(gain=0.0, probability=probability, low=ends[0], high=ends[1])
    return Forecast(source=source, round=round, prediction=prediction, kept=kept, gain=gain)


def finding(*, status: TrialStatus = TrialStatus.FINISHED, kept: bool = False, gain: float | None = 0.1, **changes):
    prediction = Prediction(gain=0.0, probability=0.3, low=-1.0, high=1.0)
    hypothesis = Hypothesis(
        id="h1", statement="", mechanism="", source="sampler", overrides={"lr": 1.0}, prediction=prediction
    )
    blank = Finding(hypothesis=hypothesis, before={"lr": 2.0}, gain=gain, kept=kept, status=status, round=3)
    return replace(blank, **changes)


def knowing(chance: random.Random, count: int, *, source: str = "model") -> list[Forecast]:
    """Forecasts of somebody who knows each probability."""
    return [forecast(p, chance.random() < p, source=source) for p in (chance.choice((0.05, 0.9)) for _ in range(count))]


def ignorant(chance: random.Random, count: int, *, rate: float = 0.3) -> list[Forecast]:
    """Forecasts of somebody who knows the rate of keeps and nothing else."""
    return [forecast(rate, chance.random() < rate) for _ in range(count)]


# -- one set of forecasts ------------------------------------------------------------------------------------------


def test_nothing_has_no_score():
    assert score([]) is None
    assert by_source([]) == {}
    assert scores_record([]) == {}


def test_the_brier_score_is_the_mean_squared_error():
    found = score([forecast(0.8, True), forecast(0.3, False), forecast(0.6, False), forecast(0.5, True)])
    assert found.brier == pytest.approx((0.04 + 0.09 + 0.36 + 0.25) / 4)
    assert found.brier_chance == pytest.approx(0.25)
    assert found.skill == pytest.approx(1 - found.brier / 0.25)
    assert (found.count, found.keeps, found.hits) == (4, 2, 0.75)


def test_a_perfect_forecaster_scores_zero_and_a_perfectly_wrong_one_one():
    outcomes = [True, False, True]
    assert score([forecast(float(kept), kept) for kept in outcomes]).brier == 0.0
    assert score([forecast(float(not kept), kept) for kept in outcomes]).brier == 1.0


def test_no_constant_beats_the_share_that_was_kept():
    outcomes = [True] * 3 + [False] * 7
    briers = {p / 20: score([forecast(p / 20, kept) for kept in outcomes]).brier for p in range(21)}
    assert min(briers, key=briers.__getitem__) == 0.3
    assert briers[0.3] == pytest.approx(score([forecast(0.3, kept) for kept in outcomes]).brier_chance)


def test_the_score_is_proper_lying_does_not_pay():
    chance = random.Random(0)
    honest = knowing(chance, 4000)
    bold = [replace(one, prediction=replace(one.prediction, probability=float(p > 0.5)))
            for one in honest for p in [one.prediction.probability]]  # fmt: skip
    assert score(honest).brier < score(bold).brier


def test_without_both_outcomes_there_is_no_skill():
    assert score([forecast(0.2, False)] * 3).skill is None
    assert score([forecast(0.2, True)] * 3).skill is None


def test_an_interval_counts_only_where_it_was_stated_and_a_gain_was_measured():
    forecasts = [
        forecast(0.5, True, gain=0.1, ends=(0.0, 0.2)),
        forecast(0.5, True, gain=0.2, ends=(0.0, 0.2)),
        forecast(0.5, False, gain=-0.1, ends=(0.0, 0.2)),
        forecast(0.5, False, gain=None, ends=(0.0, 0.2)),
        forecast(0.5, False, gain=0.1),
        forecast(0.5, False, gain=0.1, ends=(0.0, None)),
        forecast(0.5, False, gain=math.nan, ends=(0.0, 0.2)),
    ]
    found = score(forecasts)
    assert found.intervals == 3
    assert found.coverage.value == pytest.approx(2 / 3)
    assert score([forecast(0.5, True, gain=0.1)]).coverage is None


def test_every_forecast_lies_in_one_bin_of_the_calibration_table():
    stated = [0.0, 0.05, 0.1, 0.3, 0.999, 1.0]
    bins = score([forecast(p, p > 0.2) for p in stated]).bins
    table = [(one.low, one.high, one.count) for one in bins]
    assert table == [(0.0, 0.1, 2), (0.1, 0.2, 1), (0.3, 0.4, 1), (0.9, 1.0, 2)]
    assert bins[0].probability == pytest.approx(0.025)
    assert [one.kept.value for one in bins] == [0.0, 0.0, 1.0, 1.0]
    assert all(one.kept.low <= one.kept.value <= one.kept.high for one in bins)


def test_sources_and_rounds_are_scored_apart():
    forecasts = [
        forecast(0.1, False, source="sampler", round=1),
        forecast(0.9, False, source="model", round=1),
        forecast(0.1, False, source="sampler", round=2),
    ]
    assert {source: one.count for source, one in by_source(forecasts).items()} == {"sampler": 2, "model": 1}
    assert by_source(forecasts)["model"].brier == pytest.approx(0.81)
    assert {number: one.count for number, one in by_round(forecasts).items()} == {1: 2, 2: 1}


# -- what is scored ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [TrialStatus.LOST, TrialStatus.KILLED, TrialStatus.VOID, TrialStatus.CANCELLED])
def test_a_failure_of_the_machine_is_not_scored(status):
    assert forecasts_of([finding(status=status, gain=None)]) == ()


def test_a_void_hypothesis_is_not_scored_even_if_its_trials_finished():
    assert forecasts_of([finding(void=True)]) == ()


@pytest.mark.parametrize("status", [TrialStatus.ERROR, TrialStatus.NOT_FINITE, TrialStatus.OUT_OF_MEMORY])
def test_a_failure_by_its_own_fault_was_not_kept_and_its_interval_is_not_scored(status):
    [one] = forecasts_of([finding(status=status, gain=None)])
    assert (one.kept, one.gain, one.round, one.source) == (False, None, 3, "sampler")
    assert score([one]).intervals == 0
    assert score([one]).count == 1


def test_a_kept_hypothesis_keeps_its_prediction():
    [one] = forecasts_of([finding(kept=True)])
    assert one.kept
    assert one.prediction.low == -1.0
    assert score([one]).intervals == 1


def test_the_record_for_the_journal_is_plain_json():
    forecasts = [forecast(1 / 3, True, gain=0.1, ends=(0.0, 0.3)), forecast(0.2, False, source="sampler")]
    record = scores_record(forecasts)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["model"] == {
        "count": 1, "keeps": 1, "brier": 0.444444, "brier_chance": 0.0, "hits": 0.0, "coverage": 1.0, "intervals": 1,
    }  # fmt: skip
    assert record["sampler"]["coverage"] is None


# -- intervals and answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (1, 1, 0.2065, 1.0)]
)
def test_the_interval_of_a_share_is_wilsons(part, whole, low, high):
    found = share(part, whole)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_share_of_nothing_has_no_value():
    with pytest.raises(ValueError, match="a share of 0 things has no value"):
        share(0, 0)


def test_below_the_fewest_forecasts_nothing_is_concluded():
    few = knowing(random.Random(1), FEWEST - 1)
    many = knowing(random.Random(2), 200)
    assert against_chance(few).answer == "unknown"
    assert against_chance(few).low is None
    assert against_chance(few).value is not None
    assert comparison(few, many).answer == comparison(many, few).answer == "unknown"
    assert trend(knowing(random.Random(3), 2 * FEWEST - 1)).answer == "unknown"
    assert trend(few).counts == (7, 7)
    assert against_chance([]).value is None


def test_where_all_or_none_were_kept_nothing_is_concluded():
    assert against_chance([forecast(0.1, False)] * 40).answer == "unknown"
    assert against_chance([forecast(0.1, True)] * 40).answer == "unknown"
    assert comparison([forecast(0.1, False)] * 40, ignorant(random.Random(1), 40)).answer == "unknown"


def test_who_knows_is_better_than_chance_and_who_is_wrong_is_worse():
    wise = knowing(random.Random(4), 60)
    fool = [replace(one, kept=not one.kept) for one in wise]
    assert against_chance(wise).answer == "better"
    assert against_chance(wise).high < 0
    assert against_chance(fool).answer == "worse"
    assert comparison(wise, fool).answer == "better"
    assert comparison(fool, wise).answer == "worse"


def test_chance_has_no_advantage_of_hindsight_in_the_difference():
    means = [against_chance_value(ignorant(random.Random(seed), 8)) for seed in range(4000)]
    assert sum(means) / len(means) == pytest.approx(0.0, abs=0.002)


def against_chance_value(forecasts: Sequence[Forecast]) -> float:
    value = against_chance(forecasts).value
    assert value is not None
    return value


def test_a_source_is_not_better_because_its_ideas_never_work():
    chance = random.Random(6)
    hopeless, fair = ignorant(chance, 60, rate=0.05), ignorant(chance, 60, rate=0.5)
    assert score(hopeless).brier < score(fair).brier / 3
    assert comparison(hopeless, fair).answer == "no difference"


def test_rarer_keeps_alone_are_no_trend_but_learning_is():
    chance = random.Random(7)
    assert trend(ignorant(chance, 60, rate=0.5) + ignorant(chance, 60, rate=0.05)).answer == "no difference"
    learner = ignorant(chance, 60, rate=0.5) + knowing(chance, 60)
    assert trend(learner).answer == "better"
    assert trend(learner[::-1]).answer == "worse"


def test_the_middle_of_an_odd_number_belongs_to_the_second_half():
    first, second = halves([forecast(0.1, False, round=number) for number in range(5)])
    assert ([one.round for one in first], [one.round for one in second]) == ([0, 1], [2, 3, 4])


def test_the_same_forecasts_always_give_the_same_answer():
    forecasts = knowing(random.Random(8), 40)
    assert against_chance(forecasts) == against_chance(list(forecasts))


def test_a_large_study_is_resampled_in_parts(monkeypatch):
    forecasts = knowing(random.Random(9), 50)
    whole = against_chance(forecasts)
    monkeypatch.setattr(scoring, "_CELLS", 5000)
    assert against_chance(forecasts) == whole


@pytest.mark.parametrize("count", [15, 60])
def test_who_knows_nothing_is_rarely_told_from_chance(count, monkeypatch):
    monkeypatch.setattr(scoring, "RESAMPLES", 600)
    answers = Counter(against_chance(ignorant(random.Random(seed), count)).answer for seed in range(500))
    assert answers["better"] + answers["worse"] <= 15, answers


@pytest.mark.parametrize("count", [15, 60])
def test_equally_good_sources_are_rarely_told_apart(count, monkeypatch):
    monkeypatch.setattr(scoring, "RESAMPLES", 600)
    answers = Counter()
    for seed in range(500):
        chance = random.Random(seed)
        answers[comparison(knowing(chance, count), knowing(chance, count)).answer] += 1
    assert answers["better"] + answers["worse"] <= 55, answers


@pytest.mark.parametrize("count", [15, 30])
def test_the_bootstrap_lies_around_the_value(count):
    kept = round(0.3 * count)
    forecasts = [forecast(0.3, number < kept) for number in range(count)]
    bias = 0.3 * 0.7 / (count - 1)
    middle = float(scoring._excess_samples(forecasts).mean())
    assert middle == pytest.approx(scoring._excess(forecasts), abs=0.2 * bias)
