"""Were the predictions right?  Stated probabilities and intervals against what was measured.  Pure functions.

The Brier score is the mean squared error of a stated probability (Brier 1950, "Verification of forecasts expressed in
terms of probability", Monthly Weather Review 78).  It is a proper score: nobody does better by stating anything else
than what they believe (Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation", JASA
102).  It depends on how often things come true, so it is always set against *chance*: the Brier score of always stating
the share that came true, known only in hindsight.  That rival is a little too good, the more so the fewer forecasts
there are, which errs on the strict side.

Intervals of shares are Wilson's (1927).  Intervals of differences between scores are percentiles of a bootstrap that
draws whole forecasts (Efron 1979), with a fixed seed, so that the same forecasts always give the same words.  Both take
forecasts to be independent, which those of one search are only roughly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from lightning_autoresearch.hypothesis import Finding, Prediction
from lightning_autoresearch.trial import INFRASTRUCTURE, TrialStatus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

FEWEST = 15
"""Forecasts below which nothing is concluded from a score; for a trend, in each half."""
BINS = 10
"""Equal parts of 0 to 1 in a calibration table; empty ones are left out."""
LEVEL = 0.95
"""Level of the intervals of shares and differences."""
STATED_LEVEL = 0.8
"""Level of the intervals that proposers state."""
RESAMPLES = 2000
"""Bootstrap samples behind an interval of a difference."""
_SEED = 1950
_CELLS = 500_000
_Z = 1.959964
_SAYS_NOTHING = INFRASTRUCTURE | {TrialStatus.CANCELLED}

Answer = Literal["better", "worse", "no difference", "unknown"]
"""What a difference says; `unknown` where there are too few forecasts, or of one outcome only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """A prediction and what came of it."""

    source: str
    """Who stated it."""
    round: int
    """The round it was tested in."""
    prediction: Prediction
    """What was stated before any trial."""
    kept: bool
    """Whether the screen kept the hypothesis."""
    gain: float | None
    """Measured gain in units of the objective, positive is better; null where no run finished."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of things counted, with its Wilson interval."""

    value: float
    """The share, 0 to 1."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The forecasts whose stated probability lies between two values."""

    low: float
    """Smallest probability of the bin."""
    high: float
    """Largest probability; it belongs to the next bin, except for 1."""
    count: int
    """Number of forecasts."""
    probability: float
    """Mean stated probability."""
    kept: Share
    """Share that was kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How right a set of forecasts was."""

    count: int
    """Number of forecasts."""
    keeps: int
    """How many of their hypotheses were kept."""
    brier: float
    """Mean squared error of the stated probabilities: 0 is perfect, always stating 0.5 scores 0.25."""
    brier_chance: float
    """The same for always stating the share that was kept, as known in hindsight."""
    skill: float | None
    """1 - brier / brier_chance: above 0 is better than chance; null where all or none were kept."""
    hits: float
    """Share of forecasts on the right side: a probability of 0.5 or more, and kept, or less, and not kept."""
    coverage: Share | None
    """Share of the stated 80 % intervals that hold the measured gain; null where none could be checked."""
    intervals: int
    """Number of stated intervals with a measured gain."""
    bins: tuple[Bin, ...]
    """Calibration table, by rising probability."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A difference of two scores, and what may be concluded from it."""

    answer: Answer
    """What it says of the first against the second."""
    value: float | None
    """First minus second, in units of the Brier score: below 0 is better; null below two forecasts."""
    low: float | None
    """Lower end of its 95 % interval; null where it is unknown."""
    high: float | None
    """Upper end of it; null where it is unknown."""
    counts: tuple[int, int]
    """Forecasts behind the first and the second score."""


def forecasts_of(findings: Iterable[Finding]) -> tuple[Forecast, ...]:
    """The forecasts that can be scored, in order.

    Left out are hypotheses that nothing was decided about by no fault of their own: void ones, and those whose trial
    was lost, killed, cancelled or run on a contended machine.  One that failed by its own fault was not kept.
    """
    return tuple(
        Forecast(
            source=one.hypothesis.source,
            round=one.round,
            prediction=one.hypothesis.prediction,
            kept=one.kept,
            gain=one.gain,
        )
        for one in findings
        if not one.void and one.status not in _SAYS_NOTHING and math.isfinite(one.hypothesis.prediction.probability)
    )


