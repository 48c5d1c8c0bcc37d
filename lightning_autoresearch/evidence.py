"""From paired gains to evidence: noise pools, e-value, interval.  Pure functions.

The e-value is the half-normal mixture of noncentral t likelihood ratios in closed form: right-Haar prior on the noise,
half-normal prior with scale tau on the standardised gain.  Both follow the mixture method for the t statistic (Lai
1976, Annals of Statistics 4; Wang and Ramdas 2024, "Anytime-valid t-tests and confidence sequences for Gaussian means
with unknown variance").  It may be looked at after every pair: P(it ever reaches 1/a) <= a if there is no gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUNDLE_TAU = 2.0
"""Scale of the standardised gain that a whole branch is expected to have, in standard deviations of one paired gain."""
SINGLE_TAU = 1.0
"""The same for a single change."""
CREDITED_DEGREES = 3.0
"""Degrees of freedom of the pool that one test may use.

Spreads of kinds of change differ a lot, so the test's own pairs are to dominate soon.
"""
POOL_DEGREES = 60.0
"""Degrees of freedom that a pool may grow to: older gains fade, since the noise moves with the incumbent."""
PROMOTE_FROM = 2
"""Fewest pairs that a gate promotes on."""
FAIL_FROM = 3
"""Fewest pairs that a gate fails on for want of progress."""
FUTILE_T = 0.5
"""A t statistic below this, from `FAIL_FROM` pairs on, ends a gate."""
LARGEST_E = 1e300
"""Cap of the e-value, so that it is a finite number in JSON."""
LARGEST_T = 1e9
"""Cap of the t statistic, which is infinite where equal gains leave no noise at all."""
_LARGEST_SQUARES = 1e300
_PATHS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisePool:
    """Spread of paired gains under no effect, at one scale and for one kind of change."""

    sum_squares: float
    """Sum of squared deviations, in squared units of the objective."""
    degrees: float
    """Degrees of freedom behind it."""

    @classmethod
    def empty(cls) -> NoisePool:
        """A pool that knows nothing."""
        return cls(sum_squares=0.0, degrees=0.0)

    @classmethod
    def from_baseline(cls, values: Sequence[float]) -> NoisePool:
        """A pool from one configuration's objective at n seeds: variance 2 var(values), n - 1 degrees of freedom.

        A gain is a difference of two runs, hence the factor 2.  It is the variance without any correlation between runs
        of equal seed; correlation makes real gains quieter, so that this errs on the safe side.  Values that are all
        equal give a variance of exactly 0: training then does not depend on the seed, as far as was seen.

        Raises:
            ValueError: there are fewer than two values, or one is not finite.
        """
        numbers = _finite(values, name="baseline value")
        if len(numbers) < 2:
            raise ValueError(f"noise needs at least 2 baseline values, got {len(numbers)}")
        return cls(sum_squares=_capped(2.0 * _squares(numbers)), degrees=float(len(numbers) - 1))

    def add(self, gains: Sequence[float]) -> NoisePool:
        """The pool with the gains of one more gate, each taken about their own mean, so that a real gain is no noise.

        Fewer than two gains have no spread and change nothing.  Above 60 degrees of freedom the whole is scaled down to
        60, which leaves the variance as it is.

        Raises:
            ValueError: a gain is not finite.
        """
        numbers = _finite(gains, name="gain")
        if len(numbers) < 2:
            return self
        squares = self.sum_squares + _squares(numbers)
        degrees = self.degrees + len(numbers) - 1
        return NoisePool(sum_squares=_capped(squares), degrees=degrees).credited(cap=POOL_DEGREES)

    def credited(self, cap: float = CREDITED_DEGREES) -> NoisePool:
        """The same variance on at most `cap` degrees of freedom: what one test may borrow."""
        if self.degrees <= cap:
            return self
        return NoisePool(sum_squares=self.variance * cap, degrees=cap)

    @property
    def variance(self) -> float:
        """Variance of one paired gain, in squared units of the objective; 0 for an empty pool."""
        return self.sum_squares / self.degrees if self.degrees else 0.0

    @property
    def sd(self) -> float:
        """Standard deviation of one paired gain, in units of the objective; 0 for an empty pool."""
        return math.sqrt(self.variance)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What n pairs say about a gain."""

    gains: tuple[float, ...]
    """Paired gains in the order they were measured, positive is better."""
    mean: float
    """Mean gain in units of the objective."""
    sd: float
    """Standard deviation that the test used (square root of v), in units of the objective."""
    t: float
    """The t statistic."""
    e_value: float
    """Evidence against "no gain": expected value at most 1 if there is none."""
    low: float
    """Lower end of the anytime-valid interval of the mean gain; minus infinity while it is unbounded."""
    high: float
    """Upper end; infinity while it is unbounded."""
    level: float
    """Coverage of the interval, for example 0.95."""

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.gains)


