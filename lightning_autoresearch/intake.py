"""Taking proposals in: ask, number, edit the search space, admit what the policy allows.  Everything is journaled."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_autoresearch import codec, policy
from lightning_autoresearch.bench import Bench, Config, Run
from lightning_autoresearch.hypothesis import (
    Briefing,
    Finding,
    GateFinding,
    Hypothesis,
    Proposal,
    Proposer,
    SpaceEdit,
    SpaceFinding,
)
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.knobs import Knob
from lightning_autoresearch.revise import Reviser
from lightning_autoresearch.seeds import derive_seed
from lightning_autoresearch.space import Value, canonical
from lightning_autoresearch.spec import Spec
from lightning_autoresearch.steps import Steps

TOLD_REFUSALS = 6
"""Latest refusals that a proposer is told."""


@dataclass(kw_only=True, slots=True)
class State:
    """What the loop knows at one moment; a resumed study builds it anew by running the loop over its journal."""

    incumbent: dict[str, Value]
    """Value of every key in the confirmed configuration."""
    branch: dict[str, Value]
    """The same with the round's provisional keeps."""
    tried: set[str]
    """Canonical forms of the configurations that were screened."""
    void: set[str] = field(default_factory=set)
    """Those among them of which nothing was decided; they may be tried again on other seeds."""
    bars: list[Run] = field(default_factory=list)
    """The branch's runs that hypotheses are compared with."""
    findings: list[Finding] = field(default_factory=list)
    """Every tested hypothesis, in order."""
    gates: list[GateFinding] = field(default_factory=list)
    """Every gate, in order."""
    reshapes: list[SpaceFinding] = field(default_factory=list)
    """Every edit of the search space, in order."""
    refusals: list[str] = field(default_factory=list)
    """Why hypotheses and edits were not let through, in words, in order."""
    gain_sd: float = 0.0
    """Standard deviation of a paired gain at the search scale under no effect."""
    resolvable: float | None = None
    """Smallest gain at the search scale that a gate can resolve; None while unknown or unbounded."""
    asked: int = 0
    """Proposals asked for."""
    stated: int = 0
    """Hypotheses stated, refused ones included."""
    revisions: int = 0
    """Promotions."""
    stale_rounds: int = 0
    """Closed rounds since the last promotion."""

    def before(self, hypothesis: Hypothesis) -> dict[str, Value]:
        """The branch's value of every key that a hypothesis sets."""
        return {name: self.branch[name] for name in hypothesis.overrides}

    def release_void(self) -> None:
        """Let be tried again what came to nothing: the next tests have other seeds, so they are other runs."""
        self.tried -= self.void
        self.void.clear()

    @classmethod
    def of(cls, base: Config) -> State:
        """The state before anything was tried."""
        return cls(incumbent=dict(base), branch=dict(base), tried={canonical(base)})


