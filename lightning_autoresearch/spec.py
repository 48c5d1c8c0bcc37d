"""The spec: strict YAML in, one frozen record out, every fault with its position."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from lightning_autoresearch.bundled import resource
from lightning_autoresearch.checks import ENDS, faults_of, live_faults, notes_of
from lightning_autoresearch.errors import Fault, SpecError
from lightning_autoresearch.scales import Ladder, Scale
from lightning_autoresearch.source import Settings, Source, merge, read_text
from lightning_autoresearch.space import Integer, SearchSpace, apply_overrides, digest_of, domain_of, get_key

Mode = Literal["min", "max"]
_Record = TypeVar("_Record")
_LIVE_EDITABLE = ("model.*",)
"""`policy.editable` where the task is live objects and the spec does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What is to be made better."""

    metric: str
    """Name under which the model logs it."""
    mode: Mode
    """Whether smaller (`min`) or larger (`max`) is better."""
    read: Literal["last", "best"] | int = "last"
    """Which value counts: `last`, the `best` of the curve (optimistic), or `{mean_of_last: k}`, in the record as k."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """A metric that may not get worse (with `mode`), or may not pass a bound (with `max` or `min`)."""

    metric: str
    """Name under which it is logged; `peak_memory_gb`, `parameters` and `train_seconds` are measured by the runner."""
    mode: Mode | None = None
    """Whether smaller or larger is better; the branch may then not be worse than the incumbent beyond the noise."""
    max: float | None = None
    """Largest value allowed."""
    min: float | None = None
    """Smallest value allowed."""
    hidden: bool = False
    """Whether the scientist is kept from ever seeing it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionRule:
    """How it is decided what is kept."""

    rule: Literal["gate", "greedy", "mean"] = "gate"
    """`gate` has an error guarantee; `greedy` (one better run) and `mean` (mean of k seeds) exist for comparison."""
    alpha: float = 0.1
    """False discovery rate over all gates of a scale."""
    keeps_per_round: int = 6
    """A round closes and is gated at so many provisional keeps."""
    proposals_per_round: int = 50
    """A round closes at so many proposals."""
    gate_pairs: int = 10
    """Largest number of pairs in one gate."""
    confirm_pairs: int = 3
    """Further fresh pairs that measure the gain of what was promoted."""
    calibration_seeds: int = 8
    """Seeds on which the baseline is run first, to measure the noise."""
    mean_seeds: int = 3
    """Seeds per hypothesis under the rule `mean`."""
    adopt_at: str = ""
    """Scale whose gate must be passed before `task` changes; empty means the last."""
    seed: int = 0
    """Seed from which every trial's seed is derived; change it to repeat the whole study independently."""
    self_test: bool = False
    """Whether the baseline is first gated against itself, as a test of the whole pipeline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How far a hypothesis may go."""

    max_changes: int = 3
    """Largest number of keys that one hypothesis may change."""
    max_factor: float = 4.0
    """Largest factor by which one hypothesis may change a positive number."""
    editable: tuple[str, ...] = ("model.init_args.*", "optimizer.init_args.*", "lr_scheduler.init_args.*")
    """Dotted keys of the task, `*` for any part, that the scientist may add to the search space."""
    allowed_classes: tuple[str, ...] = ()
    """Class paths that the scientist may switch a `class_path` to; empty means that classes stay."""
    approve: tuple[Literal["adopt"], ...] = ("adopt",)
    """What needs a person: `adopt` is always asked for by a command of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What a language model costs."""

    input_usd_per_million_tokens: float
    """US dollars per million tokens of the prompt."""
    output_usd_per_million_tokens: float
    """US dollars per million tokens of the reply."""
    cached_usd_per_million_tokens: float | None = None
    """US dollars per million tokens of the prompt that the server had cached; null means the same as others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScientistSettings:
    """The language model that proposes, or the mailbox through which somebody else does."""

    model: str | None = None
    """Name of the model; null with a mailbox."""
    mailbox: str | None = None
    """Folder, relative to the spec, in which requests are left and replies are picked up; instead of a model."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server; null means openai.com."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; null means OPENAI_API_KEY for openai.com and no key else."""
    timeout_seconds: float | None = None
    """Deadline of one answer with all its tries; null means 120 seconds for a server and 3600 for a mailbox."""
    share: float = 0.5
    """Share of the hypotheses that the language model states; the sampler states the others."""
    literature: tuple[str, ...] = ()
    """Files to read from (Markdown, text, PDF), as glob patterns relative to the spec."""
    max_tokens: int = 16000
    """Largest number of tokens of a reply, thoughts included."""
    prompt_characters: int = 40000
    """Largest number of characters of a prompt; lower it for a model with a small context."""
    temperature: float | None = None
    """Sampling temperature; null leaves it to the server."""
    seed: int | None = None
    """Seed of the model's sampling, where a server knows such a thing; null leaves it out."""
    price: Price | None = None
    """What the model costs, where no table knows it."""

    @property
    def deadline_seconds(self) -> float:
        """The deadline of one answer, in seconds."""
        return self.timeout_seconds or (120.0 if self.mailbox is None else 3600.0)

    @property
    def key_variable(self) -> str | None:
        """Name of the environment variable with the key; null where none is sent."""
        return self.api_key_env or (None if self.base_url or self.mailbox else "OPENAI_API_KEY")


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Where the study ends; whichever comes first."""

    trials: int = 200
    """Largest number of training runs; 0 for none."""
    hours: float | None = None
    """Largest wall-clock time, over all sessions of the study."""
    usd: float | None = None
    """Largest cost of the language model in US dollars; beyond it the sampler goes on alone."""
    tokens: int | None = None
    """Largest number of the language model's tokens; beyond it the sampler goes on alone."""
    usd_per_gain: float | None = None
    """The study ends when the language model has cost more than this per confirmed improvement (at least one)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How trials are run."""

    executor: Literal["process", "inline"] = "process"
    """`process`: a worker process per trial; `inline`: in the study's own process, for debugging, without limits."""
    slots: int = 1
    """Trials at once; each slot has its own cores and devices."""
    timeout_seconds: float = 3600.0
    """A trial that takes longer is ended and counts as timed out."""
    memory_gb: float | None = None
    """A trial that takes more (1e9 bytes, all processes) is ended; by default 90 % of what is free, over the slots."""
    preload: tuple[str, ...] = ()
    """Modules to import once, before any trial, so that not every trial pays for them."""
    keep_environment: tuple[str, ...] = ()
    """Environment variables that look like secrets and that trials need all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A valid spec: parsed once, trusted everywhere."""

    name: str
    """Name of the study; its folder below `studies/`."""
    task: Mapping[str, Any]
    """A LightningCLI config, the incumbent at revision 0. For the callback: what differs from the program."""
    objective: Objective
    """What is to be made better."""
    search_space: SearchSpace
    """What may be varied."""
    scales: Ladder
    """The proxy scales, cheap to dear."""
    goal: str = ""
    """The question, in one sentence."""
    guards: tuple[Guard, ...] = ()
    """Metrics that may not get worse."""
    decision: DecisionRule = field(default_factory=DecisionRule)
    """How it is decided what is kept."""
    scientist: ScientistSettings | None = None
    """The language model that proposes, or a mailbox to it; absent means the offline proposer."""
    policy: Policy = field(default_factory=Policy)
    """How far a hypothesis may go."""
    budget: Budget = field(default_factory=Budget)
    """Where the study ends."""
    execution: Execution = field(default_factory=Execution)
    """How trials are run."""
    tracking: Mapping[str, Any] = field(default_factory=dict)
    """Where results are also sent."""
    text: str = ""
    """The YAML as the user wrote it."""
    path: Path = Path("<spec>")
    """The file it was read from."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The whole document as plain data, `--set` applied and `task.config` resolved."""
    digest: str = ""
    """SHA-256 of `data` in canonical form: comments and layout do not count."""
    notes: tuple[str, ...] = ()
    """What is valid but worth saying, for example a section that has no effect yet."""
    live: bool = False
    """Whether the task was read from objects of a running program; its text then holds only what differs from them."""

    @property
    def base(self) -> dict[str, Any]:
        """The task's own value of every key of the search space."""
        return {key: get_key(self.task, key) for key in self.search_space}


