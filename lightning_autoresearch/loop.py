"""The research loop: calibrate, then rounds of propose, screen, gate, revise.

The code reads from top to bottom as if nothing could interrupt it.  What makes that true is the journal: whatever has
an effect or depends on the clock goes through a journaled step (`steps.py`, `dispatch.py`), everything else is a pure
function of what is journaled.  A study that was killed runs the same code again from the top; steps that stand in the
journal answer from there, at no cost, until the first one that does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from lightning_autoresearch import codec
from lightning_autoresearch.bench import Bench, Run
from lightning_autoresearch.decision import Decision, Verdict, drop_failed, rule_for
from lightning_autoresearch.dispatch import Chain, Dispatcher
from lightning_autoresearch.errors import StudyFailed
from lightning_autoresearch.evidence import BUNDLE_TAU, NoisePool, smallest_resolvable_gain, weigh
from lightning_autoresearch.gating import MAX_VOID_PAIRS, Gated, Gatekeeper
from lightning_autoresearch.guards import broken_bounds
from lightning_autoresearch.hypothesis import (
    Finding,
    GateFinding,
    Hypothesis,
    Proposer,
)
from lightning_autoresearch.intake import Intake, State
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.knobs import Knob
from lightning_autoresearch.purse import CREDITED_SEEDS, Purse
from lightning_autoresearch.revise import Reviser, Revision
from lightning_autoresearch.scales import Scale
from lightning_autoresearch.scoring import forecasts_of, scores_record
from lightning_autoresearch.space import Value, canonical
from lightning_autoresearch.spec import Spec
from lightning_autoresearch.trial import Purpose

MAX_REFUSED = 3
"""Proposals in a row of which nothing is let through, before the study ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Screened:
    """What the screen found of one hypothesis."""

    hypothesis: Hypothesis
    """What was tested."""
    decision: Decision
    """What was decided."""
    runs: tuple[Run, ...]
    """Its runs, in the order of the bars."""
    gains: tuple[float, ...]
    """Its paired gains."""
    branch: Mapping[str, Value]
    """The branch that it was compared with."""
    why: str = ""
    """What decided it beside its gains, in a few words."""

    @property
    def config(self) -> dict[str, Value]:
        """The configuration that was tested."""
        return {**self.branch, **self.hypothesis.overrides}

    @property
    def kept(self) -> bool:
        """Whether the screen kept it."""
        return self.decision.verdict is Verdict.KEEP


