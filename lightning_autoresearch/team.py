"""The scientist and the sampler at one table.

The language model rewrites the search space and states its share of the hypotheses; the sampler fills in values inside
the space as it then is.  Where the model does not answer, the sampler does what it would do alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from lightning_autoresearch import policy
from lightning_autoresearch.asking import Line, price_of
from lightning_autoresearch.chat import ChatModel
from lightning_autoresearch.hypothesis import SAMPLER, Briefing, Proposal, Proposer
from lightning_autoresearch.intake import carried
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.knobs import Knob
from lightning_autoresearch.sampler import Sampler
from lightning_autoresearch.scientist import Scientist, make_dossier
from lightning_autoresearch.space import Overrides, Value, canonical
from lightning_autoresearch.spec import ScientistSettings, Spec
from lightning_autoresearch.steps import Steps

PATIENCE = 3
"""Failures in a row after which the model is asked once per round only."""


class Team:
    """A `Proposer` made of a scientist and the sampler.

    Args:
        scientist: asks the language model.
        share: share of the hypotheses that the model states, 0 to 1; with 0 it is asked once per round, and only
            its edits of the space count.
        knobs: keys that the scientist may add to the search space.
        sampler: answers in the model's place where that does not; the built-in one by default.
        without_effect: the keys of a configuration that its classes do not take, for the built-in sampler.
    """

    def __init__(
        self,
        scientist: Scientist,
        *,
        share: float,
        knobs: Mapping[str, Knob],
        sampler: Proposer | None = None,
        without_effect: Callable[[Overrides], Collection[str]] = lambda _: (),
    ):
        self._scientist = scientist
        self._share = share
        self._knobs = knobs
        self._alone = sampler or Sampler(without_effect=without_effect)
        self._inside = sampler or Sampler(reshapes=False, without_effect=without_effect)
        self._failures = 0
        self._closed = False

    def propose(self, briefing: Briefing) -> Proposal:
        """Answer with the scientist's part first, the sampler's after it.

        Raises:
            Interrupted: the person asked to stop while the model was asked.
        """
        first_of_round = not briefing.findings or briefing.findings[-1].round != briefing.round
        part = self._part(briefing)
        if not self._is_asked(part, first_of_round=first_of_round):
            own = (self._alone if self._failures or self._closed else self._inside).propose(briefing)
            if own.hypotheses or own.space_edits or self._closed:
                return own
            # the sampler has tried all that the space holds: only the model can open it
        answer = self._scientist.consult(replace(briefing, wanted=max(part, 1)))
        if answer.failure:
            self._failures += 1
            self._closed = answer.permanent
            return self._without(briefing, answer.proposal)
        self._failures = 0
        most = max(part, 1) if self._share else 0
        return self._together(briefing, replace(answer.proposal, hypotheses=answer.proposal.hypotheses[:most]))

    def _part(self, briefing: Briefing) -> int:
        """How many hypotheses the model states now, so that its share comes out over the whole study."""
        mine = sum(one.hypothesis.source != SAMPLER for one in briefing.findings)
        due = math.floor(self._share * (len(briefing.findings) + briefing.wanted)) - mine
        return max(0, min(due, briefing.wanted))

    def _is_asked(self, part: int, *, first_of_round: bool) -> bool:
        if self._closed:
            return False
        return first_of_round or (part > 0 and self._failures < PATIENCE)

    def _without(self, briefing: Briefing, said: Proposal) -> Proposal:
        """The sampler's own answer, with what became of the call."""
        after = "; it is not asked again in this session" if self._closed else ""
        notes = [f"{note}; the sampler proposes alone{after}" for note in said.notes]
        alone = self._alone.propose(briefing)
        return replace(alone, provenance=said.provenance, notes=(*notes, *alone.notes), unanswered=not self._closed)

    def _together(self, briefing: Briefing, said: Proposal) -> Proposal:
        """The scientist's hypotheses, filled up by the sampler in the space that the scientist leaves."""
        rest = briefing.wanted - len(said.hypotheses)
        if rest <= 0:
            return said
        filled = self._inside.propose(replace(self._after(briefing, said), wanted=rest))
        return replace(
            said,
            hypotheses=(*said.hypotheses, *filled.hypotheses),
            source=f"{said.source} and {filled.source}" if filled.hypotheses else said.source,
        )

    def _after(self, briefing: Briefing, said: Proposal) -> Briefing:
        """The briefing as it would be with the scientist's edits in effect and its hypotheses tried."""
        space, accepted, _ = policy.space_after(
            briefing.space,
            said.space_edits,
            must_contain=(briefing.incumbent, briefing.branch),
            knobs=self._knobs,
            max_factor=briefing.max_factor,
        )
        added = {edit.key: self._knobs[edit.key].value for edit in accepted if edit.op == "add"}
        new = {key: value for key, value in added.items() if key not in briefing.base}
        briefing = with_keys(briefing, new)
        tried = {canonical({**briefing.branch, **hypothesis.overrides}) for hypothesis in said.hypotheses}
        return replace(briefing, space=space, tried=briefing.tried | tried)


def make_team(
    spec: Spec,
    *,
    chat: ChatModel,
    journal: Journal,
    steps: Steps,
    stop: Callable[[], bool],
    seconds_left: Callable[[], float],
    knobs: Mapping[str, Knob],
    search_path: Sequence[str],
    without_effect: Callable[[Overrides], Collection[str]] = lambda _: (),
) -> Team:
    """The proposer of a study whose spec names a scientist.

    Args:
        spec: the spec, with its `scientist`.
        chat: whoever answers.
        journal: where calls are journaled.
        steps: told what is waited for.
        stop: true when the person asked to stop.
        seconds_left: what is left of the study's time.
        knobs: keys that the scientist may add to the search space.
        search_path: folders in which the task's classes are looked for.
        without_effect: the keys of a configuration that its classes do not take.
    """
    settings = spec.scientist or ScientistSettings()
    line = Line(
        chat,
        journal=journal,
        settings=settings,
        budget=spec.budget,
        price=price_of(settings),
        stop=stop,
        seconds_left=seconds_left,
    )
    dossier = make_dossier(spec, knobs=knobs, search_path=search_path)
    for note in dossier.library.notes if dossier.library else ():
        if not any(entry.kind == "message" and entry.data["text"] == note for entry in journal):
            journal.append("message", {"text": note})
    where = f"; reply beside {settings.mailbox}/*.request.json" if settings.mailbox is not None else ""
    scientist = Scientist(
        line,
        dossier=dossier,
        announce=lambda round, detail: steps.phase("asking", round=round, detail=f"{detail}{where}"),
        stop=stop,
    )
    return Team(scientist, share=settings.share, knobs=knobs, without_effect=without_effect)


def with_keys(briefing: Briefing, values: Mapping[str, Value]) -> Briefing:
    """The briefing with further keys, which had these values in all that was measured so far."""
    if not values:
        return briefing
    return replace(
        briefing,
        base={**briefing.base, **values},
        incumbent={**briefing.incumbent, **values},
        branch={**briefing.branch, **values},
        measurements=tuple(replace(one, config={**one.config, **values}) for one in briefing.measurements),
        tried=frozenset(carried(briefing.tried, values)),
    )
