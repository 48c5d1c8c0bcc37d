"""Facts about pools, e-values and intervals, against direct integration and against algebra."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, stats

from lightning_autoresearch.evidence import (
    BUNDLE_TAU,
    LARGEST_E,
    LARGEST_T,
    SINGLE_TAU,
    NoisePool,
    _resolvable_standardised,
    e_value,
    half_width,
    smallest_resolvable_gain,
    weigh,
)

POOL = NoisePool(sum_squares=7.0, degrees=7.0)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ORDINARY = st.floats(min_value=-100.0, max_value=100.0).map(lambda number: round(number, 3))
GAINS = st.lists(ORDINARY, min_size=1, max_size=12)
TAUS = st.sampled_from([SINGLE_TAU, BUNDLE_TAU])
SPREADS = st.floats(min_value=0.01, max_value=100.0)


def pool_of(sd: float, degrees: float = 7.0) -> NoisePool:
    return NoisePool(sum_squares=sd * sd * degrees, degrees=degrees)


# -- pools


def test_a_pool_from_a_baseline_has_twice_the_variance_of_one_run() -> None:
    values = [1.0, 1.5, 0.7, 1.2, 1.1]
    pool = NoisePool.from_baseline(values)
    assert pool.degrees == 4
    assert pool.variance == pytest.approx(2 * np.var(values, ddof=1))
    assert pool.sd == pytest.approx(math.sqrt(2) * np.std(values, ddof=1))


@pytest.mark.parametrize("values", [[], [1.0]])
def test_a_baseline_of_fewer_than_two_values_tells_no_noise(values: list[float]) -> None:
    with pytest.raises(ValueError, match=f"at least 2 baseline values, got {len(values)}"):
        NoisePool.from_baseline(values)


def test_a_baseline_with_a_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="a baseline value must be finite, got nan"):
        NoisePool.from_baseline([1.0, math.nan, 2.0])


@given(value=FINITE, seeds=st.integers(2, 12))
def test_a_baseline_of_equal_values_has_a_variance_of_exactly_zero(value: float, seeds: int) -> None:
    assert NoisePool.from_baseline([value] * seeds) == NoisePool(sum_squares=0.0, degrees=seeds - 1)


@given(first=GAINS, second=GAINS)
def test_adding_gains_adds_their_squares_about_their_own_means(first: list[float], second: list[float]) -> None:
    pool = NoisePool.empty().add(first).add(second)
    assert pool.degrees == len(first) + len(second) - 2
    assert pool.sum_squares == pytest.approx(sum(len(one) * np.var(one) for one in (first, second)), abs=1e-9)


def test_a_single_gain_adds_nothing_to_a_pool() -> None:
    assert POOL.add([5.0]) is POOL
    assert POOL.add([]) is POOL


def test_a_pool_never_has_more_than_sixty_degrees_and_old_gains_fade() -> None:
    pool = pool_of(1.0, degrees=59.0).add([3.0, -3.0, 3.0, -3.0])
    assert pool.degrees == 60
    assert pool.variance == pytest.approx((59 + 36) / 62)
    later = pool
    for _ in range(300):
        later = later.add([2.0, -2.0, 2.0, -2.0])
    assert later.variance == pytest.approx(16 / 3, rel=1e-3)


def test_adding_a_nan_to_a_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="a gain must be finite, got nan"):
        POOL.add([1.0, math.nan])


def test_a_pool_survives_a_finite_gain_whose_square_is_not() -> None:
    pool = POOL.add([1e200, -1e200])
    assert math.isfinite(pool.sum_squares)
    assert math.isfinite(weigh([1.0, 2.0], pool=pool, tau=2.0).e_value)


@given(sd=SPREADS, degrees=st.floats(0.5, 60.0), cap=st.floats(0.5, 60.0))
def test_credit_keeps_the_variance_and_caps_the_degrees(sd: float, degrees: float, cap: float) -> None:
    credited = pool_of(sd, degrees).credited(cap)
    assert credited.degrees == min(degrees, cap)
    assert credited.variance == pytest.approx(sd * sd)


def test_an_empty_pool_has_no_spread_and_stays_empty_when_credited() -> None:
    assert NoisePool.empty().variance == NoisePool.empty().sd == 0.0
    assert NoisePool.empty().credited() == NoisePool.empty()


# -- the e-value


@pytest.mark.parametrize("tau", [0.5, SINGLE_TAU, BUNDLE_TAU])
@pytest.mark.parametrize(("pairs", "degrees"), [(1, 3.0), (2, 1.0), (3, 5.0), (6, 5.0), (10, 12.0), (4, 2.5)])
@pytest.mark.parametrize("t", [-4.0, -0.7, 0.0, 0.3, 1.5, 4.0, 9.0])
def test_the_e_value_is_the_half_normal_mixture_of_noncentral_t_ratios(
    t: float, pairs: int, degrees: float, tau: float
) -> None:
    def integrand(effect: float) -> float:
        prior = 2 * stats.norm.pdf(effect / tau) / tau
        return float(prior * stats.nct.pdf(t, degrees, math.sqrt(pairs) * effect))

    # beyond t sqrt(nu/n)-sized effects the density falls off within a few units: tell the integrator where to look
    middle = max(t, 0.0) / math.sqrt(pairs)
    mixture, error = integrate.quad(integrand, 0, 10 * tau, points=[middle / 2, middle, middle + 1], limit=200)
    central = stats.t.pdf(t, degrees)
    assert error / central < 1e-5 * max(1.0, mixture / central)
    assert e_value(t, pairs=pairs, degrees=degrees, tau=tau) == pytest.approx(mixture / central, rel=1e-4)


@pytest.mark.parametrize("tau", [SINGLE_TAU, BUNDLE_TAU])
@pytest.mark.parametrize("pairs", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("noise_degrees", [0.5, 3.0])
def test_the_expected_e_value_without_a_gain_is_one(noise_degrees: float, pairs: int, tau: float) -> None:
    nu = noise_degrees + pairs - 1

    def integrand(angle: float) -> float:  # t = tan(angle), so that the heavy tails are a finite interval
        t = math.tan(angle)
        return float(e_value(t, pairs=pairs, degrees=nu, tau=tau) * stats.t.pdf(t, nu) * (1 + t * t))

    expected, _ = integrate.quad(integrand, -math.pi / 2 + 1e-9, math.pi / 2 - 1e-9, limit=400)
    assert 0.998 < expected < 1.006


@given(pairs=st.integers(1, 30), degrees=st.floats(0.5, 40.0), tau=TAUS, t=st.floats(-50.0, 50.0), step=st.floats(0, 5))
def test_the_e_value_grows_with_t(pairs: int, degrees: float, tau: float, t: float, step: float) -> None:
    lower, upper = (e_value(one, pairs=pairs, degrees=degrees, tau=tau) for one in (t, t + step))
    assert lower <= upper * (1 + 1e-9)


@given(gains=st.lists(ORDINARY, min_size=2, max_size=12), spread=SPREADS, shift=st.floats(0.0, 50.0), tau=TAUS)
def test_equally_spread_gains_with_a_higher_mean_are_more_evidence(
    gains: list[float], spread: float, shift: float, tau: float
) -> None:
    before = weigh(gains, pool=pool_of(spread), tau=tau)
    after = weigh([gain + shift for gain in gains], pool=pool_of(spread), tau=tau)
    assert after.e_value >= before.e_value * (1 - 1e-6)


@given(gains=GAINS, spread=SPREADS, tau=TAUS)
def test_a_mean_of_at_most_zero_is_no_evidence_for_a_gain(gains: list[float], spread: float, tau: float) -> None:
    evidence = weigh(gains, pool=pool_of(spread), tau=tau)
    assert math.copysign(1.0, evidence.t) == math.copysign(1.0, evidence.mean) or evidence.t == 0
    if evidence.mean <= 0:
        assert evidence.e_value < 1


# -- weigh


@given(gains=GAINS, spread=SPREADS, tau=TAUS, factor=st.floats(1e-6, 1e6))
def test_the_unit_of_the_objective_does_not_matter(
    gains: list[float], spread: float, tau: float, factor: float
) -> None:
    one = weigh(gains, pool=pool_of(spread), tau=tau)
    other = weigh([factor * gain for gain in gains], pool=pool_of(factor * spread), tau=tau)
    assert other.t == pytest.approx(one.t, rel=1e-6, abs=1e-9)
    assert other.e_value == pytest.approx(one.e_value, rel=1e-5)
    for name in ("mean", "sd", "low", "high"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=1e-6, abs=1e-9 * factor)


@given(data=st.data(), gains=st.lists(ORDINARY, min_size=2, max_size=12), spread=SPREADS, tau=TAUS)
def test_the_order_of_the_gains_does_not_matter(
    data: st.DataObject, gains: list[float], spread: float, tau: float
) -> None:
    shuffled = data.draw(st.permutations(gains))
    one, other = (weigh(order, pool=pool_of(spread), tau=tau) for order in (gains, shuffled))
    assert (one.mean, one.sd, one.t, one.e_value, one.low, one.high) == (
        other.mean,
        other.sd,
        other.t,
        other.e_value,
        other.low,
        other.high,
    )


@given(
    gains=st.lists(FINITE, min_size=1, max_size=30),
    sum_squares=st.floats(0.0, 1e300),
    degrees=st.one_of(st.just(0.0), st.floats(0.5, 60.0)),
    tau=TAUS,
)
def test_every_number_but_the_interval_is_finite_for_finite_gains(
    gains: list[float], sum_squares: float, degrees: float, tau: float
) -> None:
    pool = NoisePool(sum_squares=sum_squares if degrees else 0.0, degrees=degrees)
    evidence = weigh(gains, pool=pool, tau=tau)
    numbers = [evidence.mean, evidence.t, evidence.e_value]
    assert all(math.isfinite(number) for number in numbers)
    json.dumps(numbers, allow_nan=False)
    assert 0 <= evidence.e_value <= LARGEST_E * (1 + 1e-9)
    assert not math.isnan(evidence.sd)
    assert evidence.low <= evidence.mean <= evidence.high


def test_the_t_statistic_is_students_when_the_pool_is_empty() -> None:
    gains = [0.3, 1.1, 0.8, -0.2, 0.9]
    evidence = weigh(gains, pool=NoisePool.empty(), tau=2.0)
    assert evidence.t == pytest.approx(stats.ttest_1samp(gains, 0.0).statistic)
    assert evidence.sd == pytest.approx(np.std(gains, ddof=1))
    assert evidence.pairs == 5


def test_the_pool_is_shared_when_it_is_the_noisier_and_not_when_the_gains_are() -> None:
    gains = [1.0, 2.0, 3.0]
    noisy = weigh(gains, pool=pool_of(4.0), tau=2.0)
    assert noisy.sd == pytest.approx(math.sqrt((3 * 16 + 2) / 5))
    quiet = weigh(gains, pool=pool_of(0.1), tau=2.0)
    assert quiet.sd == pytest.approx(1.0)


@given(gains=GAINS, spread=SPREADS, degrees=st.floats(3.0, 60.0))
def test_a_test_borrows_three_degrees_of_a_pool_and_no_more(gains: list[float], spread: float, degrees: float) -> None:
    one, other = (weigh(gains, pool=pool_of(spread, nu), tau=2.0) for nu in (3.0, degrees))
    assert other.t == pytest.approx(one.t, rel=1e-9, abs=1e-12)
    assert other.e_value == pytest.approx(one.e_value, rel=1e-7)


def test_evidence_needs_a_gain() -> None:
    with pytest.raises(ValueError, match="at least one gain"):
        weigh([], pool=POOL, tau=2.0)


@pytest.mark.parametrize("gain", [math.nan, math.inf, -math.inf])
def test_a_gain_that_is_not_finite_is_refused(gain: float) -> None:
    with pytest.raises(ValueError, match=r"a gain must be finite, got (nan|-?inf); .*feasibility"):
        weigh([1.0, gain], pool=POOL, tau=2.0)


def test_one_gain_and_an_empty_pool_say_nothing() -> None:
    evidence = weigh([3.0], pool=NoisePool.empty(), tau=2.0)
    assert (evidence.mean, evidence.sd, evidence.t, evidence.e_value) == (3.0, 0.0, 0.0, 1.0)
    assert (evidence.low, evidence.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("pool", [NoisePool.empty(), pool_of(0.0), POOL])
@pytest.mark.parametrize("pairs", [2, 3, 10])
def test_a_knob_without_any_effect_never_counts_as_evidence(pool: NoisePool, pairs: int) -> None:
    evidence = weigh([0.0] * pairs, pool=pool, tau=2.0)
    assert evidence.t == 0
    assert evidence.e_value == pytest.approx(1 / math.sqrt(1 + 4 * pairs))


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_gains_without_noise_have_a_capped_t_and_bounded_evidence(sign: int) -> None:
    evidence = weigh([sign * 0.1] * 3, pool=pool_of(0.0), tau=2.0)
    assert evidence.t == sign * LARGEST_T
    assert evidence.sd == 0
    assert evidence.low == evidence.high == evidence.mean == sign * 0.1
    limit = 2 / math.sqrt(13) * 13**3 * stats.t.cdf(sign * math.sqrt(6 * 12), 6)  # t to infinity: k = g / (1 + g)
    assert evidence.e_value == pytest.approx(limit, rel=1e-6)
    assert evidence.e_value < 2 * 13**2.5


def test_two_equal_gains_prove_little_when_the_pool_is_empty() -> None:
    assert weigh([0.1, 0.1], pool=NoisePool.empty(), tau=2.0).e_value < 6


def test_the_e_value_is_capped_where_it_would_leave_the_floats() -> None:
    assert weigh([1.0] * 400, pool=NoisePool.empty(), tau=2.0).e_value == pytest.approx(LARGEST_E)


# -- the interval


@given(gains=GAINS, spread=SPREADS, tau=TAUS, level=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_the_interval_is_where_the_two_sided_e_value_stays_below_its_bound(
    gains: list[float], spread: float, tau: float, level: float
) -> None:
    evidence = weigh(gains, pool=pool_of(spread), tau=tau, level=level)
    assume(math.isfinite(evidence.high))
    n, nu, g = evidence.pairs, 3 + evidence.pairs - 1, evidence.pairs * tau * tau
    t = (evidence.high - evidence.mean) / evidence.sd * math.sqrt(n)
    k = g / (1 + g) * t * t / (nu + t * t)
    two_sided = (1 + g) ** -0.5 * (1 - k) ** (-(nu + 1) / 2)
    assert two_sided == pytest.approx(1 / (1 - level), rel=1e-6)


def test_the_interval_is_wider_at_a_higher_level() -> None:
    widths = [half_width(pairs=6, degrees=8.0, sd=1.0, tau=2.0, level=level) for level in (0.5, 0.9, 0.95, 0.99)]
    assert widths == sorted(widths)
    assert len(set(widths)) == 4


def test_the_interval_is_unbounded_on_too_few_degrees() -> None:
    evidence = weigh([1.0, 1.1], pool=NoisePool.empty(), tau=2.0)
    assert (evidence.low, evidence.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95.0])
def test_a_level_that_is_no_probability_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        weigh([1.0, 2.0], pool=POOL, tau=2.0, level=level)


# -- the smallest gain that can be resolved


def test_the_smallest_resolvable_gain_is_the_same_every_time_and_scales_with_the_noise() -> None:
    def gain(sd: float) -> float:
        _resolvable_standardised.cache_clear()
        return smallest_resolvable_gain(pool=pool_of(sd), level_alpha=1 / 85, max_pairs=10, tau=2.0)

    one, again, scaled = gain(1.0), gain(1.0), gain(0.01)
    assert one == again
    assert scaled == pytest.approx(0.01 * one)


def test_power_strictness_and_pairs_move_the_smallest_resolvable_gain_the_right_way() -> None:
    def gain(*, level_alpha: float = 1 / 85, max_pairs: int = 10, power: float = 0.8) -> float:
        return smallest_resolvable_gain(pool=POOL, level_alpha=level_alpha, max_pairs=max_pairs, tau=2.0, power=power)

    assert gain(power=0.5) < gain() < gain(power=0.95)
    assert gain(level_alpha=1 / 20) < gain() < gain(level_alpha=1 / 1000)
    assert gain(max_pairs=20) < gain() < gain(max_pairs=5)


def test_no_gain_is_resolvable_where_the_evidence_is_bounded_below_the_threshold() -> None:
    assert smallest_resolvable_gain(pool=POOL, level_alpha=1e-6, max_pairs=2, tau=2.0) == math.inf
    assert smallest_resolvable_gain(pool=POOL, level_alpha=0.1, max_pairs=1, tau=2.0) == math.inf


def test_without_noise_every_gain_is_resolvable() -> None:
    assert smallest_resolvable_gain(pool=pool_of(0.0), level_alpha=1 / 85, max_pairs=10, tau=2.0) == 0.0


def test_an_empty_pool_cannot_tell_what_is_resolvable() -> None:
    with pytest.raises(ValueError, match="needs a calibrated pool"):
        smallest_resolvable_gain(pool=NoisePool.empty(), level_alpha=0.01, max_pairs=10, tau=2.0)


def test_scipy_and_numpy_are_imported_late() -> None:
    code = "import sys, lightning_autoresearch.decision; print({'scipy', 'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
