"""What is kept and what is promoted.  Pure functions of evidence.

Search leniently, promote strictly: a screen keeps on two seeds, provisionally; one gate then decides on the whole
branch against the confirmed incumbent, on fresh seeds and with an error guarantee over all gates of a scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Literal, Protocol

from lightning_autoresearch.evidence import (
    BUNDLE_TAU,
    CREDITED_DEGREES,
    FAIL_FROM,
    FUTILE_T,
    PROMOTE_FROM,
    SINGLE_TAU,
    Evidence,
    NoisePool,
    weigh,
)
from lightning_autoresearch.spec import DecisionRule
from lightning_autoresearch.trial import INFRASTRUCTURE, TrialStatus

SLACK = 0.5
"""How much worse, in standard deviations of a gain, a kept hypothesis may be on a seed after the first."""
_HORIZON = 200_000
_SAYS_NOTHING = INFRASTRUCTURE | {TrialStatus.CANCELLED}


class Verdict(str, Enum):
    """What was decided."""

    KEEP = "KEEP"
    DROP = "DROP"
    PROMOTE = "PROMOTE"
    FAIL = "FAIL"
    VOID = "VOID"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """A verdict with its evidence and one sentence."""

    stage: Literal["screen", "gate"]
    """Where it was decided."""
    verdict: Verdict
    """What was decided."""
    sentence: str
    """Why, in one sentence with the numbers."""
    evidence: Evidence | None = None
    """The paired gains; null where nothing could be compared."""
    threshold: float | None = None
    """What the e-value had to reach (gate only)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorStream:
    """The error budget over all gates of one scale, by e-LOND.

    The k-th gate is held to alpha_k = alpha * gamma_k * (R + 1), R being the promotions before it and gamma_k
    proportional to 1 / (k ln(max(k, 2))^2 + 10), summing to 1 over 200,000 gates.  The expected share of false
    promotions among all promotions is then at most alpha, whatever the dependence between the gates (Xu and Ramdas
    2024, "Online multiple testing with e-values").
    """

    alpha: float
    """False discovery rate over all gates."""
    gates: int = 0
    """Gates that have spent their level."""
    promotions: int = 0
    """Promotions among them."""

    @property
    def level(self) -> float:
        """Error level of the next gate, alpha_k; 0 after 200,000 gates."""
        k = self.gates + 1
        return self.alpha * _weight(k) / _weights() * (self.promotions + 1) if k <= _HORIZON else 0.0

    @property
    def threshold(self) -> float:
        """What the next gate's e-value has to reach, 1 / alpha_k."""
        return _threshold(self.level)

    def after(self, verdict: Verdict) -> ErrorStream:
        """The stream after a gate ended with PROMOTE, FAIL or VOID.

        VOID spends the level too.  The guarantee needs every gamma_k to be used for one e-value only; handing it on
        would be harmless only where a gate is voided for causes that its gains cannot influence, and a gate that the
        budget cut short, or whose runs failed, is not always such a case.  The price is a threshold that is 5 % higher
        at the second gate (89 instead of 85) and 24 % at the third (110).  A gate that is continued later is the same
        gate, and a gate without any pair is none: neither has to be reported here.

        Raises:
            ValueError: the verdict is a screen's.
        """
        if verdict in (Verdict.KEEP, Verdict.DROP):
            raise ValueError(
                f"{verdict.value} is a screen's verdict; an error stream counts gates (PROMOTE, FAIL, VOID)"
            )
        return replace(self, gates=self.gates + 1, promotions=self.promotions + (verdict is Verdict.PROMOTE))


