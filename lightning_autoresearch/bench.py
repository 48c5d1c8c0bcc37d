"""The test bench: configurations in, comparable runs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_autoresearch.dispatch import Chain, Dispatcher
from lightning_autoresearch.hypothesis import Measurement
from lightning_autoresearch.scales import Scale
from lightning_autoresearch.seeds import SeedStream
from lightning_autoresearch.space import Value
from lightning_autoresearch.spec import Spec
from lightning_autoresearch.trial import INFRASTRUCTURE, Purpose, Trial, TrialResult, TrialStatus

Config = Mapping[str, Value]
"""The value of every key that is or was in the search space."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a configuration."""

    seed: int
    """Its seed."""
    result: TrialResult
    """What came of it."""

    @property
    def objective(self) -> float:
        """The objective of a run that finished."""
        assert self.result.objective is not None
        return self.result.objective

    @property
    def finished(self) -> bool:
        """Whether there is an objective to compare."""
        return self.result.finished

    @property
    def at_fault(self) -> bool:
        """Whether it failed in a way that says something about its configuration."""
        return not self.finished and self.result.status not in {*INFRASTRUCTURE, TrialStatus.CANCELLED}

    @property
    def failure(self) -> str:
        """How it failed, in words."""
        return f"{self.result.status.value.replace('_', ' ')}: {self.result.failure}"


class Bench:
    """Runs configurations of one study and remembers what was measured at the search scale.

    Attributes:
        round: number of the round that trials are labelled with.
        measurements: every run at the search scale, in an order that does not depend on which ended first.
    """

    def __init__(self, spec: Spec, *, dispatcher: Dispatcher):
        self.spec = spec
        self.dispatcher = dispatcher
        self.seeds = SeedStream(spec.decision.seed)
        self.base: dict[str, Value] = spec.base
        self.round = 0
        self._added: set[str] = set()
        self.measurements: list[Measurement] = []

    def add_key(self, key: str, value: Value) -> None:
        """A key joins the configurations; everything measured so far had this value of it."""
        self.base[key] = value
        self._added.add(key)
        self.measurements = [replace(one, config={**one.config, key: value}) for one in self.measurements]

    def trial(
        self, config: Config, scale: Scale, *, seed: int, purpose: Purpose, hypothesis: str | None = None
    ) -> Trial:
        """The trial of a configuration; its overrides are what differs from revision 0.

        Under another class a key that the task does not name has another default, so all of these are said then.
        """
        differs = {key for key, value in config.items() if not same_value(value, self.base[key])}
        if any(key.endswith("class_path") for key in differs):
            differs |= config.keys() & self._added
        return Trial(
            id="",
            overrides={key: value for key, value in config.items() if key in differs},
            scale=scale.name,
            seed=seed,
            purpose=purpose,
            round=self.round,
            hypothesis=hypothesis,
        )

    def runs(self, config: Config, scale: Scale, *, seeds: Sequence[int], purpose: Purpose) -> list[Run]:
        """One configuration on several seeds."""
        return self.run_all([(config, seed) for seed in seeds], scale, purpose=purpose)

    def run_all(self, wanted: Sequence[tuple[Config, int]], scale: Scale, *, purpose: Purpose) -> list[Run]:
        """(configuration, seed) each, at one scale; the runs come in the same order."""

        def one(config: Config, seed: int) -> Chain[Run]:
            result = yield self.trial(config, scale, seed=seed, purpose=purpose)
            return Run(seed=seed, result=result)

        runs = self.dispatcher.run([one(config, seed) for config, seed in wanted])
        if scale is self.spec.scales.search:
            for (config, _), run in zip(wanted, runs, strict=True):
                self.remember(config, [run])
        return runs

    def pairs(
        self, champion: Config, challenger: Config, scale: Scale, *, count: int, against_itself: bool = False
    ) -> list[tuple[Run, Run]]:
        """Both configurations on `count` fresh seeds; on different ones where a configuration meets itself."""
        wanted: list[tuple[Config, int]] = []
        for _ in range(count):
            seed = self.seeds.fresh()
            wanted += [(champion, seed), (challenger, self.seeds.fresh() if against_itself else seed)]
        runs = self.run_all(wanted, scale, purpose=Purpose.GATE)
        return list(zip(runs[::2], runs[1::2], strict=True))

    def remember(self, config: Config, runs: Sequence[Run]) -> None:
        """Add runs at the search scale to what a proposer is told."""
        self.measurements += [
            Measurement(
                config=dict(config),
                pair=self.seeds.number(run.seed),
                status=run.result.status,
                objective=run.result.objective,
            )
            for run in runs
        ]

    def gain(self, champion: Run, challenger: Run) -> float:
        """The paired gain in units of the objective, positive when the challenger is better."""
        sign = 1.0 if self.spec.objective.mode == "min" else -1.0
        return sign * (champion.objective - challenger.objective)


def same_value(one: Value, other: Value) -> bool:
    """Equal in type and value: 1, 1.0 and true are three values."""
    return type(one) is type(other) and one == other


def same_shapes(one: Run, other: Run) -> bool:
    """Whether two runs trained parameters of the same names and shapes."""
    return one.result.shapes_digest == other.result.shapes_digest