def score(forecasts: Iterable[Forecast]) -> Scores | None:
    """The scores of some forecasts; None where there are none."""
    forecasts = tuple(forecasts)
    if not forecasts:
        return None
    count, keeps = len(forecasts), sum(one.kept for one in forecasts)
    brier = sum((one.prediction.probability - one.kept) ** 2 for one in forecasts) / count
    chance = keeps / count * (1 - keeps / count)
    checked = [inside for inside in map(_is_inside, forecasts) if inside is not None]
    return Scores(
        count=count,
        keeps=keeps,
        brier=brier,
        brier_chance=chance,
        skill=1 - brier / chance if chance else None,
        hits=sum((one.prediction.probability >= 0.5) == one.kept for one in forecasts) / count,
        coverage=share(sum(checked), len(checked)) if checked else None,
        intervals=len(checked),
        bins=tuple(_bins(forecasts)),
    )


def by_source(forecasts: Iterable[Forecast]) -> dict[str, Scores]:
    """The scores of each source, in the order of their first forecasts."""
    return _by(forecasts, lambda one: one.source)


def by_round(forecasts: Iterable[Forecast]) -> dict[int, Scores]:
    """The scores of each round, in order; pass the forecasts of one source."""
    return _by(forecasts, lambda one: one.round)


def scores_record(forecasts: Iterable[Forecast]) -> dict[str, dict[str, float | int | None]]:
    """The scores of each source as plain JSON data, for the journal: empty where nothing can be scored yet."""
    return {
        source: {
            "count": one.count,
            "keeps": one.keeps,
            "brier": round(one.brier, 6),
            "brier_chance": round(one.brier_chance, 6),
            "hits": round(one.hits, 6),
            "coverage": None if one.coverage is None else round(one.coverage.value, 6),
            "intervals": one.intervals,
        }
        for source, one in by_source(forecasts).items()
    }


def against_chance(forecasts: Sequence[Forecast]) -> Difference:
    """Whether forecasts are better than always stating the share that was kept.

    The interval is that of the paired difference: each bootstrap sample has its own share.  `unknown` where all or none
    were kept, since then nothing can be told apart.  In simulation, forecasters who say what is true and know nothing
    are called better or worse in less than 1 % of the cases, with 15 forecasts as with 60.
    """
    value = _excess(forecasts)
    samples = _excess_samples(forecasts) if _is_enough(forecasts) else None
    return _difference(value, samples, counts=(len(forecasts), len(forecasts)))


def comparison(first: Sequence[Forecast], second: Sequence[Forecast]) -> Difference:
    """Whether the first source's forecasts are better than the second's.

    Two sources forecast different hypotheses, and a source whose ideas hardly ever work has an easy time saying so.
    What is compared is therefore how far each lies below or above its own chance (Brier score minus `brier_chance`).
    Each source is resampled on its own, since no hypothesis was forecast by both.  In simulation, two equally good
    sources are told apart in 3 % of the cases with 15 forecasts each and in 6 % with 60: the nominal level is 5 %.
    """
    one, other = _excess(first), _excess(second)
    value = None if one is None or other is None else one - other
    counts = (len(first), len(second))
    if not (_is_enough(first) and _is_enough(second)):
        return _difference(value, None, counts=counts)
    return _difference(value, _excess_samples(first) - _excess_samples(second, turn=1), counts=counts)


def trend(forecasts: Sequence[Forecast]) -> Difference:
    """Whether a source's forecasts get better: the second half of them against the first, in the order of the study.

    Again less chance: keeps grow rarer as a search goes on, which lowers any Brier score without anybody's learning.
    """
    first, second = halves(forecasts)
    return comparison(second, first)


def halves(forecasts: Sequence[Forecast]) -> tuple[Sequence[Forecast], Sequence[Forecast]]:
    """The first and the second half; the middle one of an odd number belongs to the second."""
    middle = len(forecasts) // 2
    return forecasts[:middle], forecasts[middle:]