def weigh(gains: Sequence[float], *, pool: NoisePool, tau: float, level: float = 0.95) -> Evidence:
    """What n paired gains say, given what the pool says about their noise.

    With mean D, q = sum (D_i - D)^2 and the pool's variance v0 on nu0 = min(its degrees, 3) degrees of freedom:
    nu = nu0 + n - 1, v = max((nu0 v0 + q) / nu, q / (n - 1)), t = D sqrt(n / v).  The maximum keeps a candidate that is
    noisier than the pool from borrowing the pool's quiet; it can only lower the e-value of a positive mean.

    Conventions where the formula has no value:

    - One gain and an empty pool: nothing is known about the noise, so t is 0, the e-value 1, the interval unbounded.
    - No noise at all (equal gains, a pool of variance 0): t is 0 for gains of 0, so that the e-value is below 1 and a
      knob without any effect cannot be promoted; otherwise t is `LARGEST_T` with the gain's sign.  The e-value stays
      bounded even then, by 2 (1 + n tau^2)^(nu / 2): two equal gains prove little when the pool is empty.
    - The e-value is capped at `LARGEST_E`.

    Not covered: gains that are far from normal, and gains that are not independent of each other.

    Args:
        gains: n paired gains in units of the objective, positive is better.
        pool: the noise; credited with at most 3 degrees of freedom here, whether or not that was done before.
        tau: scale of the half-normal prior on the standardised gain, `BUNDLE_TAU` or `SINGLE_TAU`.
        level: coverage of the interval, between 0 and 1.

    Raises:
        ValueError: there are no gains, or one is not finite.
    """
    numbers = _finite(gains, name="gain")
    if not numbers:
        raise ValueError("evidence needs at least one gain")
    n, credited = len(numbers), pool.credited()
    degrees = credited.degrees + n - 1
    unit = max(*map(abs, numbers), credited.sd) or 1.0  # squares of very large or small gains would leave the floats
    scaled = [number / unit for number in numbers]
    mean, sd = _mean(scaled), _test_sd(scaled, noise=credited.sd / unit, noise_degrees=credited.degrees)
    t = _t_statistic(mean, sd=sd, n=n) if degrees else 0.0
    width = half_width(pairs=n, degrees=degrees, sd=sd * unit, tau=tau, level=level)
    return Evidence(
        gains=numbers,
        mean=mean * unit,
        sd=sd * unit,
        t=t,
        e_value=e_value(t, pairs=n, degrees=degrees, tau=tau) if degrees else 1.0,
        low=mean * unit - width,
        high=mean * unit + width,
        level=level,
    )


def e_value(t: float, *, pairs: int, degrees: float, tau: float) -> float:
    """The e-value of a t statistic on `degrees` (nu, above 0) degrees of freedom after n pairs; between 0 and 1e300.

    With g = n tau^2 and k = g / (1 + g) * t^2 / (nu + t^2) it is
    2 (1 + g)^(-1/2) (1 - k)^(-(nu + 1) / 2) T_{nu+1}(sign(t) sqrt((nu + 1) k / (1 - k))), T being Student's
    distribution function: the ratio of the noncentral t density, averaged over a half-normal standardised gain of scale
    tau, to the central one.  It grows with t and does not depend on the unit of the gains.
    """
    from scipy.special import stdtr  # late: it takes longer to import than `status` takes to answer

    g, square = pairs * tau * tau, t * t
    odds = g * square / (degrees * (1.0 + g) + square)  # k / (1 - k) without the loss of digits in 1 - k
    tail = float(stdtr(degrees + 1.0, math.copysign(math.sqrt((degrees + 1.0) * odds), t)))
    if tail <= 0.0:
        return 0.0
    log_e = math.log(2.0 * tail) - 0.5 * math.log1p(g) + 0.5 * (degrees + 1.0) * math.log1p(odds)
    return math.exp(min(log_e, math.log(LARGEST_E)))


