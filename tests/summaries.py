"""Builders of study summaries for tests: small studies with invented but consistent numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.hypothesis import Hypothesis, Kind, Prediction
from lightning_autoresearch.space import Value
from lightning_autoresearch.summary import (
    ConfirmedGain,
    Cost,
    GateRow,
    HypothesisRow,
    ModelUse,
    RevisionRow,
    StudySummary,
    TrialRow,
)
from lightning_autoresearch.trial import Purpose, Trial, TrialResult, TrialStatus

LR, DEPTH, DECAY, ACTIVATION = (
    "model.init_args.lr",
    "model.init_args.depth",
    "optimizer.init_args.weight_decay",
    "model.init_args.activation",
)
BASE: dict[str, Value] = {LR: 0.003, DEPTH: 2, DECAY: 0.0, ACTIVATION: "relu"}
NOISE = 0.012


def empty(**changes: Any) -> StudySummary:
    """A study that has just been made."""
    summary = StudySummary(
        name="gpt-source",
        goal="Lower validation bits per byte of a byte-level GPT at a fixed number of training tokens.",
        metric="val_bpb",
        mode="min",
        read="last",
        rule="gate",
        alpha=0.1,
        scales=("nano", "target"),
        folder="studies/gpt-source",
        spec_path="specs/gpt.yaml",
        command="lightning-autoresearch fit specs/gpt.yaml",
        budget_trials=200,
        budget_hours=1.0,
        base=BASE,
        incumbent=BASE,
        branch=BASE,
        revisions=(RevisionRow(number=0, digest="5f0c" * 16),),
        environment={"python": "3.11.9", "torch": "2.13.0", "lightning": "2.6.6", "cpu": {"cores": 8, "model": "EPYC"}},
        slots=2,
    )
    return replace(summary, **changes)


class Builder:
    """Adds trials and hypotheses to a summary, with one source of chance."""

    def __init__(self, *, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.trials: list[TrialRow] = []
        self.rows: list[HypothesisRow] = []

    def loss(self, overrides: Mapping[str, Value], *, seed: int, scale: str = "nano") -> float:
        config = {**BASE, **overrides}
        bowl = 0.12 * (math.log10(float(config[LR] or 1e-9) / 0.009)) ** 2 - 0.04 * min(int(config[DEPTH] or 1), 4)
        gelu = -0.05 if config[ACTIVATION] == "gelu" else 0.0
        shared = random.Random(seed).gauss(0, 0.05)
        return (3.4 if scale == "nano" else 2.9) + bowl + gelu + shared + self.chance.gauss(0, NOISE / math.sqrt(2))

    def trial(
        self,
        overrides: Mapping[str, Value],
        *,
        seed: int,
        purpose: Purpose,
        round: int,
        hypothesis: str | None = None,
        scale: str = "nano",
        status: TrialStatus | None = TrialStatus.FINISHED,
    ) -> TrialRow:
        number = f"{len(self.trials) + 1:05d}"
        trial = Trial(
            id=number, overrides=overrides, scale=scale, seed=seed, purpose=purpose, round=round, hypothesis=hypothesis
        )
        row = TrialRow(trial=trial, result=None if status is None else self.result(trial, status=status))
        self.trials.append(row)
        return row

    def result(self, trial: Trial, *, status: TrialStatus) -> TrialResult:
        steps = 150 if trial.scale == "nano" else 1000
        seconds = self.chance.uniform(9, 12) * steps / 150 * (1 + 0.2 * int(trial.overrides.get(DEPTH, 2) or 0))
        if status is not TrialStatus.FINISHED:
            failure = f"{status.value}: RuntimeError: mat1 and mat2 shapes cannot be multiplied (16x64 and 128x64)"
            lines = ("Traceback (most recent call last):", '  File "gpt.py", line 88, in forward', failure)
            return TrialResult(
                trial_id=trial.id, status=status, failure=failure, traceback=lines, train_seconds=seconds / 3
            )
        final = self.loss(trial.overrides, seed=trial.seed, scale=trial.scale)
        curve = tuple(
            (step, final + 2.2 * math.exp(-4 * step / steps) - 2.2 * math.exp(-4))
            for step in range(steps // 10, steps + 1, steps // 10)
        )
        return TrialResult(
            trial_id=trial.id,
            status=status,
            objective=final,
            metrics={"val_bpb": final, "heldout_bpb": final + 0.03},
            curve=curve,
            steps=steps,
            train_seconds=seconds,
            fit_seconds=seconds * 1.2,
            wall_seconds=seconds * 1.4,
            peak_memory_gb=0.61,
            parameters=132_000,
        )

    def calibrate(self, count: int = 8, *, running: int = 0) -> None:
        for seed in range(count):
            self.trial({}, seed=seed, purpose=Purpose.CALIBRATE, round=0)
        for seed in range(count, count + running):
            self.trial({}, seed=seed, purpose=Purpose.CALIBRATE, round=0, status=None)

    def hypothesis(
        self,
        overrides: Mapping[str, Value],
        *,
        round: int,
        before: Mapping[str, Value] | None = None,
        verdict: Verdict | None = Verdict.DROP,
        gain: float | None = -0.01,
        status: TrialStatus | None = TrialStatus.FINISHED,
        statement: str = "",
        source: str = "sampler",
        prediction: Prediction | None = None,
        kind: Kind = "value",
        cites: tuple[str, ...] = (),
    ) -> HypothesisRow:
        before = {key: BASE.get(key) for key in overrides} if before is None else before
        name = f"h{len(self.rows) + 1}"
        words = ", ".join(f"{key} from {before.get(key)} to {value}" for key, value in overrides.items())
        hypothesis = Hypothesis(
            id=name,
            statement=statement or f"Setting {words} lowers the loss.",
            mechanism="A larger step reaches the valley within the same number of steps.",
            source=source,
            overrides=overrides,
            prediction=prediction
            or Prediction(gain=round_to(self.chance.uniform(0.0, 0.08)), probability=round_to(self.chance.random())),
            kind=kind,
            cites=cites,
        )
        passed = verdict in {Verdict.KEEP, Verdict.PROMOTE, Verdict.FAIL}
        row = HypothesisRow(
            hypothesis=hypothesis,
            round=round,
            before=before,
            gain=gain,
            verdict=verdict,
            sentence=_sentence(verdict, gain),
            status=status,
            screened=Verdict.KEEP if passed else verdict,
        )
        self.rows.append(row)
        both = 2 if passed else 1
        for seed in range(100 * round, 100 * round + both):
            self.trial(overrides, seed=seed, purpose=Purpose.SCREEN, round=round, hypothesis=name, status=status)
        return row

    def pairs(self, overrides: Mapping[str, Value], *, count: int, round: int, scale: str, purpose: Purpose) -> None:
        for seed in range(1000 * round, 1000 * round + count):
            self.trial({}, seed=seed, purpose=purpose, round=round, scale=scale)
            self.trial(overrides, seed=seed, purpose=purpose, round=round, scale=scale)


def round_to(value: float) -> float:
    return float(f"{value:.2g}")


def calibrating() -> StudySummary:
    """Five of eight baseline runs are in."""
    builder = Builder(seed=1)
    builder.calibrate(5, running=2)
    return empty(phase="calibrating", trials=tuple(builder.trials), cost=Cost(train_seconds=71, wall_seconds=48))


def mid_round() -> StudySummary:
    """Round 1: some changes are kept, their gate is open, a trial runs."""
    builder = Builder(seed=2)
    builder.calibrate()
    _first_round(builder, verdict=Verdict.KEEP)
    builder.hypothesis({DECAY: 0.1}, round=1, gain=0.006, verdict=Verdict.KEEP)
    builder.hypothesis({DEPTH: 6}, round=1, verdict=None, gain=None, status=None)
    gate = GateRow(
        round=1, scale="nano", gains=(0.081, 0.094, 0.078, 0.09), mean=0.0858, low=0.061, high=0.111, e_value=23.4,
        threshold=85.2, verdict=None, hypotheses=("h2", "h4", "h5"),
    )  # fmt: skip
    return empty(
        phase="gating",
        round=1,
        trials=tuple(builder.trials),
        hypotheses=tuple(builder.rows),
        gates=(gate,),
        branch={**BASE, LR: 0.006, ACTIVATION: "gelu", DECAY: 0.1},
        noise_sd={"nano": NOISE},
        resolvable_gain=0.021,
        space_edits=("widened model.init_args.lr to 0.0001 to 0.2, log: the optimum leans on its bound",),
        messages=("Trial 00012 was run again: the machine was contended.",),
        cost=Cost(train_seconds=420, wall_seconds=610, llm_tokens=18_400, llm_usd=0.11, llm_calls=2),
        scientist="gpt-5.5",
        model=ModelUse(outcomes={"answered": 2}, proposals=2, seconds=41.0, names=("gpt-5.5-2026-08",)),
    )


def promoted() -> StudySummary:
    """A study that ended with a promotion through both scales."""
    builder = Builder(seed=3)
    builder.calibrate()
    _first_round(builder, verdict=Verdict.PROMOTE)
    builder.hypothesis({DECAY: 0.1}, round=2, gain=0.009, verdict=Verdict.FAIL)
    builder.hypothesis({DEPTH: 6}, round=2, gain=None, verdict=Verdict.VOID, status=TrialStatus.OUT_OF_MEMORY)
    won: dict[str, Value] = {LR: 0.006, ACTIVATION: "gelu"}
    builder.pairs(won, count=4, round=1, scale="nano", purpose=Purpose.GATE)
    builder.pairs(won, count=3, round=1, scale="target", purpose=Purpose.GATE)
    builder.pairs(won, count=3, round=3, scale="target", purpose=Purpose.CONFIRM)
    ids = ("h2", "h4")
    gates = (
        GateRow(
            round=1, scale="nano", gains=(0.081, 0.094, 0.078, 0.09), mean=0.0858, low=0.061, high=0.111, e_value=412.0,
            threshold=85.2, verdict=Verdict.PROMOTE, sentence="e-value 412 reached 85.2 after 4 pairs.", hypotheses=ids,
        ),
        GateRow(
            round=1, scale="target", gains=(0.07, 0.083, 0.066), mean=0.073, low=0.041, high=0.105, e_value=math.inf,
            threshold=85.2, verdict=Verdict.PROMOTE, sentence="e-value passed 85.2 after 3 pairs.", hypotheses=ids,
        ),
        GateRow(
            round=2, scale="nano", gains=(0.004, -0.006, 0.001), mean=-0.0003, low=-0.03, high=0.029, e_value=0.2,
            threshold=43.9, verdict=Verdict.FAIL, sentence="t = -0.1 after 3 pairs.", hypotheses=("h5",),
        ),
    )  # fmt: skip
    diff = (
        "--- 0000.yaml\n+++ 0001.yaml\n@@ -5,3 +5,3 @@\n task:\n-  model: {lr: 0.003, activation: relu}\n"
        "+  model: {lr: 0.006, activation: gelu}\n   data: {block_size: 64}\n"
    )
    revisions = (
        RevisionRow(number=0, digest="5f0c" * 16),
        RevisionRow(
            number=1,
            digest="a9d1" * 16,
            changes=("model.init_args.lr: 0.003 -> 0.006", "model.init_args.activation: relu -> gelu"),
            hypotheses=ids,
            unified_diff=diff,
        ),
    )
    return empty(
        phase="done",
        done=True,
        reason="The budget of 200 trials is spent.",
        round=2,
        trials=tuple(builder.trials),
        hypotheses=tuple(builder.rows),
        gates=gates,
        revisions=revisions,
        incumbent={**BASE, **won},
        branch={**BASE, **won},
        confirmed_gain=ConfirmedGain(scale="target", mean=0.0745, low=0.049, high=0.1, pairs=3),
        noise_sd={"nano": NOISE, "target": 0.011},
        resolvable_gain=0.021,
        space_edits=("froze model.init_args.dropout: no effect beyond the noise in 12 runs",),
        cost=Cost(
            train_seconds=1900,
            wall_seconds=2312,
            llm_tokens=48_000,
            llm_usd=0.35,
            llm_calls=6,
            llm_usd_per_gain=0.35,
        ),
        scientist="gpt-5.5",
        model=ModelUse(outcomes={"answered": 6}, proposals=5, repairs=1, seconds=133.0),
    )


def with_scientist(*, rounds: int = 4, skilled: bool = True) -> StudySummary:
    """Four rounds in which a language model and the sampler state hypotheses by turns.

    The model's probabilities say what they mean if it is `skilled`, else they are drawn without any relation; the
    sampler always states the same.
    """
    builder = Builder(seed=9)
    builder.calibrate()
    for number in range(24 * rounds):
        round, model = 1 + number // 24, number % 2 == 0
        truth = builder.chance.choice((0.05, 0.1, 0.8, 0.95))
        keep = builder.chance.random() < (truth if model else 0.25)
        gain = abs(builder.chance.gauss(0.03, NOISE)) if keep else -abs(builder.chance.gauss(0.02, NOISE))
        if number % 17 == 5:
            ending: dict[str, Any] = {"gain": None, "verdict": Verdict.DROP, "status": TrialStatus.NOT_FINITE}
        else:
            ending = {"gain": gain, "verdict": Verdict.KEEP if keep else Verdict.DROP}
        stated = truth if skilled else 1 - truth
        expected = gain + builder.chance.gauss(0, NOISE) if skilled else 0.05
        builder.hypothesis(
            {LR: round_to(10 ** builder.chance.uniform(-4, -1))},
            round=round,
            **ending,
            source="gpt-5.5" if model else "sampler",
            prediction=Prediction(
                gain=expected,
                probability=stated if model else 0.25,
                low=expected - 1.3 * NOISE,
                high=expected + 1.3 * NOISE,
            ),
            kind="schedule" if model else "value",
            cites=("notes/lr.md:12",) if model and number % 4 == 0 else (),
        )
    return empty(
        phase="screening",
        round=rounds,
        trials=tuple(builder.trials),
        hypotheses=tuple(builder.rows),
        noise_sd={"nano": NOISE},
        resolvable_gain=0.021,
        cost=Cost(train_seconds=900, wall_seconds=1300, llm_tokens=612_000, llm_usd=1.84, llm_calls=31),
        scientist="gpt-5.5",
        model=ModelUse(
            outcomes={"answered": 26, "rate_limited": 3, "timed_out": 1},
            interrupted=1,
            repairs=4,
            proposals=22,
            seconds=533.0,
            names=("gpt-5.5-2026-08",),
            analysis="Rates above 0.02 diverge.\nThe gain of 0.006 did not depend on the seed.",
        ),
        budget_usd=5.0,
        budget_tokens=2_000_000,
        budget_usd_per_gain=2.5,
        refused={"gpt-5.5": 2},
    )


def asking() -> StudySummary:
    """A study that waits for its language model."""
    return replace(mid_round(), phase="asking", phase_detail="gpt-5.5, call 1/4", phase_since=1000.0)


def null_study() -> StudySummary:
    """A study in which nothing was promoted."""
    builder = Builder(seed=4)
    builder.calibrate()
    for value in (0.004, 0.002, 0.005, 0.0015):
        builder.hypothesis({LR: value}, round=1, gain=builder.chance.gauss(-0.01, NOISE))
    return empty(
        phase="done",
        done=True,
        reason="Nothing is left to try.",
        round=1,
        trials=tuple(builder.trials),
        hypotheses=tuple(builder.rows),
        noise_sd={"nano": NOISE},
        resolvable_gain=0.021,
        cost=Cost(train_seconds=130, wall_seconds=150),
    )


def failures() -> StudySummary:
    """A study with a trial of every status."""
    builder = Builder(seed=5)
    builder.calibrate()
    for status in TrialStatus:
        builder.hypothesis({DEPTH: 5}, round=1, status=status, gain=None, verdict=Verdict.VOID)
    return empty(
        phase="screening",
        round=1,
        trials=tuple(builder.trials),
        hypotheses=tuple(builder.rows),
        noise_sd={"nano": NOISE},
        messages=("The journal's last line was cut off and has been repaired.",),
        cost=Cost(train_seconds=150, wall_seconds=190),
    )


def failed_gate() -> StudySummary:
    """A study whose only gate failed."""
    builder = Builder(seed=6)
    builder.calibrate()
    _first_round(builder, verdict=Verdict.FAIL)
    gate = GateRow(
        round=1, scale="nano", gains=(0.01, -0.012, 0.002), mean=0.0, low=None, high=None, e_value=0.31, threshold=85.2,
        verdict=Verdict.FAIL, sentence="t = 0.0 after 3 pairs.", hypotheses=("h2", "h4"),
    )  # fmt: skip
    return replace(
        null_study(), trials=tuple(builder.trials), hypotheses=tuple(builder.rows), gates=(gate,), rule="gate"
    )


def interrupted() -> StudySummary:
    """A study that was stopped in the middle of a round."""
    return replace(
        mid_round(), phase="interrupted", reason="Interrupted by Ctrl-C after trial 00019.", budget_hours=None
    )


def greedy() -> StudySummary:
    """A study of an accuracy, under a rule without a guarantee and an optimistic reading."""
    return replace(
        promoted(), rule="greedy", read="best", metric="val_acc", mode="max", scales=("nano",), confirmed_gain=None
    )


def hostile() -> StudySummary:
    """A study whose proposer writes HTML, script ends and terminal markup."""
    builder = Builder(seed=7)
    builder.calibrate()
    attack = "<script>document.title='owned'</script>"
    statement = f"<img src=x onerror=\"document.title='owned'\"> </script>{attack} [bold red]x[/] {{{{ 7 * 7 }}}}"
    builder.hypothesis(
        {ACTIVATION: "</script><b>"},
        round=1,
        statement=statement,
        source="<b>model</b>",
        gain=0.03,
        verdict=Verdict.KEEP,
        kind="data",
        cites=(f"{attack}.md:1", "[x](javascript:alert(1))"),
    )
    return empty(
        name="a</script><i>b",
        goal="[/] </title><script>document.title='owned'</script>",
        phase="screening",
        round=1,
        trials=tuple(builder.trials),
        hypotheses=tuple(builder.rows),
        scientist="<b>model</b>",
        phase_detail="<b>model</b>\x1b[2J",
        model=ModelUse(
            outcomes={attack: 1}, proposals=1, names=(attack,), analysis=f"{attack} **bold** [x](javascript:alert(1))"
        ),
        refused={attack: 1},
        messages=("[link=http://x]</style><script>document.title='owned'</script>\x1b[31m",),
        noise_sd={"nano": NOISE},
    )


def large(trials: int = 5000) -> StudySummary:
    """A long study: a third of its trials test hypotheses with two runs each, 20 points per curve."""
    builder = Builder(seed=8)
    builder.calibrate()
    round = 1
    while len(builder.trials) < trials:
        round = 1 + len(builder.trials) // 60
        gain = builder.chance.gauss(-0.02, 0.03)
        failed = builder.chance.random() < 0.04
        builder.hypothesis(
            {LR: round_to(10 ** builder.chance.uniform(-4, -1)), DEPTH: builder.chance.randint(1, 6)},
            round=round,
            gain=None if failed else gain,
            verdict=Verdict.VOID if failed else Verdict.KEEP if gain > 0.02 else Verdict.DROP,
            status=TrialStatus.ERROR if failed else TrialStatus.FINISHED,
        )
    return empty(
        phase="screening",
        round=round,
        trials=tuple(builder.trials),
        hypotheses=tuple(builder.rows),
        budget_trials=2 * trials,
        budget_hours=72.0,
        noise_sd={"nano": NOISE},
        resolvable_gain=0.02,
        cost=Cost(train_seconds=62_000, wall_seconds=71_000),
    )


BUILDERS: Mapping[str, Callable[[], StudySummary]] = {
    build.__name__: build
    for build in (
        empty,
        calibrating,
        mid_round,
        promoted,
        null_study,
        failures,
        failed_gate,
        interrupted,
        greedy,
        hostile,
        with_scientist,
        asking,
    )
}
"""Every small study by name."""


def _first_round(builder: Builder, *, verdict: Verdict) -> None:
    builder.trial({}, seed=100, purpose=Purpose.BAR, round=1)
    builder.trial({}, seed=101, purpose=Purpose.BAR, round=1)
    builder.hypothesis({LR: 0.001}, round=1, gain=-0.041)
    builder.hypothesis(
        {LR: 0.006},
        round=1,
        gain=0.0271,
        verdict=verdict,
        source="gpt-5.5",
        statement="Doubling the learning rate helps: 150 steps are too few at 0.003.",
    )
    builder.hypothesis({DEPTH: 64}, round=1, gain=None, verdict=Verdict.VOID, status=TrialStatus.ERROR)
    builder.hypothesis({ACTIVATION: "gelu"}, round=1, gain=0.0483, verdict=verdict)


def _sentence(verdict: Verdict | None, gain: float | None) -> str:
    if verdict is None:
        return ""
    if gain is None:
        return "No run finished, so there is nothing to compare."
    return f"Mean gain {gain:+.3g} over the screen's seeds."