def share(part: int, whole: int) -> Share:
    """A share with its 95 % interval after Wilson (1927), which stays inside 0 to 1 and holds at few counts.

    >>> found = share(8, 10)
    >>> round(found.low, 3), round(found.high, 3)
    (0.49, 0.943)

    Raises:
        ValueError: the whole is not positive.
    """
    if whole <= 0:
        raise ValueError(f"a share of {whole} things has no value")
    value, square = part / whole, _Z * _Z / whole
    centre = (value + square / 2) / (1 + square)
    reach = _Z / (1 + square) * math.sqrt(value * (1 - value) / whole + square / (4 * whole))
    return Share(value=value, low=max(0.0, centre - reach), high=min(1.0, centre + reach))


def _by(forecasts: Iterable[Forecast], name: Callable[[Forecast], T]) -> dict[T, Scores]:
    groups: dict[T, list[Forecast]] = {}
    for one in forecasts:
        groups.setdefault(name(one), []).append(one)
    return {key: found for key, group in groups.items() if (found := score(group)) is not None}


def _is_inside(forecast: Forecast) -> bool | None:
    """Whether the stated interval holds the measured gain; None where there is no interval or no gain."""
    low, high, gain = forecast.prediction.low, forecast.prediction.high, forecast.gain
    if low is None or high is None or gain is None or not math.isfinite(gain):
        return None
    return low <= gain <= high


def _bins(forecasts: Sequence[Forecast]) -> Iterable[Bin]:
    for number in range(BINS):
        inside = [one for one in forecasts if min(int(one.prediction.probability * BINS), BINS - 1) == number]
        if inside:
            yield Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                count=len(inside),
                probability=sum(one.prediction.probability for one in inside) / len(inside),
                kept=share(sum(one.kept for one in inside), len(inside)),
            )


def _excess(forecasts: Sequence[Forecast]) -> float | None:
    """Brier score minus that of chance, the latter without the advantage of hindsight: below 0 is better than chance.

    With n forecasts of which a share s was kept, s (1 - s) is too small by the factor (n - 1) / n on average.
    """
    found = score(forecasts)
    if found is None or found.count < 2:
        return None
    return found.brier - found.brier_chance * found.count / (found.count - 1)


def _is_enough(forecasts: Sequence[Forecast]) -> bool:
    """Whether anything may be concluded: enough forecasts, of both outcomes."""
    return len(forecasts) >= FEWEST and 0 < sum(one.kept for one in forecasts) < len(forecasts)


def _excess_samples(forecasts: Sequence[Forecast], *, turn: int = 0) -> NDArray[np.float64]:
    """Bootstrap samples of `_excess`, shape (RESAMPLES,).

    Their mean is `_excess` itself: s (1 - s) is too small by (n - 1) / n in the forecasts, and once more in a sample.
    """
    import numpy as np

    stated = np.array([one.prediction.probability for one in forecasts])
    kept = np.array([float(one.kept) for one in forecasts])
    errors, count, random = (stated - kept) ** 2, len(kept), np.random.default_rng([_SEED, turn])
    samples = []
    for size in _parts(RESAMPLES, most=max(1, _CELLS // count)):
        drawn = random.integers(count, size=(size, count))
        rate = kept[drawn].mean(axis=1)
        samples.append(errors[drawn].mean(axis=1) - rate * (1 - rate) * (count / (count - 1)) ** 2)
    return np.concatenate(samples)


def _parts(total: int, *, most: int) -> Iterable[int]:
    """A number in parts, so that no array grows too large."""
    for done in range(0, total, most):
        yield min(most, total - done)


def _difference(value: float | None, samples: NDArray[np.float64] | None, *, counts: tuple[int, int]) -> Difference:
    if samples is None:
        return Difference(answer="unknown", value=value, low=None, high=None, counts=counts)
    import numpy as np

    tail = (1 - LEVEL) / 2
    low, high = (float(end) for end in np.quantile(samples, [tail, 1 - tail]))
    answer: Answer = "better" if high < 0 else "worse" if low > 0 else "no difference"
    return Difference(answer=answer, value=value, low=low, high=high, counts=counts)
