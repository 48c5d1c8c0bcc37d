"""A long study without any training: the briefing of every round, made up from random numbers.  Pure and fast."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lightning_autoresearch.hypothesis import Briefing, Finding, GateFinding, Hypothesis, Measurement, Prediction
from lightning_autoresearch.space import Categorical, Domain, SearchSpace, Value
from lightning_autoresearch.spec import Spec
from lightning_autoresearch.trial import TrialStatus

KEEP_RATE = 0.15
FAILURE_RATE = 0.06
VOID_RATE = 0.02
SD = 0.03
"""Standard deviation of a gain."""
TRACEBACK = "\n".join(
    f'  File "/home/someone/project/model.py", line {number}, in forward' for number in range(100, 110)
)
KINDS = ("value", "value", "value", "schedule", "data", "loss", "architecture")
FAILURES = (TrialStatus.NOT_FINITE, TrialStatus.OUT_OF_MEMORY, TrialStatus.ERROR, TrialStatus.TIMED_OUT)


@dataclass
class Simulated:
    """What the study has come to."""

    spec: Spec
    random: random.Random
    space: dict[str, Domain]
    branch: dict[str, Value]
    incumbent: dict[str, Value]
    findings: list[Finding] = field(default_factory=list)
    gates: list[GateFinding] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    gain_sd: float = SD
    stale_rounds: int = 0


def long_study(
    spec: Spec, *, rounds: int, per_round: int, added: Mapping[str, Domain] | None = None, seed: int = 0
) -> Iterator[Briefing]:
    """The briefing at the start of each round.

    Args:
        spec: names the keys, their domains and their first values.
        rounds: how many.
        per_round: hypotheses tested in each.
        added: keys that join the search space at round 100, with their domains.
        seed: for another study.
    """
    base: dict[str, Value] = dict(spec.base)
    study = Simulated(
        spec=spec,
        random=random.Random(f"long study {seed}"),
        space=dict(spec.search_space.domains),
        branch=dict(base),
        incumbent=dict(base),
    )
    for round in range(1, rounds + 1):
        if round == 100 and added:
            study.space |= added
            base |= {key: draw(domain, study.random) for key, domain in added.items()}
            study.branch = {**base, **study.branch}
            study.incumbent = {**base, **study.incumbent}
        yield _briefing(study, base, round=round, wanted=per_round)
        for _ in range(per_round):
            _test(study, round=round)
        _close(study, round=round)


def draw(domain: Domain, numbers: random.Random, *, but: Value = None) -> Value:
    """Another value of a domain than the one named."""
    while True:
        value = (
            numbers.choice(domain.choices) if isinstance(domain, Categorical) else domain.from_unit(numbers.random())
        )
        if value != but:
            return value


def _test(study: Simulated, *, round: int) -> None:
    """One hypothesis and what came of it."""
    numbers = study.random
    keys = numbers.sample(sorted(study.space), k=numbers.choice((1, 1, 1, 2)))
    overrides = {key: draw(study.space[key], numbers, but=study.branch[key]) for key in keys}
    chance = numbers.random()
    status = numbers.choice(FAILURES) if chance < FAILURE_RATE else TrialStatus.FINISHED
    void = FAILURE_RATE <= chance < FAILURE_RATE + VOID_RATE
    kept = chance > 1 - KEEP_RATE
    gain = None if status is not TrialStatus.FINISHED else numbers.gauss(0.04 if kept else -0.06, SD)
    study.findings.append(
        Finding(
            hypothesis=_hypothesis(f"h{len(study.findings) + 1}", overrides, numbers),
            before={key: study.branch[key] for key in keys},
            gain=gain,
            kept=kept and not void,
            status=status,
            round=round,
            failure=f"RuntimeError: failure {len(study.findings)}\n{TRACEBACK}" if gain is None else "",
            train_seconds=numbers.uniform(2, 90),
            void=void,
        )
    )
    if kept and not void:
        study.branch |= overrides


def _hypothesis(name: str, overrides: Mapping[str, Value], numbers: random.Random) -> Hypothesis:
    gain, probability = numbers.gauss(0.02, 0.02), numbers.uniform(0.05, 0.9)
    mine = numbers.random() < 0.5
    return Hypothesis(
        id=name,
        statement=f"{', '.join(overrides)} changes the loss.",
        mechanism="It was drawn at random.",
        source="some-model" if mine else "sampler",
        overrides=overrides,
        prediction=Prediction(
            gain=gain, probability=probability, low=gain - 0.03 if mine else None, high=gain + 0.03 if mine else None
        ),
        kind=numbers.choice(KINDS) if mine else "value",
    )


def _close(study: Simulated, *, round: int) -> None:
    """The gate at the end of a round, and what follows from it."""
    numbers = study.random
    kept = tuple(one.hypothesis.id for one in study.findings if one.round == round and one.kept)
    promoted = bool(kept) and numbers.random() < 0.2
    if kept:
        word = "Promoted" if promoted else "Failed"
        sentence = f"{word}: mean gain {numbers.gauss(0, SD):.4g} over 4 pairs, e-value {numbers.expovariate(0.1):.4g}."
        gate = GateFinding(round=round, scale="small", hypotheses=kept, promoted=promoted, sentence=sentence)
        study.gates.append(gate)
    if promoted:
        study.incumbent = dict(study.branch)
    study.branch = dict(study.incumbent)
    study.stale_rounds = 0 if promoted else study.stale_rounds + 1
    study.gain_sd *= numbers.uniform(0.98, 1.02)
    if numbers.random() < 0.3:
        study.refusals.append(f"h{len(study.findings)} (a claim): this very configuration was tried before")


def _briefing(study: Simulated, base: Mapping[str, Value], *, round: int, wanted: int) -> Briefing:
    spec = study.spec
    return Briefing(
        goal=spec.goal,
        metric=spec.objective.metric,
        mode=spec.objective.mode,
        round=round,
        wanted=wanted,
        space=SearchSpace(domains=dict(study.space)),
        base=dict(base),
        incumbent=dict(study.incumbent),
        branch=dict(study.branch),
        measurements=calibration(base, spec.decision.calibration_seeds),
        findings=tuple(study.findings),
        gain_sd=study.gain_sd,
        max_changes=spec.policy.max_changes,
        max_factor=spec.policy.max_factor,
        trials_left=100_000 - len(study.findings),
        seed=round,
        key=f"{round}/{round}",
        resolvable_gain=2 * study.gain_sd,
        gates=tuple(study.gates),
        refusals=tuple(study.refusals[-6:]),
        stale_rounds=study.stale_rounds,
    )


def calibration(config: Mapping[str, Value], seeds: int) -> tuple[Measurement, ...]:
    """The runs that a study begins with."""
    numbers = random.Random("calibration")
    return tuple(
        Measurement(
            config=dict(config), pair=seed, status=TrialStatus.FINISHED, objective=4.0 + numbers.gauss(0, SD / 2**0.5)
        )
        for seed in range(seeds)
    )
