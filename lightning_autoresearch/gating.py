"""The gate at work: pairs on fresh seeds until the evidence decides, at one scale after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_autoresearch import codec
from lightning_autoresearch.bench import Bench, Config, Run, same_shapes
from lightning_autoresearch.decision import Decision, ErrorStream, Verdict, gate, gate_failed
from lightning_autoresearch.evidence import BUNDLE_TAU, PROMOTE_FROM, SINGLE_TAU, NoisePool, weigh
from lightning_autoresearch.guards import broken_bounds, worse_guards
from lightning_autoresearch.purse import Purse
from lightning_autoresearch.scales import Scale
from lightning_autoresearch.spec import Guard, Spec
from lightning_autoresearch.steps import Steps

MAX_VOID_PAIRS = 3
"""Pairs of one gate that may fail on the incumbent's side before the gate is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated:
    """What a gate found."""

    scale: Scale
    """Where it was held."""
    decision: Decision
    """What was decided."""
    champion: tuple[Run, ...] = ()
    """The incumbent's runs."""
    challenger: tuple[Run, ...] = ()
    """The branch's runs at the same seeds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bout:
    """One gate to be held."""

    scale: Scale
    """Where."""
    champion: Config
    """The incumbent."""
    challenger: Config
    """The branch."""
    hypotheses: tuple[str, ...]
    """Ids of what the branch adds; empty where the incumbent meets itself."""
    level: float
    """Error level."""
    key: str
    """Name of the step."""

    @property
    def tau(self) -> float:
        """Prior width of the standardised gain: wider for a bundle."""
        return SINGLE_TAU if len(self.hypotheses) == 1 else BUNDLE_TAU

    @property
    def threshold(self) -> float:
        """What the e-value has to reach."""
        return 1 / self.level if self.level > 0 else float("inf")


@dataclass(slots=True)
class _Score:
    """The pairs of a gate so far."""

    champion: list[Run] = field(default_factory=list)
    challenger: list[Run] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    void: int = 0

    @property
    def shapes_kept(self) -> bool:
        return same_shapes(self.champion[0], self.challenger[0]) if self.champion else True


class Gatekeeper:
    """Holds the gates of one study: noise pools and error streams, one per scale.

    Attributes:
        pools: noise of paired gains, by scale name and whether parameter shapes are kept.
        streams: error budget, by scale name.
    """

    def __init__(self, spec: Spec, *, bench: Bench, purse: Purse, steps: Steps):
        self.spec = spec
        self._bench = bench
        self._purse = purse
        self._steps = steps
        self.pools: dict[tuple[str, bool], NoisePool] = {}
        self.streams: dict[str, ErrorStream] = {}

    def open_scale(self, scale: Scale, baseline: Sequence[Run]) -> NoisePool:
        """Start the pools and the error stream of a scale from runs of the incumbent at different seeds."""
        pool = NoisePool.from_baseline([run.objective for run in baseline])
        self.pools[scale.name, True] = self.pools[scale.name, False] = pool
        self.streams[scale.name] = ErrorStream(alpha=self.spec.decision.alpha)
        return pool

    def pool(self, scale: Scale, one: Run, other: Run) -> NoisePool:
        """The noise of the gain between two runs at a scale."""
        return self.pools[scale.name, same_shapes(one, other)]

    def hold(
        self, scale: Scale, *, champion: Config, challenger: Config, hypotheses: tuple[str, ...], first: bool
    ) -> Gated:
        """The branch against the incumbent on seeds that nobody has used; what it shows of the noise is kept.

        Args:
            scale: where.
            champion: the incumbent.
            challenger: the branch.
            hypotheses: ids of what the branch adds.
            first: whether nothing was promoted so far.
        """
        stream = self.streams[scale.name]
        bout = Bout(
            scale=scale,
            champion=champion,
            challenger=challenger,
            hypotheses=hypotheses,
            level=stream.level,
            key=f"{self._bench.round}/{scale.name}",
        )
        score, decision = self._until_decided(bout, first=first)
        if score.gains or decision.verdict is not Verdict.VOID:
            self.streams[scale.name] = stream.after(decision.verdict)
        if len(score.gains) > 1:
            kind = (scale.name, score.shapes_kept)
            self.pools[kind] = self.pools[kind].add(score.gains)
        return Gated(scale=scale, decision=decision, champion=tuple(score.champion), challenger=tuple(score.challenger))

    def self_test(self, scale: Scale, *, incumbent: Config) -> Decision:
        """The incumbent against itself on different seeds, through the whole gate, outside of the error stream."""
        level = ErrorStream(alpha=self.spec.decision.alpha).level
        bout = Bout(
            scale=scale, champion=incumbent, challenger=incumbent, hypotheses=(), level=level, key=f"0/{scale.name}"
        )
        return self._until_decided(bout, first=True)[1]

    def _until_decided(self, bout: Bout, *, first: bool) -> tuple[_Score, Decision]:
        header: dict[str, Any] = {
            "round": self._bench.round,
            "scale": bout.scale.name,
            "threshold": codec.finite_or_none(bout.threshold),
            "hypotheses": list(bout.hypotheses),
        }
        self._steps.once("gate_opened", header, key=bout.key)
        score = _Score()
        decision: Decision | None = None
        while decision is None:
            decision = self._more_pairs(bout, score, first=first)
        decision = guarded(decision, self.spec.guards, champion=score.champion, challenger=score.challenger)
        data = {**header, "decision": codec.to_json(decision), "gains": score.gains}
        self._steps.once("gate_decided", data, key=bout.key)
        return score, decision

    def _more_pairs(self, bout: Bout, score: _Score, *, first: bool) -> Decision | None:
        """Run the next pairs and look at all of them; None while the gate goes on."""
        pairs = self.spec.decision.gate_pairs - len(score.gains)
        affordable = (self._purse.trials_left - self._purse.confirm_cost(first=first)) // 2
        wanted = min(max(PROMOTE_FROM - len(score.gains), self.spec.execution.slots // 2, 1), pairs)
        count = min(wanted, max(affordable, PROMOTE_FROM - len(score.gains), 1))
        key = f"{bout.key}/{len(score.gains) + score.void}"
        if reason := self._purse.spent(cost=2 * count + self._purse.confirm_cost(first=first), key=key):
            return _void(f"not decided: {reason}", bout)
        for champion, challenger in self._bench.pairs(
            bout.champion, bout.challenger, bout.scale, count=count, against_itself=not bout.hypotheses
        ):
            if challenger.at_fault and champion.finished:
                return gate_failed(challenger.failure, threshold=bout.threshold)
            if champion.finished and challenger.finished:
                score.champion.append(champion)
                score.challenger.append(challenger)
                score.gains.append(self._bench.gain(champion, challenger))
            else:
                score.void += 1
        if score.void > MAX_VOID_PAIRS:
            return _void(f"given up: {score.void} pairs failed for reasons that are not the branch's alone", bout)
        return self._look(bout, score) if score.gains else None

    def _look(self, bout: Bout, score: _Score) -> Decision | None:
        """Look at the evidence so far, as the gate may after every pair."""
        pool = self.pools[bout.scale.name, score.shapes_kept]
        evidence = weigh(score.gains, pool=pool, tau=bout.tau)
        data = {"gains": list(score.gains), "evidence": codec.to_json(evidence)}
        self._steps.once("gate_looked", data, key=f"{bout.key}/{len(score.gains)}")
        return gate(score.gains, pool=pool, level=bout.level, max_pairs=self.spec.decision.gate_pairs, tau=bout.tau)


def guarded(
    decision: Decision, guards: Sequence[Guard], *, champion: Sequence[Run], challenger: Sequence[Run]
) -> Decision:
    """The gate's decision, turned into a FAIL where a guard got worse or a bound is broken."""
    if decision.verdict is not Verdict.PROMOTE:
        return decision
    pairs = [(one.result.metrics, other.result.metrics) for one, other in zip(champion, challenger, strict=True)]
    broken = [problem for run in challenger for problem in broken_bounds(guards, run.result.metrics)]
    problems = (*worse_guards(guards, pairs), *dict.fromkeys(broken))
    if not problems:
        return decision
    sentence = f"Refused although the objective passed: {'; '.join(problems)}."
    return replace(decision, verdict=Verdict.FAIL, sentence=sentence)


def _void(sentence: str, bout: Bout) -> Decision:
    return Decision(stage="gate", verdict=Verdict.VOID, sentence=sentence, threshold=bout.threshold)
