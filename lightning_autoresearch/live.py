"""A task that is live objects: the Trainer, the model and the data that a program gave to `Trainer.fit`.

They are read as plain data, copied or built again for trials, and changed in place when something has won.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial, wraps
from pathlib import Path
from types import MethodType
from typing import Any, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.prediction_loop import _PredictionLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from lightning_autoresearch.building import Training
from lightning_autoresearch.errors import InputError, TrialError
from lightning_autoresearch.space import get_key, has_key
from lightning_autoresearch.trial import Job, digest_of


class Build(Protocol):
    """Makes a model from named values, each with a default: the program's own."""

    def __call__(self, **values: Any) -> pl.LightningModule:
        """A model with fresh weights."""
        ...


_QUIET = (Checkpoint, ModelSummary, ProgressBar)
"""Callbacks that a trial does without: they write files or to the terminal, and change nothing of the training."""
_ON_LOOP = ("max_epochs", "min_epochs")
_ON_EPOCH_LOOP = ("max_steps", "min_steps")
_ON_TRAINER = (
    "accumulate_grad_batches",
    "check_val_every_n_epoch",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "limit_val_batches",
    "val_check_interval",
)
_NO_END: Mapping[str, Any] = {"max_epochs": -1, "max_steps": -1}
_NOTHING = object()