def screen(gains: Sequence[float], *, noise_sd: float, seeds: int = 2) -> Decision | None:
    """Whether a hypothesis is kept, provisionally, on the round's seeds so far.

    Dropped when the first gain is not above 0, when a later one is below -0.5 standard deviations of a gain, or when
    the sum over all seeds is not above 0; kept otherwise.  No error guarantee: what was kept was selected on these very
    seeds, so its gains are too high on average, and the e-value in the evidence describes, it does not decide.

    Args:
        gains: paired gains in units of the objective, in the order of the round's seeds.
        noise_sd: standard deviation of one paired gain under no effect, in units of the objective.
        seeds: how many seeds decide.

    Returns:
        KEEP or DROP; None while a further seed is needed.
    """
    if not gains:
        return None
    worst = min(gains[1:], default=0.0)
    if gains[0] <= 0:
        return _screened(
            gains, Verdict.DROP, f"it is not better on the first seed (gain {gains[0]:.4g})", noise_sd=noise_sd
        )
    if worst < -SLACK * noise_sd:
        why = (
            f"it is worse by {-worst:.4g} on a further seed, more than {SLACK:g} sd of a gain ({SLACK * noise_sd:.4g})"
        )
        return _screened(gains, Verdict.DROP, why, noise_sd=noise_sd)
    if len(gains) < seeds:
        return None
    return _by_mean(gains, noise_sd=noise_sd)


def drop_failed(status: TrialStatus | str, *, failure: str | None = None) -> Decision:
    """The screen's decision on a hypothesis whose trial has no objective, told by how the trial ended.

    DROP where the configuration failed: feasibility, an outcome of its own and never a large loss.  VOID where the
    trial was lost, killed, cancelled or void, which says nothing about the hypothesis.

    Raises:
        ValueError: there is no such status, or the trial finished.
    """
    status = TrialStatus(status)
    if status is TrialStatus.FINISHED:
        raise ValueError("the trial finished; screen its gain")
    told = status.value.replace("_", " ") + (f" ({failure})" if failure else "")
    if status in _SAYS_NOTHING:
        sentence = f"Void: its trial ended as {told}, which says nothing about the hypothesis."
        return Decision(stage="screen", verdict=Verdict.VOID, sentence=sentence)
    return Decision(
        stage="screen", verdict=Verdict.DROP, sentence=f"Dropped as not feasible: its trial ended as {told}."
    )


def gate(
    gains: Sequence[float], *, pool: NoisePool, level: float, max_pairs: int = 10, tau: float = BUNDLE_TAU
) -> Decision | None:
    """Whether the branch is promoted, on pairs at fresh seeds so far; to be asked after every pair.

    PROMOTE from 2 pairs on when the e-value reaches 1 / level; FAIL from 3 pairs on when t is below 0.5, and at
    `max_pairs`.  The e-value may be looked at after every pair, less often, and after a pause: a test is continued,
    never restarted.  P(a branch without gain is promoted) is at most `level` for normal gains as noisy as the pool.

    Weak spot: a candidate that is far noisier than the pool, because in the first pairs the e-value still leans on the
    pool.  At level 0.05 a branch without gain is promoted with probability 0.035 when its gains spread 2 times as much
    as the pool says, and 0.079 at 5 times; at the first gate of a stream with alpha 0.1 (level 0.012) it is 0.008 and
    0.024.  Not covered: gains far from normal.

    Args:
        gains: paired gains in units of the objective, in the order they were measured; none of them used before.
        pool: noise of gains of this kind at this scale, without these gains.
        level: error level of this gate, `ErrorStream.level`.
        max_pairs: pairs at which the gate fails.
        tau: `BUNDLE_TAU` for several changes at once, `SINGLE_TAU` for one.

    Returns:
        PROMOTE or FAIL; None while a further pair is needed.

    Raises:
        ValueError: a gain is not finite.
    """
    if not gains:
        return None
    evidence, threshold, n = weigh(gains, pool=pool, tau=tau), _threshold(level), len(gains)
    if n >= PROMOTE_FROM and evidence.e_value >= threshold:
        return _gated(evidence, Verdict.PROMOTE, f"it reached {threshold:.4g}", threshold=threshold)
    if n >= FAIL_FROM and evidence.t < FUTILE_T:
        return _gated(evidence, Verdict.FAIL, f"t = {evidence.t:.2f} leaves little hope", threshold=threshold)
    if n >= max_pairs:
        return _gated(evidence, Verdict.FAIL, f"{threshold:.4g} was needed and no pairs are left", threshold=threshold)
    return None


def gate_failed(reason: str, *, evidence: Evidence | None = None, threshold: float | None = None) -> Decision:
    """FAIL because the branch could not be trained in a gate: a constraint of its own, whatever the gains say."""
    sentence = f"Failed: the branch did not train on a fresh seed of the gate ({reason})."
    return Decision(stage="gate", verdict=Verdict.FAIL, sentence=sentence, evidence=evidence, threshold=threshold)