def load_spec(path: str | os.PathLike[str], *, overrides: Settings = ()) -> Spec:
    """Read and check a spec.

    Args:
        path: the YAML file; `task: {config: FILE}` is resolved relative to its folder.
        overrides: `KEY=VALUE` texts (or a map) with dotted paths into the spec, applied in order before the check.

    Raises:
        SpecError: the file cannot be read or the spec is not valid; all faults with their positions.
    """
    return parse_spec(read_text(Path(path)), path=path, overrides=overrides)


def parse_spec(text: str, *, path: str | os.PathLike[str], overrides: Settings = ()) -> Spec:
    """The same from a text; `path` names it in faults, and its folder is where `task: {config: FILE}` is looked for.

    Raises:
        SpecError: the spec is not valid; all faults with their positions.
    """
    source = merge(text, path=Path(path), overrides=overrides)
    faults = [source.locate(fault) for fault in faults_of(source.data, _schema())]
    if faults or source.faults:
        raise SpecError([*source.faults, *faults])
    return _spec(source.data, text=text, path=Path(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveSpec:
    """A spec whose task are the objects of a running program, which are not known yet; all else is checked."""

    source: Source
    """The text, and what `--set` said."""
    text: str
    """The YAML as the user wrote it."""
    path: Path
    """The file it was read from."""

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.source.data["name"])

    @property
    def trials(self) -> int:
        """Largest number of training runs; 0 for none."""
        return int(self.source.data.get("budget", {}).get("trials", Budget().trials))

    def with_own_task(self) -> Spec:
        """The whole spec where its own `task` holds all the values.

        Raises:
            SpecError: it has no task, or that does not fit the rest.
        """
        if faults := faults_of(self.source.data, _schema()):
            raise SpecError(map(self.source.locate, faults))
        return _spec(self.source.data, text=self.text, path=self.path, live=True)

    def with_task(self, task: Mapping[str, Any]) -> Spec:
        """The whole spec where the task is live objects.

        Args:
            task: what was read from the objects, as plain data: `model`, `trainer` and perhaps `data`; what the spec's
                own `task` says has precedence.

        Raises:
            SpecError: the spec names what the objects do not have, or does not fit their values.
        """
        own = self.source.data.get("task")
        faults = live_faults(self.source.data, own, task)
        data = {**self.source.data, "task": _without_ends(_merged(task, own or {}), own, self.source.data["scales"])}
        known = {fault.pointer for fault in faults}
        faults += [_of_program(fault) for fault in faults_of(data, _schema()) if fault.pointer not in known]
        if faults:
            raise SpecError(map(self.source.locate, faults))
        return _spec(data, text=self.text, path=self.path, live=True)


def load_live_spec(path: str | os.PathLike[str], *, overrides: Settings = ()) -> LiveSpec:
    """Read a spec for the callback, and check what can be checked without the task.

    Raises:
        SpecError: as `load_spec`.
    """
    text = read_text(Path(path))
    source = merge(text, path=Path(path), overrides=overrides)
    without_task = {key: part for key, part in source.data.items() if key != "task"}
    faults = [*source.faults, *map(source.locate, faults_of(without_task, _schema(), needs_task=False))]
    own = source.data.get("task")
    if source.config or (isinstance(own, dict) and any(_is_config(part) for part in (own, *own.values()))):
        what = "this task is a LightningCLI config; the callback takes model, data and Trainer from your program"
        mend = "take `task` out, or run `lightning-autoresearch fit` on this spec"
        faults.append(source.locate(Fault(pointer="/task", what=what, mend=mend)))
    if faults:
        raise SpecError(faults)
    return LiveSpec(source=source, text=text, path=Path(path))


def _of_program(fault: Fault) -> Fault:
    """A fault in words for a task that is no text."""
    mend = fault.mend.replace("write a number in the task", "give one to the Trainer, model or data")
    return dataclasses.replace(fault, mend=mend)


def _is_config(node: Any) -> bool:
    return isinstance(node, dict) and any(key in node for key in ("class_path", "cli", "config"))


def _without_ends(task: dict[str, Any], own: Any, scales: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The task without what ends the program's own fit, where every scale has another value in its place.

    It has no effect on any trial then, and may be another one the next time.
    """
    kept = _merged({}, own or {}).get("trainer") or {}
    everywhere = {name for name in ENDS if all(f"trainer.{name}" in scale.get("set", {}) for scale in scales)}
    settings = {key: value for key, value in task["trainer"].items() if key not in everywhere or key in kept}
    return {**task, "trainer": settings}


def _merged(task: Mapping[str, Any], own: Any) -> dict[str, Any]:
    """A task with the values of another in their places."""
    merged = dict(task)
    for key, value in own.items() if isinstance(own, Mapping) else ():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(schema_text())
    return schema


def schema_text() -> str:
    """The JSON Schema of the spec, as text."""
    return resource("schemas", "spec.schema.json").read_text(encoding="utf-8")


def _spec(data: Mapping[str, Any], *, text: str, path: Path, live: bool = False) -> Spec:
    space = SearchSpace(domains={key: domain_of(domain) for key, domain in data["search_space"].items()})
    return Spec(
        name=data["name"],
        goal=data.get("goal", ""),
        task=_task(data["task"], space),
        objective=_objective(data["objective"]),
        guards=tuple(_record(Guard, guard) for guard in data.get("guards", ())),
        search_space=space,
        scales=Ladder(scales=tuple(_record(Scale, scale) for scale in data["scales"])),
        decision=_record(DecisionRule, data.get("decision", {})),
        scientist=_scientist(data.get("scientist")),
        policy=_record(Policy, {**({"editable": _LIVE_EDITABLE} if live else {}), **data.get("policy", {})}),
        budget=_record(Budget, data.get("budget", {})),
        execution=_record(Execution, data.get("execution", {})),
        tracking=data.get("tracking", {}),
        text=text,
        path=path,
        data=data,
        digest=digest_of(data),
        notes=notes_of(data, live=live),
        live=live,
    )


def _task(data: Mapping[str, Any], space: SearchSpace) -> dict[str, Any]:
    """The task without its own seed, whole numbers whole: LightningCLI refuses 3.0 where it expects an integer."""
    task = {key: value for key, value in copy.deepcopy(dict(data)).items() if key != "seed_everything"}
    return apply_overrides(task, {key: int(get_key(task, key)) for key in space if isinstance(space[key], Integer)})


def _objective(data: Mapping[str, Any]) -> Objective:
    read = data.get("read", "last")
    return _record(Objective, {**data, "read": int(read["mean_of_last"]) if isinstance(read, dict) else read})


def _scientist(data: Mapping[str, Any] | None) -> ScientistSettings | None:
    if data is None:
        return None
    price = data.get("price")
    return _record(ScientistSettings, {**data, "price": price and _record(Price, price)})


def _record(kind: type[_Record], data: Mapping[str, Any]) -> _Record:
    types = {entry.name: str(entry.type) for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: _of_type(types[name], value) for name, value in data.items()})


def _of_type(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if name.startswith("tuple"):
        return tuple(value)
    if name.startswith("int"):
        return int(value)
    return float(value) if name.startswith("float") else value