class Intake:
    """The way of a proposal into a study.

    Args:
        spec: the user's spec.
        state: what the loop knows; branch, incumbent and what was tried grow with keys that join the search space.
        proposer: what states hypotheses.
        reviser: knows the search space as it is now.
        bench: knows what was measured.
        journal: where requests and answers go.
        steps: the study's journaled steps.
        knobs: keys that a proposer may add to the search space.
        trials_left: trials that the budget still has.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        state: State,
        proposer: Proposer,
        reviser: Reviser,
        bench: Bench,
        journal: Journal,
        steps: Steps,
        knobs: Mapping[str, Knob],
        trials_left: Callable[[], int],
    ):
        self.spec = spec
        self._state, self._proposer, self._reviser, self._bench = state, proposer, reviser, bench
        self._journal, self._steps, self._knobs, self._trials_left = journal, steps, knobs, trials_left

    def propose(self, wanted: int) -> list[Hypothesis] | None:
        """Ask the proposer, apply its edits of the space, refuse what the policy does not allow.

        Returns:
            What may be tested; None where the proposer has nothing left.

        Raises:
            Interrupted: the person asked to stop while the proposer was asked.
        """
        if not len(self._reviser.space):
            return None
        self._state.asked += 1
        key = f"{self._bench.round}/{self._state.asked}"
        proposal = self._proposal(wanted, key=key)
        edited = self._edit_space(proposal.space_edits, key=key)
        accepted = [hypothesis for hypothesis in proposal.hypotheses[:wanted] if self._admit(hypothesis)]
        return accepted if proposal.hypotheses or edited or proposal.unanswered else None

    def _proposal(self, wanted: int, *, key: str) -> Proposal:
        """The answer to a briefing: from the journal if it was given before."""
        entry = self._journal.find("proposal_received", key)
        if entry is None:
            self._steps.phase("proposing", round=self._bench.round)
            self._journal.append("proposal_requested", {"round": self._bench.round, "wanted": wanted}, key=key)
            started = time.monotonic()
            answer = self._proposer.propose(self._briefing(wanted))
            numbered = tuple(
                replace(
                    hypothesis,
                    id=f"h{number}",
                    overrides=policy.whole_numbers(hypothesis.overrides, space=self._reviser.space),
                )
                for number, hypothesis in enumerate(answer.hypotheses, start=self._state.stated + 1)
            )
            answer = replace(answer, hypotheses=numbered, seconds=round(time.monotonic() - started, 3))
            entry = self._journal.append("proposal_received", codec.to_json(answer), key=key)
        self._steps.met(key)
        proposal = codec.from_json(entry.data, Proposal)
        self._state.stated += len(proposal.hypotheses)
        return proposal

    def _briefing(self, wanted: int) -> Briefing:
        return Briefing(
            goal=self.spec.goal,
            metric=self.spec.objective.metric,
            mode=self.spec.objective.mode,
            round=self._bench.round,
            wanted=wanted,
            space=self._reviser.space,
            base=self._bench.base,
            incumbent=dict(self._state.incumbent),
            branch=dict(self._state.branch),
            measurements=tuple(self._bench.measurements),
            findings=tuple(self._state.findings),
            gain_sd=self._state.gain_sd,
            max_changes=self.spec.policy.max_changes,
            max_factor=self.spec.policy.max_factor,
            trials_left=self._trials_left(),
            seed=derive_seed(self.spec.decision.seed, "proposer", self._state.asked),
            tried=frozenset(self._state.tried),
            key=f"{self._bench.round}/{self._state.asked}",
            resolvable_gain=self._state.resolvable,
            gates=tuple(self._state.gates),
            reshapes=tuple(self._state.reshapes),
            refusals=tuple(self._state.refusals[-TOLD_REFUSALS:]),
            stale_rounds=self._state.stale_rounds,
        )

    def _edit_space(self, edits: Sequence[SpaceEdit], *, key: str) -> bool:
        """Let the edits of the search space take effect that the policy lets through; say why others did not.

        Returns:
            Whether the space is another one now.
        """
        space, accepted, refused = policy.space_after(
            self._reviser.space,
            edits,
            must_contain=(self._state.incumbent, self._state.branch),
            knobs=self._knobs,
            max_factor=self.spec.policy.max_factor,
        )
        for number, why in enumerate(refused, start=1):
            self._state.refusals.append(why)
            self._steps.once(
                "message", {"text": f"an edit of the search space was refused: {why}"}, key=f"{key}/{number}"
            )
        if not accepted:
            return False
        self._reviser.space = space
        added = {edit.key: self._knobs[edit.key].value for edit in accepted if edit.op == "add"}
        data = {"edits": [codec.to_json(edit) for edit in accepted], "base": added}
        self._steps.once("space_revised", data, key=key)
        self._state.reshapes.append(
            SpaceFinding(round=self._bench.round, after=len(self._state.findings), edits=tuple(accepted))
        )
        for name, value in added.items():
            self._carry_over(name, value)
        return True

    def _carry_over(self, key: str, value: Value) -> None:
        """A key joins the search space: all that was tried before had this value of it."""
        if key in self._bench.base:
            return
        self._bench.add_key(key, value)
        self._state.incumbent[key] = self._state.branch[key] = value
        self._state.tried = set(carried(self._state.tried, {key: value}))
        self._state.void = set(carried(self._state.void, {key: value}))

    def _admit(self, hypothesis: Hypothesis) -> bool:
        """Whether a hypothesis may be tested; either way it is journaled."""
        state = self._state
        why = policy.refusal(
            hypothesis,
            space=self._reviser.space,
            branch=state.branch,
            policy=self.spec.policy,
            tried=state.tried,
            without_effect=self._reviser.without_effect,
        )
        data: dict[str, Any] = {"hypothesis": codec.to_json(hypothesis)}
        if why:
            self._steps.once("hypothesis_refused", {**data, "why": why}, key=hypothesis.id)
            state.refusals.append(f"{hypothesis.id} ({hypothesis.statement}): {why}")
            return False
        state.tried.add(canonical({**state.branch, **hypothesis.overrides}))
        data |= {"round": self._bench.round, "before": state.before(hypothesis)}
        self._steps.once("hypothesis_stated", data, key=hypothesis.id)
        return True


def carried(tried: Collection[str], values: Mapping[str, Value]) -> Iterator[str]:
    """Canonical forms of configurations as they are with further keys, which had these values in all of them."""
    return (canonical({**json.loads(one), **values}) for one in tried)