class Rule(Protocol):
    """How a hypothesis is screened, and whether what is kept still has to pass a gate."""

    @property
    def seeds_per_screen(self) -> int:
        """How many seeds a screen may use."""
        ...

    @property
    def gated(self) -> bool:
        """Whether KEEP is provisional until a gate; without one, KEEP is final and has no error guarantee."""
        ...

    def screen(self, gains: Sequence[float], *, noise_sd: float) -> Decision | None:
        """KEEP or DROP on the seeds so far; None while a further seed is needed."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRule:
    """Lenient screen on two seeds, strict gate at the end of the round."""

    seeds_per_screen: int = 2
    """How many seeds a screen may use."""
    gated: bool = True
    """KEEP is provisional."""

    def screen(self, gains: Sequence[float], *, noise_sd: float) -> Decision | None:
        """See `screen`."""
        return screen(gains, noise_sd=noise_sd, seeds=self.seeds_per_screen)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanRule:
    """Keep for good if the mean gain over k seeds is above 0; for comparison only, false keeps are not controlled.

    One seed is the greedy rule of most tools.
    """

    seeds_per_screen: int
    """How many seeds are averaged, k."""
    gated: bool = False
    """KEEP is final."""

    def screen(self, gains: Sequence[float], *, noise_sd: float) -> Decision | None:
        """KEEP or DROP by the mean of k gains; None while there are fewer."""
        return _by_mean(gains, noise_sd=noise_sd) if len(gains) >= self.seeds_per_screen else None


def rule_for(decision: DecisionRule) -> Rule:
    """The rule that a spec's `decision` names."""
    if decision.rule == "gate":
        return GateRule()
    return MeanRule(seeds_per_screen=1 if decision.rule == "greedy" else decision.mean_seeds)


def _by_mean(gains: Sequence[float], *, noise_sd: float) -> Decision:
    seeds = "1 seed" if len(gains) == 1 else f"{len(gains)} seeds"
    if math.fsum(gains) > 0:
        return _screened(gains, Verdict.KEEP, f"it is better over {seeds}", noise_sd=noise_sd)
    return _screened(gains, Verdict.DROP, f"it is not better over {seeds}", noise_sd=noise_sd)


def _screened(gains: Sequence[float], verdict: Verdict, why: str, *, noise_sd: float) -> Decision:
    noise = NoisePool(sum_squares=CREDITED_DEGREES * noise_sd * noise_sd, degrees=CREDITED_DEGREES)
    evidence = weigh(gains, pool=noise, tau=SINGLE_TAU)
    word = "Kept" if verdict is Verdict.KEEP else "Dropped"
    mean = f"mean gain {evidence.mean:.4g}, " if len(gains) > 1 or verdict is Verdict.KEEP else ""
    sentence = f"{word}: {why}; {mean}sd of a gain {noise_sd:.4g}."
    return Decision(stage="screen", verdict=verdict, sentence=sentence, evidence=evidence)


def _gated(evidence: Evidence, verdict: Verdict, why: str, *, threshold: float) -> Decision:
    word = "Promoted" if verdict is Verdict.PROMOTE else "Failed"
    interval = (
        f"{100 * evidence.level:g} % interval {evidence.low:.4g} to {evidence.high:.4g}"
        if math.isfinite(evidence.low)
        else "interval still unbounded"
    )
    sentence = (
        f"{word}: mean gain {evidence.mean:.4g} over {evidence.pairs} pairs ({interval}), "
        f"e-value {evidence.e_value:.4g}; {why}."
    )
    return Decision(stage="gate", verdict=verdict, sentence=sentence, evidence=evidence, threshold=threshold)


def _threshold(level: float) -> float:
    return 1.0 / level if level > 0 else math.inf


def _weight(k: int) -> float:
    return 1.0 / (k * math.log(max(k, 2)) ** 2 + 10.0)


@cache
def _weights() -> float:
    """Sum of the first 200,000 weights."""
    return math.fsum(map(_weight, range(1, _HORIZON + 1)))