def half_width(*, pairs: int, degrees: float, sd: float, tau: float, level: float = 0.95) -> float:
    """Half the width of the anytime-valid interval of the mean gain, in the unit of `sd`; infinity while unbounded.

    sqrt(nu (1 - c) (1 + g) / (g - (1 - c) (1 + g)) * v / n) with c = ((1 + g) / a^2)^(-1 / (nu + 1)), a = 1 - level:
    the gains that the two-sided version of the e-value (a normal instead of a half-normal prior) does not reject at
    1/a.  The interval covers the true mean at all n at once with probability at least `level`, so a study may look at
    it whenever it likes and stop because of what it saw.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"the interval's level must be between 0 and 1, got {level}")
    g = pairs * tau * tau
    reach = -math.expm1((2.0 * math.log(1.0 - level) - math.log1p(g)) / (degrees + 1.0)) * (1.0 + g)
    if degrees <= 0 or reach >= g:
        return math.inf
    return math.sqrt(degrees * reach / (g - reach) / pairs) * sd


def smallest_resolvable_gain(
    *, pool: NoisePool, level_alpha: float, max_pairs: int, tau: float, power: float = 0.8
) -> float:
    """Smallest true gain, in units of the objective, that a gate at level `level_alpha` promotes with the given power.

    A simulation of 20,000 gates with normal noise of the pool's standard deviation and the gate's own rules (promote
    from 2 pairs on, fail from 3 pairs on below t = 0.5, at most `max_pairs`); seeded, so the same arguments give the
    same number.  Each simulated noise has a smallest gain from which on it is promoted, because t grows with the gain
    at every n; the answer is the `power` quantile of these.  Not covered: the uncertainty of the pool itself.

    Returns:
        The gain; infinity where no gain, however large, is promoted within `max_pairs`; 0 where the pool has no noise.

    Raises:
        ValueError: the pool is empty.
    """
    if not pool.degrees:
        raise ValueError("the smallest resolvable gain needs a calibrated pool, and this one is empty")
    standardised = _resolvable_standardised(pool.credited().degrees, level_alpha, max_pairs, tau, power)
    return standardised * pool.sd if math.isfinite(standardised) else math.inf


@lru_cache(maxsize=64)
def _resolvable_standardised(degrees: float, level_alpha: float, max_pairs: int, tau: float, power: float) -> float:
    """The same in standard deviations of a gain; it is asked for after every gate, with few different arguments."""
    import numpy as np  # late, as above

    noise = np.random.default_rng(0).standard_normal((_PATHS, max_pairs))
    needed = _needed_gains(noise, degrees=degrees, level_alpha=level_alpha, tau=tau)
    return float(np.quantile(needed, power, method="higher"))


def _needed_gains(noise: NDArray[np.float64], *, degrees: float, level_alpha: float, tau: float) -> NDArray[np.float64]:
    """The smallest true gain, in sd of a gain, from which on each row of standard normal noise is promoted."""
    import numpy as np

    needed, survive = np.full(len(noise), np.inf), np.full(len(noise), -np.inf)
    for n in range(PROMOTE_FROM, noise.shape[1] + 1):
        seen = noise[:, :n]
        mean, q = seen.mean(axis=1), seen.var(axis=1) * n
        nu = degrees + n - 1
        error = np.sqrt(np.maximum((degrees + q) / nu, q / (n - 1)) / n)
        bar = _critical_t(1.0 / level_alpha, pairs=n, degrees=nu, tau=tau)
        needed = np.minimum(needed, np.maximum(bar * error - mean, survive))
        if n >= FAIL_FROM:
            survive = np.maximum(survive, FUTILE_T * error - mean)
    return needed


def _critical_t(threshold: float, *, pairs: int, degrees: float, tau: float) -> float:
    """The t statistic at which the e-value reaches the threshold (at least 1); infinity where it never does."""
    low, high = 0.0, LARGEST_T
    if e_value(high, pairs=pairs, degrees=degrees, tau=tau) < threshold:
        return math.inf
    while high - low > 1e-9 * high:
        middle = 0.5 * (low + high)
        if e_value(middle, pairs=pairs, degrees=degrees, tau=tau) < threshold:
            low = middle
        else:
            high = middle
    return high


def _finite(values: Sequence[float], *, name: str) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    for number in numbers:
        if not math.isfinite(number):
            raise ValueError(f"a {name} must be finite, got {number}; a failed trial is feasibility, not a number")
    return numbers


def _mean(numbers: Sequence[float]) -> float:
    """The mean; independent of the order, to the last digit."""
    return math.fsum(numbers) / len(numbers)


def _squares(numbers: Sequence[float]) -> float:
    """Sum of squared deviations from the mean; infinity where it leaves the floats."""
    unit = max(map(abs, numbers)) or 1.0  # keeps the sum within the floats, and turns equal numbers into exact ones
    scaled = [number / unit for number in numbers]
    mean = _mean(scaled)
    deviations = [(number - mean) * unit for number in scaled]
    return math.fsum(deviation * deviation for deviation in deviations)


def _capped(squares: float) -> float:
    # A run that is about to diverge can have a finite loss whose square is not: it must not end a study.
    return min(squares, _LARGEST_SQUARES)


def _test_sd(gains: Sequence[float], *, noise: float, noise_degrees: float) -> float:
    """Square root of v: the pooled spread or the gains' own, whichever is larger."""
    squares, own = _squares(gains), len(gains) - 1
    degrees = noise_degrees + own
    pooled = (noise_degrees * noise * noise + squares) / degrees if degrees else 0.0
    return math.sqrt(max(pooled, squares / own if own else 0.0))


def _t_statistic(mean: float, *, sd: float, n: int) -> float:
    if mean == 0.0:
        return 0.0
    t = abs(mean) * math.sqrt(n) / sd if sd > abs(mean) / LARGEST_T else LARGEST_T
    return math.copysign(min(t, LARGEST_T), mean)