class Loop:
    """One pass of the loop over a journal; see the module's text for how it resumes.

    Args:
        spec: the user's spec.
        journal: the study's journal, open for writing.
        dispatcher: what runs trials.
        proposer: what states hypotheses.
        reviser: what writes revisions of the spec, and knows the search space as it is now.
        elapsed: wall-clock seconds of the study, over all sessions.
        knobs: keys that a proposer may add to the search space.
        usd_spent: US dollars that the language model has cost so far; None while that is not known.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        journal: Journal,
        dispatcher: Dispatcher,
        proposer: Proposer,
        reviser: Reviser,
        elapsed: Callable[[], float],
        knobs: Mapping[str, Knob] = MappingProxyType({}),
        usd_spent: Callable[[], float | None] = lambda: None,
    ):
        self.spec = spec
        self.rule = rule_for(spec.decision)
        self._dispatcher, self._reviser = dispatcher, reviser
        self._steps = dispatcher.steps
        self._bench = Bench(spec, dispatcher=dispatcher)
        self._purse = Purse(spec, steps=self._steps, dispatcher=dispatcher, elapsed=elapsed, usd_spent=usd_spent)
        self._gates = Gatekeeper(spec, bench=self._bench, purse=self._purse, steps=self._steps)
        self._state = State.of(self._bench.base)
        self._intake = Intake(
            spec,
            state=self._state,
            proposer=proposer,
            reviser=reviser,
            bench=self._bench,
            journal=journal,
            steps=self._steps,
            knobs=knobs,
            trials_left=lambda: self._purse.trials_left,
        )

    # -- the route ---------------------------------------------------------------------------------------------------

    def go(self) -> str:
        """Run until the study ends.

        Returns:
            The reason, in words.

        Raises:
            StudyFailed: the baseline does not train.
            Interrupted: the person asked to stop.
        """
        self._phase("calibrating")
        search = self.spec.scales.search
        if reason := self._purse.spent(cost=2, key="calibrate"):
            return reason
        self._state.bars = self._calibrate(search, seeds=self.spec.decision.calibration_seeds)[
            : self.rule.seeds_per_screen
        ]
        if self.spec.decision.self_test:
            self._self_test(search)
        while True:
            self._bench.round += 1
            kept, reason = self._search()
            if kept:
                self._close(kept)
            else:
                self._state.stale_rounds += 1
            self._score_predictions()
            if reason:
                return reason

    def _search(self) -> tuple[list[Screened], str]:
        """One round of proposals and screening.

        Returns:
            What was kept, and why the study ends with this round ("" when it does not).
        """
        kept: list[Screened] = []
        proposals = refused = 0
        rule = self.spec.decision
        while len(kept) < rule.keeps_per_round and proposals < rule.proposals_per_round:
            reserve = self._reserve()
            missing = max(0, self.rule.seeds_per_screen - len(self._state.bars))
            cost = reserve + missing + self.rule.seeds_per_screen
            key = f"{self._bench.round}/{self._state.asked}"
            if reason := self._purse.spent(cost=cost, ahead=reserve, key=key, asking=True):
                return kept, reason
            self._draw_bars()
            self._state.gain_sd = self._gates.pools[self.spec.scales.search.name, True].sd
            hypotheses = self._intake.propose(min(self._batch(), rule.proposals_per_round - proposals))
            if hypotheses is None:
                return kept, "the search space is exhausted: everything within the policy's limits was tried"
            proposals += len(hypotheses)
            refused = 0 if hypotheses else refused + 1
            if refused >= MAX_REFUSED:
                return kept, f"nothing of {MAX_REFUSED} proposals in a row was let through; the messages say why"
            kept += self._screen_batch(hypotheses, room=rule.keeps_per_round - len(kept))
        return kept, ""

    def _close(self, kept: Sequence[Screened]) -> None:
        """Gate the round's branch up the ladder; then it is the incumbent, or forgotten."""
        gates: list[Gated] = []
        passed = True
        for scale in self._purse.ladder if self.rule.gated else self._purse.ladder[-1:]:
            passed = self._ready(scale)
            if not (passed and self.rule.gated):
                break
            self._phase("gating")
            gates.append(
                self._gates.hold(
                    scale,
                    champion=dict(self._state.incumbent),
                    challenger=dict(self._state.branch),
                    hypotheses=tuple(one.hypothesis.id for one in kept),
                    first=not self._state.revisions,
                )
            )
            passed = gates[-1].decision.verdict is Verdict.PROMOTE
            if not passed:
                break
        promoted = passed and self._promote(kept, gates)
        if not promoted:
            self._state.branch = dict(self._state.incumbent)
        self._state.bars = self._bars_after(gates, promoted=promoted)
        self._state.release_void()
        if gates:  # each spends some of the error budget, and tells of the noise
            self._state.resolvable = self._resolvable(self.spec.scales.search)
        self._state.stale_rounds = 0 if promoted else self._state.stale_rounds + 1
        self._state.gates += [self._gate_finding(gated, kept) for gated in gates]

    def _gate_finding(self, gated: Gated, kept: Sequence[Screened]) -> GateFinding:
        return GateFinding(
            round=self._bench.round,
            scale=gated.scale.name,
            hypotheses=tuple(one.hypothesis.id for one in kept),
            promoted=gated.decision.verdict is Verdict.PROMOTE,
            sentence=gated.decision.sentence,
            evidence=gated.decision.evidence,
            threshold=gated.decision.threshold,
        )

    def _score_predictions(self) -> None:
        """Journal how right every source was so far, unless the round tested nothing."""
        if not self._state.findings or self._state.findings[-1].round != self._bench.round:
            return
        if record := scores_record(forecasts_of(self._state.findings)):
            data = {"round": self._bench.round, "sources": record}
            self._steps.once("predictions_scored", data, key=str(self._bench.round))

    # -- calibrating -------------------------------------------------------------------------------------------------

    def _ready(self, scale: Scale) -> bool:
        """Calibrate a scale if it is new; False where the budget does not suffice for that and a confirmation."""
        fresh = scale.name not in self._gates.streams
        seeds = min(CREDITED_SEEDS, self.spec.decision.calibration_seeds)
        if self._purse.trials_left < fresh * seeds + self._confirm_cost():
            text = (
                f"round {self._bench.round} was not taken to scale {scale.name}: the budget of trials does not suffice"
            )
            self._steps.once("message", {"text": text}, key=f"{self._bench.round}/{scale.name}")
            return False
        if fresh:
            self._phase("calibrating")
            self._calibrate(scale, seeds=seeds)
        return True

    def _calibrate(self, scale: Scale, *, seeds: int) -> list[Run]:
        """Measure the noise of a scale: run the incumbent on several seeds; start its pools and its error stream.

        Returns:
            The runs that finished.

        Raises:
            StudyFailed: fewer than two finished, or the incumbent breaks a guard.
        """
        seeds = max(2, min(seeds, self._purse.trials_left))
        drawn = [self._bench.seeds.fresh() for _ in range(seeds)]
        first = max(2, self.spec.execution.slots)
        runs = self._bench.runs(self._state.incumbent, scale, seeds=drawn[:first], purpose=Purpose.CALIBRATE)
        if not all(run.at_fault for run in runs):  # an incumbent that never trains is found out early
            runs += self._bench.runs(self._state.incumbent, scale, seeds=drawn[first:], purpose=Purpose.CALIBRATE)
        good = [run for run in runs if run.finished]
        if len(good) < 2:
            raise StudyFailed(_why_no_baseline(runs, scale))
        if problems := broken_bounds(self.spec.guards, good[0].result.metrics):
            raise StudyFailed(f"the incumbent itself breaks a guard at scale {scale.name}: {'; '.join(problems)}")
        pool = self._gates.open_scale(scale, good)
        self._note_calibration(scale, good, pool)
        return good

    def _note_calibration(self, scale: Scale, runs: Sequence[Run], pool: NoisePool) -> None:
        resolvable = self._resolvable(scale)
        data = {
            "scale": scale.name,
            "values": [run.objective for run in runs],
            "gain_sd": pool.sd,
            "resolvable_gain": resolvable,
        }
        self._steps.once("calibrated", data, key=scale.name)
        if scale is self.spec.scales.search:
            self._state.resolvable = resolvable

    def _resolvable(self, scale: Scale) -> float | None:
        """Smallest gain that the next gate at a scale can resolve; None while it is unbounded."""
        gain = smallest_resolvable_gain(
            pool=self._gates.pools[scale.name, True],
            level_alpha=self._gates.streams[scale.name].level,
            max_pairs=self.spec.decision.gate_pairs,
            tau=BUNDLE_TAU,
        )
        return codec.finite_or_none(gain)

    def _self_test(self, scale: Scale) -> None:
        """The baseline against itself: it should not be promoted."""
        self._phase("gating")
        decision = self._gates.self_test(scale, incumbent=self._state.incumbent)
        if decision.verdict is Verdict.PROMOTE:
            text = (
                "self-test: the baseline was promoted over itself; "
                "the noise is not what the gate assumes, distrust this study"
            )
            self._steps.once("message", {"text": text}, key="self-test")

    # -- screening ---------------------------------------------------------------------------------------------------

    def _screen_batch(self, hypotheses: Sequence[Hypothesis], *, room: int) -> list[Screened]:
        """Screen hypotheses that were all proposed for the same branch; keep those that help, one upon the other.

        Of several that pass at once the best is kept as it is.  A further one that changes the same key is dropped in
        its favour; any other is screened again on top of it, because its evidence is about the branch before.  What
        passes after the round is full, or cannot be paid for a second time, is void: it may be proposed again.
        """
        self._phase("screening")
        kept: list[Screened] = []
        passed = []
        for one in self._screened(hypotheses):
            if one.kept:
                passed.append(one)
            else:
                self._conclude(one)
        for one in sorted(passed, key=lambda one: sum(one.gains), reverse=True):
            again = self._upon(one, kept, room=room)
            if again.kept:
                self._state.branch.update(again.hypothesis.overrides)
                self._state.bars = list(again.runs)
                kept.append(again)
            self._conclude(again)
        return kept

    def _upon(self, one: Screened, kept: Sequence[Screened], *, room: int) -> Screened:
        """What holds of a hypothesis that passed, now that others of its batch are in the branch."""
        if not kept:
            return one
        rival = next(
            (other for other in kept if other.hypothesis.overrides.keys() & one.hypothesis.overrides.keys()), None
        )
        if rival is not None:
            sentence = f"Dropped in favour of {rival.hypothesis.id}, which changes the same key and gained more."
            decision = replace(one.decision, verdict=Verdict.DROP, sentence=sentence)
            return replace(one, decision=decision, why=f"{rival.hypothesis.id} sets the same key and gained more")
        affordable = self._purse.trials_left - self._confirm_cost() >= self.rule.seeds_per_screen
        if len(kept) < room and affordable:
            return self._screened([one.hypothesis])[0]
        why = "the budget does not suffice" if len(kept) < room else "the round was full"
        sentence = f"Void: it passed, but {why} before it could be screened on top of {kept[-1].hypothesis.id}."
        return replace(one, decision=replace(one.decision, verdict=Verdict.VOID, sentence=sentence), why=why)

    def _screened(self, hypotheses: Sequence[Hypothesis]) -> list[Screened]:
        """Screen hypotheses against the branch as it is now."""
        screened = self._dispatcher.run([self._screen(hypothesis) for hypothesis in hypotheses])
        for one in screened:
            self._state.tried.add(canonical(one.config))
            self._bench.remember(one.config, one.runs)
        return screened

    def _screen(self, hypothesis: Hypothesis) -> Chain[Screened]:
        """Run a hypothesis on the bars' seeds, one after the other, until the rule has decided."""
        branch, bars = dict(self._state.branch), tuple(self._state.bars)
        config = {**branch, **hypothesis.overrides}
        scale = self.spec.scales.search
        runs: list[Run] = []
        gains: list[float] = []
        for bar in bars:
            result = yield self._bench.trial(
                config, scale, seed=bar.seed, purpose=Purpose.SCREEN, hypothesis=hypothesis.id
            )
            runs.append(Run(seed=bar.seed, result=result))
            decision = self._infeasible(runs[-1])
            if decision is None:
                gains.append(self._bench.gain(bar, runs[-1]))
                decision = self.rule.screen(gains, noise_sd=self._gates.pool(scale, bar, runs[-1]).sd)
            if decision is not None:
                return Screened(
                    hypothesis=hypothesis,
                    decision=decision,
                    runs=tuple(runs),
                    gains=tuple(gains),
                    branch=branch,
                )
        raise AssertionError("a rule decides at its last seed")

    def _infeasible(self, run: Run) -> Decision | None:
        """The screen's decision on a run that has nothing to compare, or breaks a bound."""
        if not run.finished:
            return drop_failed(run.result.status, failure=run.result.failure)
        if problems := broken_bounds(self.spec.guards, run.result.metrics):
            return Decision(
                stage="screen", verdict=Verdict.DROP, sentence=f"Dropped by a guard: {'; '.join(problems)}."
            )
        return None

    def _conclude(self, screened: Screened) -> None:
        """Journal what the screen decided of a hypothesis, and remember it for the next briefing."""
        hypothesis, status = screened.hypothesis, screened.runs[-1].result.status
        gain = statistics.fmean(screened.gains) if screened.gains else None
        is_void = screened.decision.verdict is Verdict.VOID
        if is_void:
            self._state.void.add(canonical(screened.config))
        self._state.findings.append(
            Finding(
                hypothesis=hypothesis,
                before={key: screened.branch[key] for key in hypothesis.overrides},
                gain=gain,
                kept=screened.kept,
                status=status,
                round=self._bench.round,
                failure=_failure(screened.runs[-1]),
                train_seconds=sum(run.result.train_seconds for run in screened.runs),
                void=is_void,
                seeds=len(screened.gains),
                why=screened.why,
            )
        )
        data = {
            "hypothesis": hypothesis.id,
            "gain": gain,
            "decision": codec.to_json(screened.decision),
            "status": status.value,
            "branch": dict(self._state.branch),
        }
        self._steps.once("screened", data, key=hypothesis.id)

    def _draw_bars(self) -> None:
        """Run the branch on fresh seeds until there are bars; seeds on which it fails are replaced, thrice at most."""
        for _ in range(MAX_VOID_PAIRS + 1):
            missing = self.rule.seeds_per_screen - len(self._state.bars)
            if missing <= 0:
                return
            drawn = [self._bench.seeds.fresh() for _ in range(missing)]
            runs = self._bench.runs(self._state.branch, self.spec.scales.search, seeds=drawn, purpose=Purpose.BAR)
            self._state.bars += [run for run in runs if run.finished]
        if len(self._state.bars) < self.rule.seeds_per_screen:
            failed = next(run for run in reversed(runs) if not run.finished)
            raise StudyFailed(
                f"the incumbent no longer trains at scale {self.spec.scales.search.name}: {failed.failure}"
            )

    def _bars_after(self, gates: Sequence[Gated], *, promoted: bool) -> list[Run]:
        """The search scale's gate runs are unselected, so they serve as the next bars."""
        for gated in gates:
            if gated.scale is self.spec.scales.search:
                runs = gated.challenger if promoted else gated.champion
                return list(runs[: self.rule.seeds_per_screen])
        return []

    # -- promoting ---------------------------------------------------------------------------------------------------

    def _promote(self, kept: Sequence[Screened], gates: Sequence[Gated]) -> bool:
        """Confirm on further fresh pairs and write the next revision; False when the branch fails there."""
        scale = self._purse.ladder[-1]
        self._phase("confirming")
        arms = [self._state.branch, self._bench.base] + ([self._state.incumbent] if self._state.revisions else [])
        drawn = [self._bench.seeds.fresh() for _ in range(self.spec.decision.confirm_pairs)]
        runs = self._bench.run_all([(arm, seed) for seed in drawn for arm in arms], scale, purpose=Purpose.CONFIRM)
        branch, base, parent = runs[:: len(arms)], runs[1 :: len(arms)], runs[len(arms) - 1 :: len(arms)]
        hypotheses = tuple(one.hypothesis for one in kept)
        if failed := next((run for run in branch if run.at_fault), None):
            why = f"the branch failed in its confirmation: {failed.failure}"
            data = {"hypotheses": [one.id for one in hypotheses], "why": why}
            self._steps.once("promotion_refused", data, key=str(self._bench.round))
            return False
        self._state.incumbent = dict(self._state.branch)
        self._state.revisions += 1
        revision = Revision(
            number=self._state.revisions,
            config=dict(self._state.incumbent),
            hypotheses=hypotheses,
            evidence=tuple((gated.scale.name, gated.decision) for gated in gates),
            total=self._confirmed(scale, base, branch),
            step=self._confirmed(scale, parent, branch),
        )
        self._steps.once("spec_revised", self._reviser.write(revision), key=str(self._state.revisions))
        return True

    def _confirmed(self, scale: Scale, champion: Sequence[Run], challenger: Sequence[Run]) -> dict[str, Any] | None:
        """Mean gain and anytime-valid interval of pairs that took no part in any decision; None without a pair."""
        pairs = [pair for pair in zip(champion, challenger, strict=True) if pair[0].finished and pair[1].finished]
        if not pairs:
            return None
        gains = [self._bench.gain(one, other) for one, other in pairs]
        evidence = weigh(gains, pool=self._gates.pool(scale, *pairs[0]), tau=BUNDLE_TAU)
        return {
            "scale": scale.name,
            "mean": evidence.mean,
            "low": codec.finite_or_none(evidence.low),
            "high": codec.finite_or_none(evidence.high),
            "pairs": evidence.pairs,
        }

    # -- budget ------------------------------------------------------------------------------------------------------

    def _reserve(self) -> int:
        return self._purse.reserve(
            calibrated=self._gates.streams, gated=self.rule.gated, first=not self._state.revisions
        )

    def _confirm_cost(self) -> int:
        return self._purse.confirm_cost(first=not self._state.revisions)

    def _batch(self) -> int:
        """How many hypotheses are screened at once: enough to fill the slots, few enough to learn between."""
        affordable = (self._purse.trials_left - self._reserve()) // self.rule.seeds_per_screen
        return max(1, min(max(2, 2 * self.spec.execution.slots), affordable))

    def _phase(self, phase: str) -> None:
        self._steps.phase(phase, round=self._bench.round)


def _failure(run: Run) -> str:
    """How a run failed, with the last lines of its traceback; empty where it finished."""
    return "" if run.finished else "\n".join([run.failure, *run.result.traceback])


def _why_no_baseline(runs: Sequence[Run], scale: Scale) -> str:
    failed = [run for run in runs if not run.finished]
    if not failed:
        return f"at least two seeds are needed at scale {scale.name}; raise decision.calibration_seeds or budget.trials"
    if not any(run.at_fault for run in failed):
        return (
            f"the machine ended {len(failed)} of {len(runs)} runs of the incumbent at scale {scale.name} "
            f"({failed[0].failure}), each twice; look at its memory and at who else uses it"
        )
    what = f"{len(failed)} of {len(runs)} runs ended with {failed[0].failure}"
    trace = "".join(f"\n    {line}" for line in failed[0].result.traceback)
    return f"the baseline does not train at scale {scale.name}: {what}{trace}"