class LiveTask:
    """The objects of a fit that is about to begin (`setup("fit")`), as a task.

    Args:
        trainer: the user's Trainer, with model and data attached.
        build: makes the model, where its hyperparameters are not saved.
        without: classes of callbacks that trials do without.

    Attributes:
        task: what was read, as plain data: `model`, `trainer`, and `data` where there is a datamodule.

    Raises:
        InputError: the model cannot be built again from what is known of it.
    """

    def __init__(
        self, trainer: pl.Trainer, *, build: Build | None = None, without: tuple[type[pl.Callback], ...] = ()
    ) -> None:
        self.trainer = trainer
        self.model = trainer.lightning_module
        self.data: pl.LightningDataModule | None = trainer.datamodule  # type: ignore[attr-defined]
        self.build = build
        self._without = (*_QUIET, *without)
        model = _defaults(build) if build else dict(self.model.hparams)
        self.task: dict[str, Any] = {"model": _plain(model), "trainer": settings_of(trainer)}
        if self.data is not None:
            self.task["data"] = _plain(dict(self.data.hparams))

    # -- trials ------------------------------------------------------------------------------------------------------

    def training(self, job: Job, folder: Path) -> Training:
        """A trial of the task: a copy of the Trainer, model and data built again with the job's values.

        Raises:
            TrialError: the model did not take a value that it was given.
        """
        changes = changed(self.task, job.task)
        model = self._new_model(_below("model", changes))
        _carry_over(self.model, model)
        self._without_files(model)
        fit, validate = self._data_for(_below("data", changes))
        trainer = self._copied_trainer(model, folder)
        settings = _below("trainer", changes)
        if not settings.keys().isdisjoint(_NO_END):  # an end of the trial's own stands in for those of the program
            settings = {**_NO_END, **settings}
        for name, value in settings.items():
            _set(trainer, name, value)
        return Training(
            trainer=trainer, model=model, fit=fit, validate=validate, digest=partial(digest_of, dict(job.task))
        )

    def check(self) -> None:
        """Refuse what trials would silently get wrong: a model that its constructor does not give again.

        Raises:
            InputError: it cannot be built again, has other parameters then, or its weights were changed since.
        """
        if self.model._compiler_ctx is not None:
            raise InputError("a compiled model cannot be built again: call torch.compile in its configure_model()")
        with isolate_rng(include_cuda=False):
            states = [_state(self._first_fresh(seed)) for seed in (0, 1)]
        mine = _state(self.model)
        if _shapes(mine) != _shapes(states[0]):
            raise InputError(
                f"{self._name} has other parameters than {self._source} gives: {_difference(mine, states[0])}; "
                f"{self._remedy}"
            )
        fixed = [name for name, value in states[0].items() if torch.equal(value, states[1][name])]
        if moved := next((name for name in fixed if not torch.equal(mine[name].cpu(), states[0][name].cpu())), None):
            raise InputError(
                f"the weights of {self._name} were changed since it was made ({moved} is not what {self._source} "
                "gives), so trials would not begin where your fit does: load them in the model's __init__, "
                "or in a function that you give as build="
            )

    @property
    def _name(self) -> str:
        return type(self.model).__name__

    @property
    def _source(self) -> str:
        return "build()" if self.build else "its constructor with the saved hyperparameters"

    @property
    def _remedy(self) -> str:
        if self.build:
            return "let the defaults of build() be the values that the model was made with"
        return "call self.save_hyperparameters() in its __init__, or give build="

    def _first_fresh(self, seed: int) -> pl.LightningModule:
        torch.manual_seed(seed)
        try:
            return self._new_model({})
        except Exception as error:
            raise InputError(
                f"{self._name} cannot be built again by {self._source}: {type(error).__name__}: {error}; {self._remedy}"
            ) from error

    def _new_model(self, changes: Mapping[str, Any]) -> pl.LightningModule:
        if self.build:
            new = self.build(**{**_defaults(self.build), **changes})
        else:
            new = _made_again(self.model, changes)
        if type(new) is not type(self.model):
            raise TrialError(f"build() gave a {type(new).__name__}, and the Trainer was given a {self._name}")
        return new

    def _without_files(self, model: pl.LightningModule) -> None:
        """The callbacks that a model brings along are those of a trial too."""
        configure = model.configure_callbacks

        def kept() -> list[pl.Callback]:
            callbacks = configure()
            listed = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
            return [one for one in listed if not isinstance(one, self._without)]

        model.configure_callbacks = kept  # type: ignore[method-assign]

    def _data_for(self, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of `Trainer.fit` and of `validate`: own copies of all that has a state, the datasets shared."""
        if self.data is not None:
            data = self._fresh_data(changes)
            return {"datamodule": data}, {"datamodule": data}
        train = self.trainer.fit_loop._data_source.instance
        fit = {} if train is self.model else {"train_dataloaders": _copied(train, {})}
        validate = {name: _copied(one, {}) for name, one in validation_data(self.trainer).items()}
        return fit | {f"val_{name}": one for name, one in validate.items()}, validate

    def _fresh_data(self, changes: Mapping[str, Any]) -> pl.LightningDataModule:
        assert self.data is not None
        if self.data.hparams:
            fresh: pl.LightningDataModule = _made_again(self.data, changes)
            _carry_over(self.data, fresh)
            return fresh
        shared = {id(part): part for part in _heavy(self.data.__dict__)}
        copied: pl.LightningDataModule = _copied(self.data, {id(self.trainer): None, **shared})
        return copy.copy(self.data) if copied is self.data else copied

    def _copied_trainer(self, model: pl.LightningModule, folder: Path) -> pl.Trainer:
        """A Trainer as the user made hers, with loops that have not run, and nothing that writes."""
        old = self.trainer
        loops = (old.fit_loop, old.validate_loop, old.test_loop, old.predict_loop)
        memo: dict[int, Any] = {id(loop): None for loop in loops}
        memo |= {id(self.model): model, id(self.data): None, id(old.strategy._launcher): None}
        profiler, files = old.profiler, old.strategy.checkpoint_io  # type: ignore[attr-defined]
        memo |= {id(profiler): PassThroughProfiler(), id(files): files}
        memo |= {id(logger): None for logger in old.loggers}
        callbacks = old.callbacks  # type: ignore[attr-defined]
        memo[id(callbacks)] = []
        new = copy.deepcopy(old, memo)
        copies = [_copied_callback(one, memo) for one in callbacks if not isinstance(one, self._without)]
        new.callbacks = [*copies, OwnParameters(list(self.model.parameters()))]  # type: ignore[attr-defined]
        new._loggers = [_Nowhere(folder)]
        new._default_root_dir = str(folder)  # type: ignore[attr-defined]
        new.num_sanity_val_steps = 0
        _renew_loops(new, like=old)
        return new

    # -- the winner --------------------------------------------------------------------------------------------------

    def put_in(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Change the user's own objects to the values of a task; what it does not change keeps its state.

        Model and data are made anew in place, so every variable of the program still means them.

        Returns:
            What was changed: dotted keys and values.
        """
        changes = changed(self.task, task)
        if of_model := _below("model", changes):
            self._renew_model(of_model)
        if (of_data := _below("data", changes)) and self.data is not None:
            _renew(self.data, _made_again(self.data, of_data) if _instantiator(self.data) else None, of_data)
            self.data.trainer = self.trainer
            self.trainer._data_connector.prepare_data()
            self.data.setup("fit")
        for name, value in _below("trainer", changes).items():
            _set(self.trainer, name, value)
        return changes

    def _renew_model(self, changes: Mapping[str, Any]) -> None:
        model = self.model
        ready_made = self._new_model(changes) if self.build or _instantiator(model) else None
        _renew(model, ready_made, changes)
        model.trainer = self.trainer
        for module in model.modules():  # as Lightning does before it calls the setup hooks
            if isinstance(module, _DeviceDtypeModuleMixin):
                module._device = self.trainer.strategy.root_device


class OwnParameters(pl.Callback):
    """Looks that an optimizer does not hold parameters of another model: it would train that one.

    Args:
        others: the other model's parameters.
    """

    def __init__(self, others: Sequence[torch.nn.Parameter]) -> None:
        self._others = others

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, as soon as there are optimizers.

        Raises:
            TrialError: one holds them.
        """
        others = {id(parameter) for parameter in self._others}
        for optimizer in trainer.optimizers:
            if any(id(one) in others for group in optimizer.param_groups for one in group["params"]):
                name = type(pl_module).__name__
                raise TrialError(
                    f"the {type(optimizer).__name__} of {name} was made of the parameters that the model had before "
                    "the trial: make it in configure_optimizers() of the class"
                )


class _Nowhere(DummyLogger):
    """Stands for the user's loggers in a trial: takes everything, writes nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = str(folder)

    @property
    def save_dir(self) -> str:
        """The trial's folder, for code that writes beside its logs."""
        return self._folder


def changed(task: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys whose values in another task differ, with the other's values."""
    found: dict[str, Any] = {}
    for key, value in other.items():
        mine = task.get(key, _NOTHING)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            found |= {f"{key}.{below}": one for below, one in changed(mine, value).items()}
        elif mine != value or isinstance(mine, bool) != isinstance(value, bool):
            found[key] = value
    return found


def _below(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{section}."
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}


# -- reading ---------------------------------------------------------------------------------------------------------


def _plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """What of some values a dotted key can name and YAML can hold; the rest stays as it is in every trial."""
    pairs = ((key, _plain_value(value)) for key, value in values.items() if _is_key(key))
    return {key: value for key, value in pairs if value is not _NOTHING}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else _NOTHING
    if isinstance(value, (list, tuple)):
        items = [_plain_value(item) for item in value]
        return _NOTHING if any(item is _NOTHING for item in items) else items
    return _NOTHING


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and bool(key) and "." not in key and not key.startswith("_")


def settings_of(trainer: pl.Trainer) -> dict[str, Any]:
    """What of a Trainer can be changed after it was made."""
    names = sorted((*_ON_TRAINER, *_ON_LOOP, *_ON_EPOCH_LOOP))
    return _plain({name: getattr(trainer, name) for name in names})


def validation_data(trainer: pl.Trainer) -> dict[str, Any]:
    """Arguments of `Trainer.validate` that give it the data of the fit."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    if data is not None:
        return {"datamodule": data}
    source = trainer.fit_loop.epoch_loop.val_loop._data_source.instance
    return {} if source is trainer.lightning_module else {"dataloaders": source}


def _set(trainer: pl.Trainer, name: str, value: Any) -> None:
    if name in _ON_EPOCH_LOOP:
        setattr(trainer.fit_loop.epoch_loop, name, value)
    elif name in _ON_LOOP:
        setattr(trainer.fit_loop, name, value)
    else:
        setattr(trainer, name, value)


def _defaults(build: Build) -> dict[str, Any]:
    """The values that `build` uses when it is given none.

    Raises:
        InputError: an argument has no default.
    """
    parameters = inspect.signature(build).parameters.values()
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if missing := [one.name for one in named if one.default is one.empty]:
        raise InputError(f"build: {', '.join(missing)} has no default; let it be the value that your model has")
    return {one.name: one.default for one in named}


# -- building again --------------------------------------------------------------------------------------------------


def _made_again(old: Any, changes: Mapping[str, Any]) -> Any:
    """A new object of the same class from the saved hyperparameters, as `load_from_checkpoint` makes one."""
    make = _instantiator(old)
    arguments = _arguments(old, changes)
    fresh = make(type(old), arguments) if make else type(old)(**arguments)
    _refuse_other_values(fresh, changes)
    return fresh


def _refuse_other_values(fresh: Any, changes: Mapping[str, Any]) -> None:
    saved = _plain(dict(fresh.hparams))
    for key, value in changes.items():
        if has_key(saved, key) and (got := get_key(saved, key)) != value:
            name = type(fresh).__name__
            raise TrialError(
                f"{key} was set to {value!r} and {name} made it {got!r}: take the key out of the search space"
            )


def _arguments(old: HyperparametersMixin, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments: the saved hyperparameters, those that change in their places."""
    values = copy.deepcopy(old.hparams)
    for key, value in changes.items():
        *parents, last = key.split(".")
        node: Any = values
        for part in parents:
            node = node[part]
        node[last] = value
    parameters = inspect.signature(type(old).__init__).parameters
    name = str(getattr(old, "_hparams_name", None))
    if name in parameters and name != "kwargs":
        return {name: values}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    hidden = ("_instantiator",)
    return {key: value for key, value in values.items() if key not in hidden and (takes_any or key in parameters)}


def _instantiator(old: Any) -> Callable[[type, dict[str, Any]], Any] | None:
    """LightningCLI's way to make the object, where that made it."""
    if "_instantiator" not in old.hparams:
        return None
    from lightning.pytorch.cli import instantiate_module

    return instantiate_module


def _carry_over(old: Any, new: Any) -> None:
    """Give a new object copies of what the program gave the old one after it was made; methods get bound to it."""
    memo = _counterparts(_parts(old), new) | {id(old): new, id(getattr(old, "_trainer", None) or old.trainer): None}
    for name, value in old.__dict__.items():
        if name not in new.__dict__ and not isinstance(value, DataLoader):
            new.__dict__[name] = _rebound(value, new, memo) if isinstance(value, MethodType) else _copied(value, memo)


def _rebound(method: MethodType, new: Any, memo: dict[int, Any]) -> MethodType:
    """A method that was set on an object, for another one.

    LightningCLI sets `configure_optimizers` with an optimizer that it has made of the object's parameters.
    """
    function: Any = method.__func__
    if isinstance(function, partial):
        function = copy.deepcopy(function, {**memo, **_parameter_lists(function, new)})
        for one in function.keywords.values():
            if isinstance(one, LRScheduler):
                _count_steps(one.optimizer)
    return MethodType(function, new)


def _count_steps(optimizer: torch.optim.Optimizer) -> None:
    """What a scheduler does to its optimizer when it is made, so that it can tell a missing step; a copy lacks it."""
    step = type(optimizer).step

    @wraps(step)
    def counted(*args: Any, **kwargs: Any) -> Any:
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return step(optimizer, *args, **kwargs)

    counted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = counted  # type: ignore[method-assign]


def _parts(whole: Any) -> dict[str, Any]:
    """Submodules and parameters of a model by name; empty for anything else."""
    if not isinstance(whole, torch.nn.Module):
        return {}
    return {**dict(whole.named_modules()), **dict(whole.named_parameters())}


def _counterparts(parts: Mapping[str, Any], new: Any) -> dict[int, Any]:
    """For `copy.deepcopy`: what stands in a new model for the parts of an old one."""
    others = _parts(new)
    return {id(part): others[name] for name, part in parts.items() if name in others}


def _parameter_lists(function: partial[Any], new: Any) -> dict[int, Any]:
    """For `copy.deepcopy`: a new model's parameters for the lists of them in an optimizer that a function holds."""
    optimizers = [one for one in function.keywords.values() if isinstance(one, torch.optim.Optimizer)]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {id(group["params"]): list(new.parameters()) for group in groups} if len(groups) == 1 else {}


def _renew(old: Any, ready_made: Any, changes: Mapping[str, Any]) -> None:
    """Make an object anew in place.

    Args:
        old: the object.
        ready_made: a new one whose insides it gets; None to call its constructor.
        changes: hyperparameters that change.
    """
    before, parts = dict(old.__dict__), _parts(old)
    arguments = {} if ready_made else _arguments(old, changes)
    old.__dict__.clear()
    try:
        if ready_made:
            old.__dict__.update(ready_made.__dict__)
        else:
            old.__init__(**arguments)
    except BaseException:
        old.__dict__.clear()
        old.__dict__.update(before)
        raise
    memo = _counterparts(parts, old) | {id(old): old}
    for name, value in before.items():
        if name not in old.__dict__ and not isinstance(value, DataLoader):
            bound = isinstance(value, MethodType) and value.__self__ is old
            old.__dict__[name] = _rebound(value, old, memo) if bound else value


# -- copying ---------------------------------------------------------------------------------------------------------


def _renew_loops(trainer: pl.Trainer, *, like: pl.Trainer) -> None:
    """The loops that a Trainer's constructor makes, with the limits of another's."""
    inference = like.validate_loop.inference_mode
    fit_loop = _FitLoop(trainer, min_epochs=like.min_epochs, max_epochs=like.max_epochs)
    trainer.fit_loop = fit_loop
    fit_loop.epoch_loop = _TrainingEpochLoop(trainer, min_steps=like.min_steps, max_steps=like.max_steps)
    stages = RunningStage.VALIDATING, RunningStage.TESTING
    validating, testing = TrainerFn.VALIDATING, TrainerFn.TESTING
    trainer.validate_loop = _EvaluationLoop(trainer, validating, stages[0], inference_mode=inference)
    trainer.test_loop = _EvaluationLoop(trainer, testing, stages[1], inference_mode=inference)
    trainer.predict_loop = _PredictionLoop(trainer, inference_mode=inference)


def _copied_callback(callback: pl.Callback, memo: dict[int, Any]) -> pl.Callback:
    try:
        return copy.deepcopy(callback, memo)
    except (TypeError, RuntimeError) as error:
        name = type(callback).__name__
        raise TrialError(
            f"the callback {name} cannot be copied for a trial ({error}); leave it out there with without=[{name}]"
        ) from error


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy with generators, samplers and other state of its own, datasets shared; the value where it has no copy."""
    try:
        return copy.deepcopy(value, {**memo, **{id(part): part for part in _heavy(value)}})
    except (TypeError, RuntimeError):  # it holds an open file, or something else of which there is only one
        return value


def _heavy(node: Any, *, depth: int = 4) -> Iterator[Any]:
    """What is shared instead of copied: datasets, tensors and arrays."""
    if isinstance(node, (Dataset, torch.Tensor, np.ndarray)):
        yield node
    elif isinstance(node, DataLoader):
        yield node.dataset
    elif depth and isinstance(node, Mapping):
        for one in node.values():
            yield from _heavy(one, depth=depth - 1)
    elif depth and isinstance(node, (list, tuple)):
        for one in node:
            yield from _heavy(one, depth=depth - 1)


# -- looking ---------------------------------------------------------------------------------------------------------


def _state(model: pl.LightningModule) -> dict[str, torch.Tensor]:
    """Parameters and buffers that have a shape already."""
    uninitialized = (torch.nn.parameter.UninitializedParameter, torch.nn.parameter.UninitializedBuffer)
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: value.detach() for name, value in named if not isinstance(value, uninitialized)}


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def _difference(mine: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> str:
    """The first parameter in which two models differ, in words."""
    one, other = _shapes(mine), _shapes(theirs)
    name = next(name for name in {**one, **other} if one.get(name) != other.get(name))
    return f"{name} is {_shape(one.get(name))} there and {_shape(other.get(name))} when built again"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a scalar"
