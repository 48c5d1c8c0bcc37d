"""Metrics that may not get worse, checked beside the objective.  Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from lightning_autoresearch.spec import Guard

WORSE_BY = 2.0
"""A guarded metric counts as worse when its mean paired change is this many standard errors on the wrong side."""

Metrics = Mapping[str, float | None]


def broken_bounds(guards: Sequence[Guard], metrics: Metrics) -> tuple[str, ...]:
    """The bounds that a run's metrics break, in words; a metric without a finite value breaks its bound.

    A hidden guard is named without its value.
    """
    problems = []
    for guard in guards:
        value = metrics.get(guard.metric)
        shown = guard.metric if guard.hidden or value is None else f"{guard.metric} = {value:.4g}"
        if guard.max is not None and not (value is not None and value <= guard.max):
            problems.append(
                f"{shown} is above its bound {guard.max:g}" if value is not None else f"{shown} has no finite value"
            )
        elif guard.min is not None and not (value is not None and value >= guard.min):
            problems.append(
                f"{shown} is below its bound {guard.min:g}" if value is not None else f"{shown} has no finite value"
            )
    return tuple(problems)


def worse_guards(guards: Sequence[Guard], pairs: Sequence[tuple[Metrics, Metrics]]) -> tuple[str, ...]:
    """The guards with a mode that got worse beyond the noise, in words.

    Args:
        guards: the spec's guards.
        pairs: (incumbent's metrics, branch's metrics) at equal seed and scale, two or more.

    A guard is worse when the mean of its n paired changes lies more than `WORSE_BY` standard errors on the wrong side
    (a paired t statistic below -2), or when it is worse on every pair without any spread.
    """
    return tuple(
        f"{guard.metric} got worse" + ("" if guard.hidden else f" by {-mean:.3g} on average over {len(pairs)} pairs")
        for guard in guards
        if guard.mode is not None and (mean := _clear_loss(guard, pairs)) is not None
    )


def _clear_loss(guard: Guard, pairs: Sequence[tuple[Metrics, Metrics]]) -> float | None:
    sign = 1.0 if guard.mode == "min" else -1.0
    gains = []
    for before, after in pairs:
        old, new = before.get(guard.metric), after.get(guard.metric)
        if old is None or new is None:
            return -math.inf if new is None else None
        gains.append(sign * (old - new))
    mean = statistics.fmean(gains)
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return mean if mean < 0 and mean <= -WORSE_BY * error else None
