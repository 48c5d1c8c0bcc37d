"""The budget: how many trials are left, how many are kept back for the gate, and whether the time is up."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection

from lightning_autoresearch.dispatch import Dispatcher
from lightning_autoresearch.scales import Scale
from lightning_autoresearch.spec import Spec
from lightning_autoresearch.steps import Steps

CREDITED_SEEDS = 4
"""Calibration runs at scales above the first: a gate credits three degrees of freedom, and four runs give those."""


class Purse:
    """The budget of one study.

    Args:
        spec: the user's spec.
        steps: the study's journaled steps.
        dispatcher: knows which runs were used.
        elapsed: wall-clock seconds of the study, over all sessions.
        usd_spent: US dollars that the language model has cost so far; None while that is not known.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        steps: Steps,
        dispatcher: Dispatcher,
        elapsed: Callable[[], float],
        usd_spent: Callable[[], float | None] = lambda: None,
    ):
        self.spec = spec
        self._steps = steps
        self._dispatcher = dispatcher
        self._elapsed = elapsed
        self._usd_spent = usd_spent

    @property
    def trials_left(self) -> int:
        """Trials that may still be started."""
        return self.spec.budget.trials - len(self._dispatcher.used)

    @property
    def ladder(self) -> tuple[Scale, ...]:
        """The scales that a branch is gated at before it is adopted."""
        return self.spec.scales.up_to(self.spec.decision.adopt_at or self.spec.scales.target.name)

    def confirm_cost(self, *, first: bool) -> int:
        """Trials of a confirmation: two arms, three from the second promotion on."""
        return self.spec.decision.confirm_pairs * (2 if first else 3)

    def reserve(self, *, calibrated: Collection[str], gated: bool, first: bool) -> int:
        """Trials kept back so that what is found can still be gated and confirmed; at most half of the budget.

        Args:
            calibrated: names of the scales whose noise is measured already.
            gated: whether the rule has gates.
            first: whether nothing was promoted so far.
        """
        gates = len(self.ladder) * 2 * self.spec.decision.gate_pairs if gated else 0
        fresh = sum(scale.name not in calibrated for scale in self.ladder)
        calibration = fresh * min(CREDITED_SEEDS, self.spec.decision.calibration_seeds)
        return min(gates + calibration + self.confirm_cost(first=first), self.spec.budget.trials // 2)

    def spent(self, *, cost: int, key: str, ahead: int = 0, asking: bool = False) -> str:
        """Why the budget does not allow to go on, or "".

        The clock and the language model's cost differ from run to run: that one of them ended the study is journaled,
        and while journaled steps are still to be met neither is asked.

        Args:
            cost: trials that the next step needs, with all that must follow it.
            key: name of the step.
            ahead: trials whose expected time must also fit (at most half of the hours).
            asking: whether the next step may ask the language model, so that its cost counts.
        """
        if ended := self._steps.journal.find("budget_ended", key):
            return str(ended.data["reason"])
        if self.trials_left < cost:
            rest = (
                ": what is left would not suffice to search, gate and confirm any further" if self.trials_left else ""
            )
            return f"the budget of {self.spec.budget.trials} trials is spent{rest}"
        if self._steps.replaying:
            return ""
        reason = self._time_is_up(ahead) or (self._gains_are_too_dear() if asking else "")
        if reason:
            data = {"reason": reason, "elapsed_seconds": round(self._elapsed(), 1)}
            self._steps.journal.append("budget_ended", data, key=key)
        return reason

    def _time_is_up(self, ahead: int) -> str:
        hours = self.spec.budget.hours
        if hours is None or self._elapsed() + min(self._seconds_for(ahead), hours * 1800) < hours * 3600:
            return ""
        return f"the budget of {hours:g} hours is spent"

    def _gains_are_too_dear(self) -> str:
        """The stop rule on the language model's cost per confirmed improvement."""
        most, usd = self.spec.budget.usd_per_gain, self._usd_spent()
        gains = sum(entry.kind == "spec_revised" for entry in self._steps.journal)
        if most is None or usd is None or usd / max(1, gains) <= most:
            return ""
        return (
            f"the language model has cost {usd:.2f} US dollars for {gains} confirmed improvements, "
            f"more than budget.usd_per_gain = {most:g} each"
        )

    def _seconds_for(self, trials: int) -> float:
        """Expected wall-clock seconds of so many trials, from those that were run."""
        seconds = [entry.data["wall_seconds"] for entry in self._steps.journal if entry.kind == "trial_finished"]
        return statistics.fmean(seconds) * trials / self.spec.execution.slots if seconds else 0.0
